"""What the counts of a stream say: who is busy, who holds the others up, how many workers would do."""

import math
from collections.abc import Sequence

import msgspec

from sidestage.stream.observing.metrics import BOUNDS, StageCounts

_LEAST_BUFFER = 4
_HARDLY_BUSY = 0.1
"""The share of its time below which even the slowest stage waits for items, rather than they for it."""
_MOST_WORKERS = 100
"""More than that nobody is advised to take, however fast the other stages are."""


class Load(msgspec.Struct, frozen=True):
    """How busy one stage was. ``busy`` is the share of its workers' time; ``per_second`` what it could do."""

    name: str
    workers: int
    busy: float
    per_second: float
    seconds_per_item: float
    buffer: int


def loads(stages: Sequence[StageCounts], seconds: float) -> tuple[Load, ...]:
    """Return how busy each stage was in so many seconds."""
    return tuple(
        Load(
            each.name,
            each.workers,
            each.seconds / (each.workers * seconds) if seconds > 0 else 0.0,
            each.workers / each.seconds_per_item if each.seconds_per_item else math.inf,
            each.seconds_per_item,
            buffer_for(each),
        )
        for each in stages
    )


def bottleneck(stages: Sequence[StageCounts], seconds: float) -> tuple[Load, int] | None:
    """Return the stage that holds the others up, and with how many workers it would not; None if idle.

    That many could do as much as the slowest of the others.
    """
    found = [load for load in loads(stages, seconds) if load.busy > 0]
    if not found:
        return None
    slowest = min(found, key=lambda load: load.per_second)
    others = [load.per_second for load in found if load is not slowest]
    if not others:
        return slowest, slowest.workers
    return slowest, max(slowest.workers, math.ceil(min(others) * slowest.seconds_per_item))


def advice(stages: Sequence[StageCounts], seconds: float) -> str:
    """Return the bottleneck and what to do about it, as a sentence."""
    found = bottleneck(stages, seconds)
    if found is None:
        return "Nothing has been done yet."
    load, balanced = found
    if load.busy < _HARDLY_BUSY:
        return f"No stage holds the others up: {load.name} is {load.busy:.0%} busy; the source sets the pace."
    said = f"{load.name} is the bottleneck: {_workers(load.workers)} {load.busy:.0%} busy"
    if balanced > max(_MOST_WORKERS, load.workers):
        return f"{said}; more would help."
    return f"{said}; {balanced} would balance." if balanced > load.workers else f"{said}."


def buffer_for(stage: StageCounts) -> int:
    """Return how many items should be able to wait before a stage: twice its P99 over its median, 4 at least.

    The rule hides the unevenness of a stage from its neighbours and no more ("Pipeline", Buffer sizing).
    """
    median, high = quantile(stage.buckets, 0.5), quantile(stage.buckets, 0.99)
    if not median or not math.isfinite(high):
        return _LEAST_BUFFER
    return max(math.ceil(2 * high / median), _LEAST_BUFFER)


def quantile(buckets: Sequence[int], share: float) -> float:
    """Return the upper bound, in seconds, of the bucket that this share of the items fits in; 0 if none."""
    wanted = share * sum(buckets)
    if not wanted:
        return 0.0
    seen = 0
    for bound, count in zip((*BOUNDS, math.inf), buckets, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return math.inf


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
