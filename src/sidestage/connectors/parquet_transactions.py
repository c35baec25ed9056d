"""Write Parquet files in transactions that carry how far a stream has come."""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.parquet_manifest import ASIDE, Notes
from sidestage.connectors.parquet_tables import Tables
from sidestage.data.syncing import sync_folder
from sidestage.stream.contract import Progress, Reader, TransactionLost

_GROUP = 128 * 1024
"""How many rows are kept in memory, and written together."""


class ParquetTransactionalWriter:
    """Writes files aside; ``commit`` makes them visible together with the stream's progress."""

    def __init__(self, folder: Path, schema: pa.Schema | None, rows: int) -> None:
        self._folder = folder
        self._tables = Tables(schema)
        self._most = rows
        self._notes = Notes(folder)
        self._manifest = self._notes.begin()
        self._names: list[str] = []
        self._waiting: list[pa.Table] = []
        self._held = 0
        self._part: _Part | None = None
        self._problem: BaseException | None = None

    def write(self, items: Sequence[Any]) -> None:
        """Add items to the transaction.

        Raises Refused for items that are no rows of these columns: the others are added. Raises
        DefinitionError if the first rows do not say what the types are; TransactionLost if the disk fails, or
        somebody else has opened the folder.
        """
        self._require_whole()
        tables, refused = self._tables.of(items)
        for table in tables:
            self._waiting.append(table)
            self._held += table.num_rows
        if self._held >= _GROUP:
            self._put_waiting()
        if refused is not None:
            raise refused

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        """Make visible what was written, and note ``progress`` with it.

        Raises ConnectorError of class "stale" if another writer has opened the folder: nothing is visible
        then. Raises OSError; whether it is committed ``ParquetTransactionalFolder.progress`` tells then.
        """
        del readers  # files know nothing of sources
        self._require_whole()
        self._put_waiting()
        try:
            self._end_part()
            sync_folder(self._notes.place_of(self._manifest))
            self._manifest = self._notes.commit(self._manifest, progress, self._names)
        except FileNotFoundError as error:  # cleared away by whoever opened the folder
            self._problem = error
            raise _fenced(self._folder) from error
        except BaseException as error:
            self._problem = error
            raise
        self._names = []

    def close(self) -> None:
        """Undo what was not committed."""
        part, self._part = self._part, None
        self._waiting, self._held = [], 0
        if part is not None:
            part.drop()
        self._problem = ValueError(f"{self._folder} is closed.")
        shutil.rmtree(self._notes.place_of(self._manifest), ignore_errors=True)

    def _require_whole(self) -> None:
        if self._problem is not None:
            raise self._lost(self._problem)

    def _lost(self, error: BaseException) -> TransactionLost:
        self._problem = error
        return TransactionLost(f"Writing {self._folder} failed, and undid the transaction: {error}")

    def _put_waiting(self) -> None:
        """Write what is kept in memory, into as many files as it takes."""
        if not self._held:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting, self._held = [], 0
        try:
            while table.num_rows:
                part = self._part = self._part or self._new_part(table.schema)
                part.put(table.slice(0, self._most - part.rows))
                table = table.slice(part.put_last)
                if part.rows >= self._most:
                    self._end_part()
        except Exception as error:
            raise self._lost(error) from error

    def _new_part(self, schema: pa.Schema) -> "_Part":
        name = f"part-{self._manifest.commits + 1:08}-{len(self._names):04}.parquet"
        part = _Part(self._notes.place_of(self._manifest) / f"{name}{ASIDE}", schema)
        self._names.append(name)
        return part

    def _end_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.end()


class _Part:
    """A file that is being written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file: IO[bytes] = path.open("xb")
        self._writer = parquet.ParquetWriter(self._file, schema, compression="zstd")
        self.rows = 0
        self.put_last = 0

    def put(self, table: pa.Table) -> None:
        """Add rows."""
        self._writer.write_table(table, _GROUP)
        self.put_last = table.num_rows
        self.rows += table.num_rows

    def end(self) -> None:
        """Complete the file, and have it on the disk."""
        try:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def drop(self) -> None:
        """Leave the file as it is."""
        with contextlib.suppress(Exception):  # it is of no use to anybody
            self._writer.close()
        with contextlib.suppress(Exception):
            self._file.close()


def _fenced(folder: Path) -> ConnectorError:
    return ConnectorError(
        f"Writing {folder} failed: what was written aside is gone, as when somebody else opens the folder.",
        hint="Nothing of this transaction is seen. One stream at a time writes to a folder.",
        failure_class="stale",
    )
