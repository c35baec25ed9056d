"""The store in memory: the whole contract in pure Python, for tests and simulations."""

from collections.abc import Callable
from typing import Self

from sidestage.testing.memory_catalog import MemoryCatalog
from sidestage.testing.memory_claims import MemoryClaims
from sidestage.testing.memory_moves import MemoryMoves
from sidestage.testing.memory_runs import MemoryRuns
from sidestage.testing.memory_services import MemoryServices
from sidestage.testing.memory_settle import MemorySettle
from sidestage.testing.memory_tables import Tables
from sidestage.testing.memory_ticks import MemoryTicks


class MemoryEar:
    """An ear for changes of tables in memory. It cannot be waited for, only asked."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known = tables.changes

    def fileno(self) -> int | None:
        """Return None: nothing becomes readable."""
        return None

    def heard(self) -> bool:
        """Return whether anything may have changed since the last call."""
        known, self._known = self._known, self._tables.changes
        return known != self._known

    def close(self) -> None:
        """Stop listening."""


class MemoryStore(
    MemoryCatalog, MemoryMoves, MemoryRuns, MemoryClaims, MemorySettle, MemoryTicks, MemoryServices
):
    """The catalog and the record of runs, kept only while the process lives. A ``Store``.

    Usable from several threads. Each call is atomic: one that raises has changed nothing.
    """

    def again(self) -> Self:
        """Return another handle on the same tables, as another worker would open the same database."""
        return type(self)(self._tables)

    def listen(self) -> MemoryEar:
        """Return an ear for changes that may interest a worker. The caller closes it."""
        return MemoryEar(self._tables)

    def close(self) -> None:
        """Release the handle; what others opened stays usable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def open_memory_store(clock: Callable[[], float]) -> MemoryStore:
    """Return a store that is empty. ``clock`` gives the seconds that leases are measured by.

    A test turns it by hand: ``open_memory_store(HandClock().monotonic)``.
    """
    return MemoryStore(Tables(clock))
