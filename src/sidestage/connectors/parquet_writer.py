"""Write Parquet files aside, and give each its name when it is on the disk."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from sidestage.clock import Clock
from sidestage.connectors.parquet_manifest import ASIDE
from sidestage.connectors.parquet_tables import Tables
from sidestage.data.syncing import sync_folder


class ParquetWriter:
    """Makes a file of each list of items, used by one thread."""

    def __init__(self, folder: Path, schema: pa.Schema | None, clock: Clock) -> None:
        self._folder = folder
        self._tables = Tables(schema)
        self._number = 0
        self._name = f"{clock.now():%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)

    def write(self, items: Sequence[Any]) -> None:
        """Write a file, and return when it is on the disk under its name.

        Raises Refused for items that are no rows of these columns: the others are written. Raises
        DefinitionError if the first rows do not say what the types are; OSError if nothing was written.
        """
        tables, refused = self._tables.of(items)
        if tables:
            self._number += 1
            name = f"part-{self._name}-{self._number:06}.parquet"
            self._put(pa.concat_tables(tables), self._folder / name)
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Do nothing: all that was written is in place."""

    def _put(self, table: pa.Table, path: Path) -> None:
        aside = path.with_name(f".{path.name}{ASIDE}")
        with _new(aside) as file:
            try:
                parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
                aside.rename(path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)


def _new(path: Path) -> IO[bytes]:
    """Return a new file that others know to be written to, as long as it is open."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was swept away before it was locked


def _sweep(folder: Path) -> None:
    """Remove what a crash left half-written: what nobody is writing to any more."""
    for path in folder.glob(f".part-*{ASIDE}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
