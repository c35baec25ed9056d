"""What all kinds of windows share: how much is open, and what a call has led to so far."""

from collections.abc import Hashable
from typing import Any

from sidestage.errors import WindowsFull
from sidestage.stream.windows.aggregate import Aggregate, bytes_of
from sidestage.stream.windows.aggregates import Count
from sidestage.stream.windows.plan import (
    EarlyItem,
    Failure,
    Kind,
    LateItem,
    Outcome,
    WindowCounts,
    Windowed,
    WindowPlan,
)


class Ledger:
    """Budget, counts and the results of the call that is going on."""

    def __init__(self, plan: WindowPlan, cell_bytes: int) -> None:
        self.aggregate: Aggregate = plan.aggregate
        self.counting = isinstance(plan.aggregate, Count)
        self.counts = WindowCounts()
        self.cells = 0
        self.bytes = 0
        self.cell_bytes = cell_bytes + (0 if self.counting else plan.aggregate.size(plan.aggregate.zero()))
        self.limit = plan.budget.cells
        self.bytes_limit = plan.budget.bytes
        self.allowed: int | None = None
        """Bytes that the stream's memory leaves to these windows."""
        self.emitted: list[Windowed[Any, Any]] = []
        self.late: list[LateItem] = []
        self.failures: list[Failure] = []

    def close(self, watermark: float, early: list[EarlyItem], failures: list[Failure]) -> Outcome:
        """End the call: count and return what it led to."""
        failures = sorted(
            [*failures, *self.failures], key=lambda each: -1 if each.place is None else each.place
        )
        known = None if watermark == float("-inf") else watermark
        outcome = Outcome(self.emitted, self.late, early, failures, known)
        counts = self.counts
        counts.late += len(outcome.late)
        counts.early += len(early)
        counts.failed += sum(failure.place is not None for failure in failures)
        counts.emitted += len(outcome.emitted)
        counts.updates += sum(each.kind == "late update" for each in outcome.emitted)
        self.emitted, self.late, self.failures = [], [], []
        return outcome

    def cell_size(self, key: Hashable) -> int:
        """Return about how many bytes one more cell of this key takes."""
        return self.cell_bytes + bytes_of(key)

    def fits(self, cells: int, size: int) -> bool:
        """Return whether so many more cells, of so many bytes together, are within the budget."""
        more = self.bytes + size
        return (
            self.cells + cells <= self.limit
            and (self.bytes_limit is None or more <= self.bytes_limit)
            and (self.allowed is None or more <= self.allowed)
        )

    def admit(self, cells: int, size: int) -> None:
        """Raise WindowsFull unless so many more cells, of so many bytes together, are within the budget."""
        if self.fits(cells, size):
            return
        told = f"{self.cells:,} windows of keys are open, about {self.bytes:,} bytes;"
        if self.allowed is not None and self.bytes + size > self.allowed:
            raise WindowsFull(
                f"{told} the memory of the stream leaves {self.allowed:,} to windows.",
                hint="Raise Settings(memory=...), shorten windows or lateness, or use fewer keys.",
            )
        most = "" if self.bytes_limit is None else f" and {self.bytes_limit:,} bytes"
        raise WindowsFull(
            f"{told} the budget is {self.limit:,}{most}.",
            hint="Raise WindowPlan(budget=...), shorten windows or lateness, or use fewer keys.",
        )

    def result(self, count: int, state: Any) -> Any:
        """Return what is given out for a state."""
        return count if self.counting else self.aggregate.result(state)

    def emit(
        self, key: Hashable, bounds: tuple[float, float], value: Any, count: int, kind: Kind, revision: int
    ) -> None:
        """Give out a window."""
        start, end = bounds
        self.emitted.append(Windowed(key, float(start), float(end), value, count, kind, revision))

    def fail(
        self,
        key: Hashable,
        bounds: tuple[float, float],
        error: Exception,
        count: int,
        kind: Kind,
        revision: int,
    ) -> None:
        """Note that the result of a window could not be computed."""
        start, end = bounds
        window = Windowed(key, float(start), float(end), None, count, kind, revision)
        self.failures.append(Failure(None, error, window))


def check_key(key: Hashable) -> None:
    """Raise for a key of which nothing can be found again: not hashable, or not equal to itself."""
    hash(key)
    if key != key:  # noqa: PLR0124 - only nan differs from itself
        raise ValueError(f"The key is {key!r}, which is not equal to itself, so it is the key of nothing.")
