"""Contract of a place where versions lie.

What an implementer must keep, whatever the place:

- *Written means durable.* ``write`` returns only after the bytes and their name survive a power cut.
- *Aside.* What was written can be seen by nobody who does not hold its ``Stored``; making it visible is the
  catalog's business. Nothing that was written is ever changed.
- *All or nothing.* A write that fails, for whatever reason, leaves nothing behind, or only what ``orphans``
  finds later. The version that was current before is untouched.
- *Bounded memory.* However long ``batches`` is, only a bounded part of it is held at a time.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from sidestage.data.version import Stored


class Substrate(Protocol):
    """Writes, finds, verifies and removes the files of versions."""

    def write(
        self,
        dataset: str,
        partition: str,
        version_id: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
    ) -> Stored:
        """Write one version aside. ``batches`` is closed when it can be, whatever happens.

        Raises OutputError if a batch is not of the schema, DataError if there is no space or the version is
        there already, and whatever ``batches`` raises.
        """
        ...

    def path(self, stored: Stored) -> Path:
        """Return where the version lies. Raises DataError for a path that is not one of this place's."""
        ...

    def verify(self, stored: Stored) -> None:
        """Read the version's bytes again. Raises DataError, naming what differs from what was written."""
        ...

    def orphans(self, known: Collection[str], *, unchanged_since: datetime) -> Iterator[Path]:
        """Yield what unfinished writes left, temporary files included, as paths relative to the root.

        That is: what is not in ``known`` (paths as in ``Stored``) and has not been changed after that moment.
        Never anything this place did not write.
        """
        ...

    def remove(self, relative: str | Path) -> None:
        """Remove one file; does nothing if it is gone. Raises DataError for what this place did not write."""
        ...
