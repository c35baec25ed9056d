"""Two streams joined by key and time: what waits for the other side, and what comes of it.

Nothing here reads a clock, starts a thread or waits. Which pairs there are does not depend on how items are
cut into chunks, nor on which side comes first, as long as items are within the declared disorder.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

from sidestage.stream.chunk import NOWHERE
from sidestage.stream.joins.interval_plan import IntervalPlan, JoinFull, Keyed, Unjoined
from sidestage.stream.joins.interval_sides import Row, Side, Standing, row_size
from sidestage.stream.memory.weights import weights
from sidestage.stream.windows.snapshots import seal, unseal
from sidestage.stream.windows.watermarks import Moment

_LEFT, _RIGHT = 0, 1
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


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
        self.weighs = plan.waiting.bytes is not None
        """Whether rows are weighed: somebody wants to know, or has a bound for them."""
        self._allowed: int | None = None
        self._held = (False, False)
        self.standing = Standing((-math.inf, -math.inf), (False, False))
        """How far the sides had come when time was last looked at."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        leads = (self.plan.after, self.plan.before)
        self._sides = [Side(time, lead) for time, lead in zip(self.plan.times, leads, strict=True)]
        self._latest = 0.0
        self._number = 0

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(side.count for side in self._sides)

    @property
    def estimated_bytes(self) -> int:
        """About how many bytes the rows take that wait; 0 if they are not weighed."""
        return sum(side.bytes for side in self._sides)

    def allow(self, size: int) -> None:
        """Let rows take so many bytes at most from now on, if ``Waiting`` does not say less; weigh them."""
        self._allowed = size
        if not self.weighs:
            self.weighs = True
            self._weigh()

    def hold(self, held: tuple[bool, bool]) -> None:
        """Note whether the sources of left and right are not read for now: they are not idle then."""
        self._held = held

    @property
    def watermarks(self) -> tuple[float, float]:
        """How far left and right have come, in seconds since the epoch."""
        return self._sides[_LEFT].reached, self._sides[_RIGHT].reached

    def add(self, items: Sequence[Keyed], now: Moment, part: Hashable = 0) -> JoinOutcome:
        """Take in items of one part of a source, each of which has its side."""
        outcome = JoinOutcome([], [], [], [])
        begun: set[int] = set()
        for place, (each, size) in enumerate(zip(items, self._sizes(items), strict=False)):
            if each.side not in begun:
                self._finish(begun)
                begun = {each.side}
                self._listen(each.side, now, part)
            self._take(place, each, size, now, outcome)
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
            side.resume(record, now, latest, weighs=self.weighs)

    def _weigh(self) -> None:
        for side in self._sides:
            side.weigh()

    def _sizes(self, items: Sequence[Keyed]) -> Iterable[int]:
        """Return how many bytes each item takes, if somebody wants to know."""
        return weights([each.item for each in items]) if self.weighs else repeat(0)

    def _listen(self, which: int, now: Moment, part: Hashable) -> None:
        side = self._sides[which]
        side.heard = now.monotonic
        side.reached = max(side.reached, side.marks.begin(part, now))

    def _finish(self, begun: set[int]) -> None:
        for which in begun:
            self._sides[which].marks.finish()

    def _take(self, place: int, each: Keyed, size: int, now: Moment, outcome: JoinOutcome) -> None:
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
        full = self._full(side, other, key, size)
        if full is not None:
            outcome.failures.append((place, full))
            return
        self._number += 1
        row = Row(item, self._number, row_size(size) if self.weighs else 0, is_joined=False)
        for match in other.matches(time, key, side.lead):
            row.is_joined = match.is_joined = True
            outcome.places.append(place)
            outcome.pairs.append((item, match.item) if which == _LEFT else (match.item, item))
        side.add(time, key, row)
        if time > side.marks.top:
            side.reached = max(side.reached, side.marks.reach(time))

    def _full(self, side: Side, other: Side, key: Hashable, size: int) -> JoinFull | None:
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
        return self._heavy(side.bytes + other.bytes, side.cost(key, size)) if self.weighs else None

    def _heavy(self, held: int, more: int) -> JoinFull | None:
        most, allowed = self.plan.waiting.bytes, self._allowed
        if min(each for each in (most, allowed) if each is not None) >= held + more:
            return None
        told = f"{self.rows:,} rows wait for the other side, about {held:,} bytes;"
        if allowed is not None and held + more > allowed:
            return JoinFull(
                f"{told} one more takes {more:,}, the memory of the stream leaves {allowed:,} to them.",
                hint="Raise Settings(memory=...), join within less time, or declare when a side is idle.",
            )
        return JoinFull(
            f"{told} one more takes {more:,}, the budget is {most:,}.",
            hint="Raise Waiting(bytes=...), use more workers, or declare when a side is idle.",
        )

    def _pass_time(self, now: Moment, outcome: JoinOutcome) -> None:
        self._latest = max(self._latest, now.monotonic)
        for side, is_held in zip(self._sides, self._held, strict=True):
            if is_held:
                side.stay(now)
            elif side.heard is None:
                side.heard = now.monotonic
            side.reached = max(side.reached, side.marks.tick(now))
        left, right = self._sides
        idle = (self._is_idle(left, now), self._is_idle(right, now))
        self.standing = Standing((left.marks.watermark, right.marks.watermark), idle)
        if idle[_LEFT] != idle[_RIGHT]:
            quiet, busy = (left, right) if idle[_LEFT] else (right, left)
            quiet.reached = max(quiet.reached, busy.reached)
        lateness = self.plan.waiting.lateness
        self._release(right.reached - lateness, left.reached - lateness, outcome)

    def _is_idle(self, side: Side, now: Moment) -> bool:
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
