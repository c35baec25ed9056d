"""What is counted of each stage: once per chunk, by each worker for itself, added up when somebody asks."""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

BOUNDS = tuple(base * 10.0**power for power in range(-7, 3) for base in (1.0, 2.5, 5.0))
"""Upper bounds of the duration histogram, in seconds per item."""


class Meter:
    """One worker's counts of one stage. Written by that worker only."""

    __slots__ = ("buckets", "processed", "seconds")

    def __init__(self) -> None:
        self.processed = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)

    def took(self, items: int, seconds: float) -> None:
        """Note that so many items took so long, all together."""
        if items:
            self.processed += items
            self.seconds += seconds
            self.buckets[bisect_left(BOUNDS, seconds / items)] += items


class StageCounts(msgspec.Struct, frozen=True):
    """What one stage did so far. ``pending`` items wait before it; ``seconds`` is the time spent in it.

    ``makeshift`` items got a stale or default answer of a lookup; None for a stage that looks nothing up.
    """

    name: str
    workers: int
    pending: int
    processed: int
    errors: int
    seconds: float
    buckets: tuple[int, ...]
    makeshift: int | None = None

    @property
    def seconds_per_item(self) -> float:
        """The mean time that an item takes."""
        return self.seconds / self.processed if self.processed else 0.0


def add_up(meters: Iterable[Meter]) -> Meter:
    """Return the sum of meters."""
    total = Meter()
    for each in meters:
        total.processed += each.processed
        total.seconds += each.seconds
        total.buckets = [ours + theirs for ours, theirs in zip(total.buckets, each.buckets, strict=True)]
    return total
