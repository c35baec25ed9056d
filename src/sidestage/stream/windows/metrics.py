"""What windows have to say to Prometheus: what is open, what came too late, how far time has come."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from sidestage.stream.observing.exposition import Family, lines_of
from sidestage.stream.windows.state import WindowState

OPEN = Family("pipeline_window_open", "gauge", "Pairs of key and window that are kept.")
RESULTS = Family("pipeline_window_results_total", "counter", "Results that windows gave out.")
LATE = Family("pipeline_window_late_total", "counter", "Items that came when all their windows were gone.")
EARLY = Family("pipeline_window_early_total", "counter", "Items whose time lay too far ahead of the clock.")
WATERMARK = Family(
    "pipeline_window_watermark_seconds", "gauge", "Time that windows have come to, in seconds since 1970."
)
WINDOW_FAMILIES = (OPEN, RESULTS, LATE, EARLY, WATERMARK)

_VALUES: tuple[tuple[Family, Callable[[Sequence[WindowState]], float | None]], ...] = (
    (OPEN, lambda states: sum(each.open_windows for each in states)),
    (RESULTS, lambda states: sum(each.counts.emitted for each in states)),
    (LATE, lambda states: sum(each.counts.late for each in states)),
    (EARLY, lambda states: sum(each.counts.early for each in states)),
    (WATERMARK, lambda states: _least(each.watermark for each in states)),
)


def of_windows(states: Mapping[str, Sequence[WindowState]]) -> str:
    """Return the metrics of stages with windows: the states of each one's workers, by its name."""
    if not states:
        return ""
    return "".join(
        lines_of(family, ((name, value(some)) for name, some in states.items())) for family, value in _VALUES
    )


def _least(watermarks: Iterable[float | None]) -> float | None:
    """Return the least, which is that of the stage; None while one of them is not known."""
    known = list(watermarks)
    return None if None in known or not known else min(each for each in known if each is not None)
