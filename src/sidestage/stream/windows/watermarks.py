"""Event time: where it comes from, and how far the stream has come in it.

The watermark says: no more items before this time are expected. Per source partition it is the greatest time
seen, less the disorder that is allowed; for the stream it is the least over all partitions that are not idle.
It never goes back.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError

EARLIEST = -62_135_596_800
"""The year 1, in seconds since the epoch."""

LATEST = 253_402_300_800
"""The year 10000; times in milliseconds lie beyond, so that they are noticed."""


class Moment(msgspec.Struct, frozen=True):
    """A reading of the clock: ``wall`` in seconds since the epoch, ``monotonic`` for durations."""

    wall: float
    monotonic: float

    @classmethod
    def of(cls, clock: Clock) -> "Moment":
        """Read the clock."""
        return cls(clock.now().timestamp(), clock.monotonic())


class EventTime(msgspec.Struct, frozen=True, kw_only=True):
    """Where times come from, and how much disorder is allowed. All durations are seconds.

    - ``at``: called with each item, returns its time: seconds since the epoch, or an aware datetime. None:
      items get the time at which they are taken in, which does not depend on their producers' clocks.
    - ``disorder``: how far behind the greatest time seen an item may lie without being late
    - ``idle``: a partition from which nothing came for so long does not hold the others back; None: it does,
      for ever
    - ``ahead``: how far an item's time may lie ahead of the clock; None: any time is believed
    - ``beyond``: what happens to an item beyond that: set aside as early, or stamped with the clock's time

    Raises DefinitionError for what makes no sense.
    """

    at: Callable[[Any], float | datetime] | None = None
    disorder: float = 0
    idle: float | None = None
    ahead: float | None = None
    beyond: Literal["aside", "stamp"] = "aside"

    def __post_init__(self) -> None:
        for name, given in (("disorder", self.disorder), ("idle", self.idle), ("ahead", self.ahead)):
            if given is None and name != "disorder":
                continue
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= LATEST:
                raise DefinitionError(
                    f"EventTime({name}={ascii(given)[:60]}) makes no sense.",
                    hint="Give seconds from zero up.",
                )
        if self.beyond not in {"aside", "stamp"}:
            raise DefinitionError(
                f"EventTime(beyond={self.beyond!r}) makes no sense.", hint="Give 'aside' or 'stamp'."
            )
        if self.at is not None and not callable(self.at):
            raise DefinitionError(
                f"EventTime(at={ascii(self.at)[:60]}) cannot be called.",
                hint='Give a function of the item, such as operator.itemgetter("time").',
            )

    def too_early(self, time: float, stamp: float) -> str:
        """Say why an item is set aside as early. ``stamp`` is the clock's time."""
        return f"its time lies {time - stamp:.3f} s ahead of the clock; {self.ahead:g} s are allowed"


class Watermarks:
    """How far each partition has come, and the stream as a whole.

    A chunk belongs to one partition: ``begin`` it, call ``reach`` with each new greatest time, ``finish`` it.
    """

    def __init__(self, time: EventTime) -> None:
        self.watermark = -math.inf
        self.top = -math.inf
        self.stamp = -math.inf
        self.others = math.inf
        self._ingest = time.at is None
        self._disorder = time.disorder
        self._idle_after = time.idle
        self._tops: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}
        self._idle: set[Hashable] = set()
        self._partition: Hashable = None
        self._latest = -math.inf

    @property
    def idle(self) -> frozenset[Hashable]:
        """The partitions that do not hold the others back now."""
        return frozenset(self._idle)

    def tops(self) -> dict[Hashable, float]:
        """Return the greatest time that was seen of each partition; minus infinity where none was."""
        return dict(self._tops)

    def watch(self, partition: Hashable, now: Moment) -> None:
        """Let a partition hold the watermark back from now on, though nothing came from it yet."""
        if partition not in self._tops:
            self._tops[partition] = -math.inf
            self._seen[partition] = now.monotonic

    def forget(self, partition: Hashable) -> None:
        """Leave a partition out: it ended, or is read by somebody else."""
        self._tops.pop(partition, None)
        self._seen.pop(partition, None)
        self._idle.discard(partition)

    def begin(self, partition: Hashable, now: Moment) -> float:
        """Begin a chunk of a partition, which is therefore not idle. Return the watermark."""
        self.watch(partition, now)
        self._seen[partition] = now.monotonic
        self._read(now)
        self._partition = partition
        self.top = self._tops[partition]
        self.others = self._least(name for name in self._tops if name != partition)
        return self.reach(self.top)

    def reach(self, top: float) -> float:
        """Say that the chunk has got to this time. Return the watermark."""
        self.top = max(self.top, top)
        reached = min(self.top - self._disorder, self.others)
        self.watermark = max(self.watermark, reached)
        return self.watermark

    def finish(self) -> None:
        """End the chunk."""
        self._tops[self._partition] = self.top

    def tick(self, now: Moment) -> float:
        """Let time pass: partitions become idle, and where items get the clock's time it goes on by itself.

        When all are idle nothing holds back anything, so the watermark is that of the one furthest ahead.
        """
        self._read(now)
        if self._ingest:
            reached = self.stamp - self._disorder
        elif self._tops and len(self._idle) == len(self._tops):
            reached = max(self._tops.values()) - self._disorder
        else:
            reached = self._least(self._tops) if self._tops else -math.inf
        self.watermark = max(self.watermark, reached)
        return self.watermark

    def stay(self, now: Moment) -> None:
        """Let no partition become idle for now: nothing comes because nobody reads them."""
        for partition in self._seen.keys() - self._idle:
            self._seen[partition] = now.monotonic

    def alarm(self, due: float) -> float:
        """Return a time below which the chunk may go without the watermark getting to ``due``.

        It may be a little too low, for rounding: then ``reach`` tells.
        """
        if due > self.others or self.others == -math.inf:
            return math.inf
        if math.isinf(due):
            return due
        rounding = 4 * math.ulp(abs(due) + self._disorder)
        return due + self._disorder - rounding

    def record(self) -> tuple[Any, ...]:
        """Return all that is needed to go on later."""
        return (self.watermark, self.stamp, self._latest, self._tops, self._seen, self._idle)

    def resume(self, record: tuple[Any, ...], now: Moment) -> None:
        """Go on with what ``record`` returned. The time between does not make partitions idle."""
        self.watermark, self.stamp, latest, self._tops, seen, self._idle = record
        passed = now.monotonic - latest if math.isfinite(latest) else 0.0
        self._seen = {partition: at + passed for partition, at in seen.items()}
        self._latest = now.monotonic

    def _read(self, now: Moment) -> None:
        """Take in the clock. The wall clock may be set back; what is stamped with it stays in order."""
        self.stamp = max(self.stamp, now.wall)
        self._latest = max(self._latest, now.monotonic)
        if self._idle_after is not None:
            quiet = self._latest - self._idle_after
            self._idle = {partition for partition, at in self._seen.items() if at < quiet}

    def _least(self, names: Iterable[Hashable]) -> float:
        """Return the least watermark of these partitions, leaving out the idle ones."""
        if self._ingest:
            return math.inf
        tops = (self._tops[name] for name in names if name not in self._idle)
        return min(tops, default=math.inf) - self._disorder
