"""Two streams joined by key and time: what waits for the other side, and what comes of it.

Nothing here reads a clock, starts a thread or waits. Which pairs there are does not depend on how items are
cut into chunks, nor on which side comes first, as long as items are within the declared disorder.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from sidestage.errors import DefinitionError, SidestageError
from sidestage.stream.chunk import NOWHERE
from sidestage.stream.shape_nodes import How
from sidestage.stream.windows.event_times import seconds_of
from sidestage.stream.windows.ledger import check_key
from sidestage.stream.windows.snapshots import seal, unseal
from sidestage.stream.windows.watermarks import EventTime, Moment, Watermarks

_LEFT, _RIGHT = 0, 1
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_LONGEST = 1e10


class JoinFull(SidestageError):
    """More rows wait for the other side than the budget allows; the item was not joined."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the other side of a join.

    A row is kept until the other side's watermark says that nothing it could be joined with comes any more,
    and ``lateness`` seconds longer. Each worker keeps at most ``rows``, and ``rows_per_key`` of each key and
    side: an item that would be one more is refused with JoinFull. ``on_drain``: at the end of the stream
    forget what waits (``flush``), or leave it for the checkpoint (``keep``).

    Raises DefinitionError for what makes no sense.
    """

    lateness: float = 0
    rows: int = 1_000_000
    rows_per_key: int = 100_000
    on_drain: Literal["flush", "keep"] = "flush"

    def __post_init__(self) -> None:
        if not (0 <= self.lateness <= _LONGEST and self.rows >= 1 and self.rows_per_key >= 1):
            raise DefinitionError(f"{self} makes no sense.", hint="lateness is seconds; rows are counted.")
        if self.on_drain not in {"flush", "keep"}:
            raise DefinitionError(f"{self} makes no sense.", hint="on_drain is 'flush' or 'keep'.")


class IntervalPlan(msgspec.Struct, frozen=True):
    """Rows of the right whose time lies from ``before`` seconds before to ``after`` after that of the left.

    Both ends belong to it. Raises DefinitionError for what makes no sense.
    """

    before: float
    after: float
    times: tuple[EventTime, EventTime]
    how: How
    waiting: Waiting

    def __post_init__(self) -> None:
        if not (
            abs(self.before) <= _LONGEST and abs(self.after) <= _LONGEST and self.before + self.after >= 0
        ):
            raise DefinitionError(
                f"join(within=({self.before}, {self.after})) makes no sense.",
                hint="Give seconds before and after the left item, such as within=(0, 60).",
            )
        if any(time.at is None for time in self.times):
            raise DefinitionError(
                "join() needs the times of items.",
                hint="Give functions, or EventTime(at=...), for both sides.",
            )
        if self.how not in {"inner", "left"}:
            raise DefinitionError(f"There is no join(how={self.how!r}).", hint='Give "inner" or "left".')

    @property
    def shape(self) -> str:
        """What must be the same for a snapshot to fit."""
        return (
            f"a {self.how} join within {self.before:g} and {self.after:g} s,"
            f" lateness {self.waiting.lateness:g}"
        )


class Keyed(NamedTuple):
    """An item on its way to a join."""

    side: int
    key: Hashable
    time: float
    item: Any


class Unjoined(NamedTuple):
    """An item that came too late, or too early, to be joined with anything."""

    side: Literal["left", "right"]
    item: Any
    key: Any
    time: float
    reason: str


def keyed(
    side: int, key: Callable[[Any], Hashable], at: Callable[[Any], float | datetime]
) -> Callable[[Any], Keyed]:
    """Return what prepares the items of a side."""

    def with_key(item: Any) -> Keyed:
        its_key = key(item)
        check_key(its_key)
        return Keyed(side, its_key, seconds_of(at(item)), item)

    return with_key


class _Row:
    __slots__ = ("is_joined", "item", "number")

    def __init__(self, item: Any, number: int, *, is_joined: bool) -> None:
        self.item = item
        self.number = number
        self.is_joined = is_joined


class _Shelf:
    """The rows of one key of a side, by time, and by order of arrival among equal times."""

    __slots__ = ("rows", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.rows: list[_Row] = []

    def add(self, time: float, row: _Row) -> None:
        place = bisect_right(self.times, time)
        self.times.insert(place, time)
        self.rows.insert(place, row)


class _Side:
    """All the rows of one side. ``lead``: how much later than its rows the other side's may be."""

    def __init__(self, time: EventTime, lead: float) -> None:
        self.time = time
        self.lead = lead
        self.marks = Watermarks(time)
        self.reached = -math.inf
        self.heard: float | None = None
        self.shelves: dict[Hashable, _Shelf] = {}
        self.count = 0
        self._order: list[tuple[float, int, Hashable]] = []

    def add(self, time: float, key: Hashable, row: _Row) -> None:
        shelf = self.shelves.get(key)
        if shelf is None:
            shelf = self.shelves[key] = _Shelf()
        shelf.add(time, row)
        heapq.heappush(self._order, (time, row.number, key))
        self.count += 1

    def matches(self, time: float, key: Hashable, lead: float) -> list[_Row]:
        """Return the rows that belong to one of the other side, whose ``lead`` this is."""
        shelf = self.shelves.get(key)
        if shelf is None:
            return []
        mine = self.lead
        first = bisect_left(shelf.times, time, key=lambda own: own + mine)
        return shelf.rows[first : bisect_right(shelf.times, time + lead)]

    def release(self, bound: float) -> list[_Row]:
        """Forget rows that nothing from ``bound`` on belongs to; return them, the oldest first."""
        order, gone = self._order, Counter[Hashable]()
        released: list[_Row] = []
        while order and order[0][0] + self.lead < bound:
            key = heapq.heappop(order)[2]
            released.append(self.shelves[key].rows[gone[key]])
            gone[key] += 1
        for key, count in gone.items():
            shelf = self.shelves[key]
            if count == len(shelf.rows):
                del self.shelves[key]
            else:
                del shelf.times[:count], shelf.rows[:count]
        self.count -= len(released)
        return released

    def record(self) -> tuple[Any, ...]:
        rows = [
            (time, key, row.item, row.number, row.is_joined)
            for key, shelf in self.shelves.items()
            for time, row in zip(shelf.times, shelf.rows, strict=True)
        ]
        return (self.marks.record(), self.reached, self.heard, rows)

    def resume(self, record: tuple[Any, ...], now: Moment, latest: float) -> None:
        marks, self.reached, heard, rows = record
        self.marks.resume(marks, now)
        self.heard = None if heard is None else heard + (now.monotonic - latest)
        for time, key, item, number, is_joined in sorted(rows, key=lambda row: row[3]):
            self.add(time, key, _Row(item, number, is_joined=is_joined))


