"""What joins of two streams have to say to Prometheus: how much waits for the other side."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from sidestage.stream.joins.intervals import IntervalState
from sidestage.stream.observing.exposition import Family, lines_of

ROWS = Family("pipeline_join_waiting_rows", "gauge", "Rows that wait for the other side of a join.")
BYTES = Family("pipeline_join_waiting_bytes", "gauge", "What they take, if they are weighed.")
AHEAD = Family(
    "pipeline_join_left_ahead_seconds",
    "gauge",
    "How far the left is ahead of the right in time, or behind it.",
)
JOIN_FAMILIES = (ROWS, BYTES, AHEAD)


def _ahead(states: Sequence[IntervalState]) -> float | None:
    """Return how far the left has come beyond the right; None while one of them is not known."""
    left, right = (max((each.standing.reached[side] for each in states), default=-inf) for side in (0, 1))
    return left - right if min(left, right) > -inf else None


def _weigh(states: Sequence[IntervalState]) -> bool:
    return any(each.weighs for each in states)


_VALUES: tuple[tuple[Family, Callable[[Sequence[IntervalState]], float | None]], ...] = (
    (ROWS, lambda states: sum(each.rows for each in states)),
    (BYTES, lambda states: sum(each.estimated_bytes for each in states) if _weigh(states) else None),
    (AHEAD, _ahead),
)


def of_joins(states: Mapping[str, Sequence[IntervalState]]) -> str:
    """Return the metrics of joins: the states of each one's workers, by its name."""
    if not states:
        return ""
    return "".join(
        lines_of(family, ((name, value(some)) for name, some in states.items())) for family, value in _VALUES
    )
