"""Parquet files as sources of a stream: rows as dicts, or tables.

Each file is a part, and positions count rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sidestage.connectors.files_lines import check_same
from sidestage.connectors.files_reader import FilesReader, Paths, files_of, name_of
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Positions, Reader

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 8192


class _Placed(msgspec.Struct, frozen=True):
    """Where files are: what is said first, and without its name."""

    paths: Paths


class ParquetRows(_Placed, frozen=True, kw_only=True):
    """Rows as dicts by column: all columns, or those named. At most one row group is unpacked at a time."""

    columns: Sequence[str] | None = None
    may_be_none: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("parquet", self.paths)

    def open(self, resume: Positions) -> Reader[dict[str, Any]]:
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(files_of(self.paths, may_be_none=self.may_be_none), self._opened, resume)

    def _opened(self, path: Path, at: int) -> "_RowsFile":
        return _RowsFile(path, at, self.columns)


class ParquetTables(_Placed, frozen=True, kw_only=True):
    """Tables of Arrow: one item is a row group, or as many of its rows as ``rows`` allows."""

    columns: Sequence[str] | None = None
    rows: int = 1 << 20
    may_be_none: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise DefinitionError(f"A table cannot have {self.rows} rows.", hint="Say rows=1 or more.")

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of("parquet", self.paths)

    def open(self, resume: Positions) -> "Reader[pa.Table]":
        """Begin to read. Raises DataError if there is nothing to read."""
        return FilesReader(files_of(self.paths, may_be_none=self.may_be_none), self._opened, resume)

    def _opened(self, path: Path, at: int) -> "_TablesFile":
        return _TablesFile(path, at, self.columns, self.rows)


class _ParquetFile:
    """A file that is being read from a row on."""

    def __init__(self, path: Path, at: int, columns: Sequence[str] | None) -> None:
        import pyarrow as pa  # noqa: PLC0415 - heavy
        from pyarrow import parquet  # noqa: PLC0415

        self.at = at
        self._path = path
        self._errors: tuple[type[Exception], ...] = (pa.ArrowException, OSError)
        try:
            self._found = path.stat()
            self._file = parquet.ParquetFile(path)
        except FileNotFoundError as error:
            raise DataError(f"{path} is gone: it was there when reading began.") from error
        except self._errors as error:
            raise self._damaged(error) from error
        try:
            self._columns = self._checked(columns)
            self._require_rows(at)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _batches(self, most: int) -> "Iterator[pa.RecordBatch]":
        """Yield what comes from the position on, up to ``most`` rows at a time, never of two row groups."""
        begin = 0
        try:
            for group in range(self._file.metadata.num_row_groups):
                end = begin + self._file.metadata.row_group(group).num_rows
                skip, begin = max(0, self.at - begin), end
                if self.at >= end:
                    continue
                for batch in self._file.iter_batches(most, row_groups=[group], columns=self._columns):
                    if skip < batch.num_rows:
                        yield batch.slice(skip)
                    skip = max(0, skip - batch.num_rows)
        except self._errors as error:
            raise self._damaged(error) from error
        check_same(self._path, self._found)

    def _checked(self, columns: Sequence[str] | None) -> list[str] | None:
        if columns is None:
            return None
        there = self._file.schema_arrow.names
        missing = [column for column in columns if column not in there]
        if missing:
            raise DataError(f"{self._path} has no column {missing[0]!r}.", hint=f"It has {', '.join(there)}.")
        return list(columns)

    def _require_rows(self, count: int) -> None:
        there = self._file.metadata.num_rows
        if count > there:
            raise DataError(
                f"{self._path} has {there:,} rows; reading was to go on behind {count:,}.",
                hint="It is another file than was read before. Give each file a name of its own.",
            )

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"{self._path} cannot be read as Parquet: {error}.", hint="Is it complete, and a Parquet file?"
        )


class _RowsFile(_ParquetFile):
    """Gives rows as dicts."""

    def __init__(self, path: Path, at: int, columns: Sequence[str] | None) -> None:
        super().__init__(path, at, columns)
        self._left = self._batches(_ROWS)
        self._batch: pa.RecordBatch | None = None
        self._next = 0

    def take(self, limit: int) -> list[dict[str, Any]] | None:
        """Return the next rows; None at the end."""
        if self._batch is None or self._next >= self._batch.num_rows:
            self._batch, self._next = next(self._left, None), 0
            if self._batch is None:
                return None
        rows: list[dict[str, Any]] = self._batch.slice(self._next, limit).to_pylist()
        self._next += len(rows)
        self.at += len(rows)
        return rows


class _TablesFile(_ParquetFile):
    """Gives tables."""

    def __init__(self, path: Path, at: int, columns: Sequence[str] | None, rows: int) -> None:
        super().__init__(path, at, columns)
        self._left = self._batches(rows)

    def take(self, limit: int) -> "list[pa.Table] | None":
        """Return the next table; None at the end. There is always room for one."""
        import pyarrow as pa  # noqa: PLC0415 - heavy

        del limit
        batch = next(self._left, None)
        if batch is None:
            return None
        self.at += batch.num_rows
        return [pa.Table.from_batches([batch])]
