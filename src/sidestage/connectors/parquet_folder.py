"""Folders of Parquet files as sinks: of one file for each write, or of transactions.

Items are rows (mappings by column), lists of rows as ``Stream.batch`` makes them, or tables of Arrow. Without
a ``schema`` the first rows decide what columns there are and of which types; an item that does not fit is
refused. Files lie aside while they are written, and have their names once they are complete and synced.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sidestage.clock import Clock, SystemClock
from sidestage.errors import DefinitionError
from sidestage.stream.contract import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from sidestage.connectors.parquet_transactions import ParquetTransactionalWriter
    from sidestage.connectors.parquet_writer import ParquetWriter


class _Placed(msgspec.Struct, frozen=True):
    """Where the folder is: what is said first, and without its name."""

    path: Path | str


class ParquetFolder(_Placed, frozen=True, kw_only=True):
    """A folder in which each write makes a file: ``part-TIME-WRITER-NUMBER.parquet``.

    Put many items together before, as with ``batch(100_000, within=60.0)``. Several workers, and processes
    of one machine, may write to it at the same time. After a crash items that were not acknowledged come
    again, perhaps a second time.
    """

    schema: "pa.Schema | None" = None
    clock: Clock = msgspec.field(default_factory=SystemClock)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"parquet:{self.path}"

    def open(self) -> "ParquetWriter":
        """Begin to write; the folder is made if need be. Raises OSError."""
        from sidestage.connectors.parquet_writer import ParquetWriter  # noqa: PLC0415 - heavy

        return ParquetWriter(Path(self.path), self.schema, self.clock)


class ParquetTransactionalFolder(_Placed, frozen=True, kw_only=True):
    """A folder that keeps how far a stream has come, together with the items: each is there exactly once.

    Files are named ``part-COMMIT-NUMBER.parquet`` and have at most ``rows`` rows; a transaction has one at
    least, if it has items. What was committed is noted in ``_sidestage/manifest.json``, which is replaced as
    a whole; only then the files get their names. Whoever is killed between the two is caught up with when the
    folder is opened again: what readers see is committed, and may for so long lack the last transaction.
    One writer at a time, on one machine; opening fences off an earlier one.
    """

    schema: "pa.Schema | None" = None
    rows: int = 1_000_000

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise DefinitionError(f"A file cannot have {self.rows} rows.", hint="Say rows=1 or more.")

    @property
    def name(self) -> str:
        """What people call it."""
        return f"parquet:{self.path}"

    def open(self) -> "ParquetTransactionalWriter":
        """Begin to write, and end what an earlier writer left.

        Raises DataError if the folder holds files of which nothing is noted; OSError.
        """
        from sidestage.connectors.parquet_transactions import (  # noqa: PLC0415 - heavy
            ParquetTransactionalWriter,
        )

        return ParquetTransactionalWriter(Path(self.path), self.schema, self.rows)

    def progress(self) -> Progress:
        """Return what was committed last, after its files have their names; number 0 if nothing was.

        Raises DataError if the note of it is damaged; OSError.
        """
        from sidestage.connectors.parquet_manifest import Notes  # noqa: PLC0415 - of this place alone

        return Notes(Path(self.path)).progress()
