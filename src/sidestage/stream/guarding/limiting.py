"""Stages that let items pass at a rate: all of them, or those of each key."""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from sidestage.clock import Clock
from sidestage.policy.rate import Bucket, Buckets
from sidestage.stream.chunk import Chunk
from sidestage.stream.columns.frames import weight_of
from sidestage.stream.failing import Desk, Halt, Stopped
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step
from sidestage.stream.scopes.scope import Scope

_LOOK_SECONDS = 0.1
_AT_MOST = 3600.0
"""Seconds of a single wait: longer ones are begun again, since no lock waits for ever so long."""


class Limiter(Onward):
    """Base of stages that wait for leave to pass something on; what follows them is seen to meanwhile."""

    def __init__(self, clock: Clock, halt: Halt, meter: Meter, following: Step) -> None:
        super().__init__(meter, following)
        self._clock = clock
        self._halt = halt
        self.scope: Scope | None = None
        """Whether the stage was cancelled, where it may be: then nothing waits here any more."""

    @property
    def _is_cancelled(self) -> bool:
        return self.scope is not None and self.scope.error is not None

    def _give_up(self, chunk: Chunk, items: int) -> None:
        """Settle what waits of a chunk: the stage was cancelled."""
        assert self.scope is not None
        self.scope.give_up(items)
        chunk.settle()

    def _wait(self, until: float) -> None:
        """Wait until then, or until something further on is due, and have that done. Raises Stopped."""
        due = self._next.due()
        if due is not None:
            until = min(until, due)
        seconds = min(until - self._clock.monotonic(), _AT_MOST)
        if self.scope is not None:
            if self._is_cancelled:
                return
            seconds = min(seconds, _LOOK_SECONDS)
        if self._halt.is_set or (seconds > 0 and self._halt.wait(seconds)):
            raise Stopped
        now = self._clock.monotonic()
        if due is not None and now >= due:
            self._next.tick(now)


class LimitOperator(Limiter):
    """Lets items pass at a rate. What may pass goes on at once; the rest, and all behind it, waits."""

    def __init__(self, bucket: Bucket, clock: Clock, halt: Halt, meter: Meter, following: Step) -> None:
        super().__init__(clock, halt, meter, following)
        self._bucket = bucket

    def push(self, chunk: Chunk) -> None:
        """Take a chunk, and return when all of it has passed. Raises Stopped."""
        came = len(chunk.items)
        self._meter.took(came, 0.0)  # waiting is no work
        at = 0
        while True:
            if self._is_cancelled:
                self._give_up(chunk, came - at)
                return
            passed, wait = self._bucket.take(came - at)
            until = self._clock.monotonic() + wait
            at += passed
            if at == came:
                self._next.push(chunk if passed == came else part_of(chunk, range(at - passed, at)))
                return
            if passed:
                chunk.hold()
                self._push_part(part_of(chunk, range(at - passed, at)))
            self._wait(until)


class _Parcel:
    """Items of one chunk that are held back, ``left`` of them still."""

    __slots__ = ("chunk", "left", "number")

    def __init__(self, chunk: Chunk, number: int) -> None:
        self.chunk = chunk
        self.left = len(chunk.items)
        self.number = number


class _Waiting(NamedTuple):
    """A key of which items are held back, and when to ask for it again."""

    at: float
    number: int
    key: Hashable


