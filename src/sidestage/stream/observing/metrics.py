"""What is counted of each stage: once per chunk, by each worker for itself, added up when somebody asks."""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from sidestage.stream.chunk import Chunk
from sidestage.stream.observing.spans import Trail
from sidestage.stream.observing.watch import Watch

BOUNDS = tuple(base * 10.0**power for power in range(-7, 3) for base in (1.0, 2.5, 5.0))
"""Upper bounds of the duration histogram, in seconds per item."""


class Meter:
    """One worker's counts of one stage. Written by that worker only.

    ``cpu`` is the processor time of ``cpu_items`` of its items, in seconds. ``is_elsewhere``: it was used by
    threads or processes other than the worker's.
    """

    __slots__ = ("buckets", "cpu", "cpu_items", "is_elsewhere", "processed", "seconds", "stage", "watch")

    def __init__(self, stage: str = "", watch: Watch | None = None) -> None:
        self.stage = stage
        self.watch = watch
        self.processed = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.cpu = 0.0
        self.cpu_items = 0
        self.is_elsewhere = False

    def took(self, items: int, seconds: float) -> None:
        """Note that so many items took so long, all together."""
        if items:
            self.processed += items
            self.seconds += seconds
            self.buckets[bisect_left(BOUNDS, seconds / items)] += items
            if self.watch is not None and self.watch.on:
                cpu = self.watch.lap(self.stage, items, seconds)
                if cpu is not None and not self.is_elsewhere:
                    self.cpu += cpu
                    self.cpu_items += items

    def used(self, items: int, cpu: float) -> None:
        """Note how much processor time items took elsewhere."""
        self.cpu += cpu
        self.cpu_items += items

    def trail(self, chunk: Chunk) -> Trail | None:
        """Return how far the trace of the chunk that the worker is at has come."""
        return chunk.trail if self.watch is None else self.watch.trail

    def follow(self, trail: Trail | None) -> None:
        """Go on with the trace of something that was held back until now."""
        if self.watch is not None:
            self.watch.follow(trail)


class StageCounts(msgspec.Struct, frozen=True):
    """What one stage did so far. ``pending`` items wait before it; ``seconds`` is the time spent in it.

    ``makeshift`` items got a stale or default answer of a lookup; None for a stage that looks nothing up.
    ``cpu`` is the processor time that it took, estimated from some of its chunks, in seconds; None if none
    was looked at. ``busy`` is the share of its workers' time lately (0 to 1), and ``buffer`` how many
    items may wait before it, 0 if it is done by the worker of the stage before. ``cancelled`` items were
    given up because somebody cancelled the worker that had them (they count as errors, too) or the stage.
    """

    name: str
    workers: int
    pending: int
    processed: int
    errors: int
    seconds: float
    buckets: tuple[int, ...]
    makeshift: int | None = None
    cpu: float | None = None
    busy: float = 0.0
    buffer: int = 0
    cancelled: int = 0

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
        total.cpu += each.cpu
        total.cpu_items += each.cpu_items
    return total


def estimated_cpu(meter: Meter) -> float | None:
    """Return the processor time of all items, from those that were looked at."""
    return meter.cpu / meter.cpu_items * meter.processed if meter.cpu_items else None