class JoinOutcome(NamedTuple):
    """What a call led to: pairs, and by place in the chunk what was not joined, or could not be.

    ``places`` are those of the items that led to each pair; NOWHERE for what time led to.
    """

    pairs: list[tuple[Any, Any]]
    places: list[int]
    aside: list[tuple[int, Unjoined]]
    failures: list[tuple[int, Exception]]


class IntervalState:
    """The rows of one worker that wait for the other side. Not for several threads at once."""

    def __init__(self, plan: IntervalPlan) -> None:
        self.plan = plan
        self._begin_anew()

    def _begin_anew(self) -> None:
        leads = (self.plan.after, self.plan.before)
        self._sides = [_Side(time, lead) for time, lead in zip(self.plan.times, leads, strict=True)]
        self._latest = 0.0
        self._number = 0

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(side.count for side in self._sides)

    @property
    def watermarks(self) -> tuple[float, float]:
        """How far left and right have come, in seconds since the epoch."""
        return self._sides[_LEFT].reached, self._sides[_RIGHT].reached

    def add(self, items: Sequence[Keyed], now: Moment, part: Hashable = 0) -> JoinOutcome:
        """Take in items of one part of a source, each of which has its side."""
        outcome = JoinOutcome([], [], [], [])
        begun: set[int] = set()
        for place, each in enumerate(items):
            if each.side not in begun:
                self._finish(begun)
                begun = {each.side}
                self._listen(each.side, now, part)
            self._take(place, each, now, outcome)
        self._finish(begun)
        self._pass_time(now, outcome)
        return outcome

    def tick(self, now: Moment) -> JoinOutcome:
        """Let time pass: a side that is idle follows the other."""
        outcome = JoinOutcome([], [], [], [])
        self._pass_time(now, outcome)
        return outcome

    def drain(self) -> JoinOutcome:
        """End the stream: nothing more comes, on either side."""
        outcome = JoinOutcome([], [], [], [])
        if self.plan.waiting.on_drain == "flush":
            self._release(math.inf, math.inf, outcome)
        return outcome

    @property
    def partitions(self) -> frozenset[Hashable]:
        """The parts of sources that the watermarks know of."""
        return frozenset(part for side in self._sides for part in side.marks.tops())

    def forget(self, part: Hashable) -> None:
        """Leave a part of a source out of the watermarks."""
        for side in self._sides:
            side.marks.forget(part)

    def snapshot(self) -> bytes:
        """Return all that is needed to go on elsewhere. Raises OutputError if an item cannot be pickled."""
        record = (self._latest, self._number, [side.record() for side in self._sides])
        return seal(self.plan.shape, record)

    def restore(self, snapshot: bytes, now: Moment) -> None:
        """Go on from a snapshot; the time since then counts as no time. Raises DataError.

        Give only bytes that this program wrote: reading them can run code.
        """
        latest, number, sides = unseal(self.plan.shape, snapshot)
        self._begin_anew()
        self._latest, self._number = now.monotonic, number
        for side, record in zip(self._sides, sides, strict=True):
            side.resume(record, now, latest)

    def _listen(self, which: int, now: Moment, part: Hashable) -> None:
        side = self._sides[which]
        side.heard = now.monotonic
        side.reached = max(side.reached, side.marks.begin(part, now))

    def _finish(self, begun: set[int]) -> None:
        for which in begun:
            self._sides[which].marks.finish()

    def _take(self, place: int, each: Keyed, now: Moment, outcome: JoinOutcome) -> None:
        """Join an item with what waits, and let it wait itself."""
        which, key, time, item = each
        side, other = self._sides[which], self._sides[1 - which]
        ahead = side.time.ahead
        if ahead is not None and time > now.wall + ahead:
            if side.time.beyond == "aside":
                reason = side.time.too_early(time, now.wall)
                outcome.aside.append((place, Unjoined(_SIDES[which], item, key, time, reason)))
                return
            time = now.wall
        if time < side.reached - self.plan.waiting.lateness:
            reason = f"it lies {side.reached - time:.3f} s behind the watermark"
            outcome.aside.append((place, Unjoined(_SIDES[which], item, key, time, reason)))
            return
        full = self._full(side, other, key)
        if full is not None:
            outcome.failures.append((place, full))
            return
        self._number += 1
        row = _Row(item, self._number, is_joined=False)
        for match in other.matches(time, key, side.lead):
            row.is_joined = match.is_joined = True
            outcome.places.append(place)
            outcome.pairs.append((item, match.item) if which == _LEFT else (match.item, item))
        side.add(time, key, row)
        if time > side.marks.top:
            side.reached = max(side.reached, side.marks.reach(time))

    def _full(self, side: _Side, other: _Side, key: Hashable) -> JoinFull | None:
        waiting = self.plan.waiting
        shelf = side.shelves.get(key)
        if shelf is not None and len(shelf.rows) >= waiting.rows_per_key:
            return JoinFull(
                f"{len(shelf.rows):,} rows of the key {ascii(key)[:60]} wait for the other side.",
                hint="Raise Waiting(rows_per_key=...), or join within a shorter time.",
            )
        if side.count + other.count >= waiting.rows:
            return JoinFull(
                f"{self.rows:,} rows wait for the other side.",
                hint="Raise Waiting(rows=...), use more workers, or declare when a side is idle.",
            )
        return None

    def _pass_time(self, now: Moment, outcome: JoinOutcome) -> None:
        self._latest = max(self._latest, now.monotonic)
        for side in self._sides:
            if side.heard is None:
                side.heard = now.monotonic
            side.reached = max(side.reached, side.marks.tick(now))
        left, right = self._sides
        idle = [self._is_idle(side, now) for side in self._sides]
        if idle[_LEFT] != idle[_RIGHT]:
            quiet, busy = (left, right) if idle[_LEFT] else (right, left)
            quiet.reached = max(quiet.reached, busy.reached)
        lateness = self.plan.waiting.lateness
        self._release(right.reached - lateness, left.reached - lateness, outcome)

    def _is_idle(self, side: _Side, now: Moment) -> bool:
        return (
            side.time.idle is not None
            and side.heard is not None
            and now.monotonic - side.heard > side.time.idle
        )

    def _release(self, left_bound: float, right_bound: float, outcome: JoinOutcome) -> None:
        """Forget what nothing can be joined with any more; a left join gives out what was not joined."""
        self._sides[_RIGHT].release(right_bound)
        gone = self._sides[_LEFT].release(left_bound)
        if self.plan.how == "left":
            alone = [(row.item, None) for row in gone if not row.is_joined]
            outcome.pairs.extend(alone)
            outcome.places.extend([NOWHERE] * len(alone))