class KeyLimitOperator(Limiter):
    """Lets the items of each key pass at a rate. Those that must wait are held back; other keys pass them.

    When more than ``most`` items are held, or some would be held for more than ``longest`` seconds, nothing
    more is taken until that is no longer so. An item whose key cannot be had is an error of this stage.
    """

    def __init__(
        self,
        key: Callable[[Any], Any],
        buckets: Buckets[Hashable],
        bounds: "Bounds",
        clock: Clock,
        halt: Halt,
        desk: Desk,
        meter: Meter,
        following: Step,
    ) -> None:
        super().__init__(clock, halt, meter, following)
        self._key = key
        self._buckets = buckets
        self._bounds = bounds
        self._desk = desk
        self._held: dict[Hashable, deque[tuple[_Parcel, int]]] = {}
        self._ready: list[_Waiting] = []  # a heap, of each key in ``_held`` once
        self._number = 0
        self._last_at = float("-inf")  # when the last of what is held will pass
        self.count = 0
        """How many items are held back."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk, pass on what may pass, and hold back the rest. Raises Stopped."""
        began = perf_counter()
        came = len(chunk.items)
        passing: list[int] = []
        waiting: list[tuple[int, Hashable]] = []
        for key, indices in self._by_key(chunk).items():
            passed = 0 if key in self._held else self._pass(key, len(indices))
            passing += indices[:passed]
            waiting += [(index, key) for index in indices[passed:]]
        passing.sort()
        parts = self._split(chunk, passing, waiting)
        self._meter.took(came, perf_counter() - began)
        if parts is not None:
            self._next.push(parts)
        while self._is_full():
            self._wait(self._ready[0].at)
            self._release(self._clock.monotonic())
        if self._is_cancelled:
            self._give_up_all()

    def due(self) -> float | None:
        """Return when the first of what is held may pass."""
        further = self._next.due()
        if not self._ready:
            return further
        return self._ready[0].at if further is None else min(self._ready[0].at, further)

    def tick(self, now: float) -> None:
        """Pass on what may pass by now."""
        self._release(now)
        self._next.tick(now)

    def finish(self) -> None:
        """Pass on all that is held, at its rate, however long that takes. Raises Stopped."""
        while self._ready:
            self._wait(self._ready[0].at)
            self._release(self._clock.monotonic())
        self._next.finish()

    def _by_key(self, chunk: Chunk) -> dict[Hashable, list[int]]:
        """Return the indices of the items of each key; items whose key cannot be had are in none."""
        places: dict[Hashable, list[int]] = {}
        for index, item in enumerate(chunk.items):
            try:
                places.setdefault(self._key(item), []).append(index)
            except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
                kept = self._desk.meet(chunk, index, item, error, self._key_of)
                if not kept.gone:
                    places.setdefault(kept.value, []).append(index)
        return places

    def _key_of(self, item: Any) -> Hashable:
        key: Hashable = self._key(item)
        hash(key)
        return key

    def _pass(self, key: Hashable, wanted: int) -> int:
        """Return how many items of a key may pass now; if any are left they are asked for later."""
        passed, wait = self._buckets.take(key, wanted)
        left = wanted - passed
        if left:
            self._number += 1
            at = self._clock.monotonic() + wait
            heapq.heappush(self._ready, _Waiting(at, self._number, key))
            self._last_at = max(self._last_at, at + (left - 1) * self._bounds.interval)
        return passed

    def _split(self, chunk: Chunk, passing: list[int], waiting: list[tuple[int, Hashable]]) -> Chunk | None:
        """Hold back what waits; return what passes, if any does. Each has the tickets of the chunk."""
        if not waiting:
            if passing:
                return chunk if len(passing) == len(chunk.items) else part_of(chunk, passing)
            chunk.settle()
            return None
        if passing:
            chunk.hold()
        parts = part_of(chunk, passing) if passing else None
        self._number += 1
        parcel = _Parcel(part_of(chunk, [index for index, _ in waiting]), self._number)
        parcel.chunk.trail = self._meter.trail(chunk)
        for place, (_, key) in enumerate(waiting):
            self._held.setdefault(key, deque()).append((parcel, place))
        self.count += len(waiting)
        return parts

    def _release(self, now: float) -> None:
        """Pass on what may pass by now: what came in one chunk goes in one, older ones first."""
        if self._is_cancelled:
            self._give_up_all()
        going: dict[_Parcel, list[int]] = {}
        while self._ready and self._ready[0].at <= now:
            key = heapq.heappop(self._ready).key
            queue = self._held[key]
            passed = self._pass(key, len(queue))
            for _ in range(passed):
                parcel, place = queue.popleft()
                going.setdefault(parcel, []).append(place)
            self.count -= passed
            if not queue:
                del self._held[key]
        for parcel in sorted(going, key=lambda each: each.number):
            places = sorted(going[parcel])
            parcel.left -= len(places)
            if parcel.left:
                parcel.chunk.hold()
            self._meter.follow(parcel.chunk.trail)
            self._next.push(part_of(parcel.chunk, places))

    def _give_up_all(self) -> None:
        for parcel in {parcel: None for queue in self._held.values() for parcel, _ in queue}:
            self._give_up(parcel.chunk, parcel.left)
        self._held.clear()
        self._ready.clear()
        self.count = 0

    def _is_full(self) -> bool:
        if not self.count:
            return False
        too_long = self._last_at - self._clock.monotonic() > self._bounds.longest
        return self.count > self._bounds.most or too_long


class Bounds(NamedTuple):
    """How many items may be held back, for how many seconds, and the seconds between two of one key."""

    most: int
    longest: float
    interval: float


def part_of(chunk: Chunk, indices: Sequence[int]) -> Chunk:
    """Return some items of a chunk as a chunk of their own; its tickets are held by whoever asks."""
    items = [chunk.items[index] for index in indices]
    origins: list[int] | None = None
    if len(chunk.tickets) == 1:
        labels = range(len(chunk.items)) if chunk.origins is None else chunk.origins
        origins = [labels[index] for index in indices]
    part = Chunk(items, chunk.tickets, chunk.born, origins)
    if chunk.weight:
        part.weight = weight_of(items)
    return part
