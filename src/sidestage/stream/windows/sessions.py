"""The state of session windows: per key, stretches of time that grow and merge."""

import heapq
import math
from collections.abc import Hashable
from operator import attrgetter
from typing import Any

from sidestage.stream.windows.event_times import Readings
from sidestage.stream.windows.ledger import Ledger, check_key
from sidestage.stream.windows.plan import Failure, Kind, LateItem, Session, WindowPlan
from sidestage.stream.windows.watermarks import Watermarks

SESSION_BYTES = 620
"""Bytes of one session without its key, with its share of lists, dictionaries and heaps; measured."""

_BY_START = attrgetter("start")
_BY_END = attrgetter("end", "number")


class Stretch:
    """One session of one key. ``shown`` is its count when it was last given out, ``revision`` how often."""

    __slots__ = (
        "bytes",
        "count",
        "end",
        "ended",
        "key",
        "number",
        "open",
        "revision",
        "shown",
        "start",
        "state",
    )

    def __init__(self, number: int, key: Hashable, start: float, end: float) -> None:
        self.number = number
        self.key = key
        self.start = start
        self.end = end
        self.count = 0
        self.state: Any = None
        self.bytes = 0
        self.shown: tuple[int, float] | None = None
        self.revision = 0
        self.open = True
        self.ended = False


class SessionWindows:
    """Open sessions, and those that passed but are kept for late items.

    The heaps hold (end, number) as of when they were pushed. A session only grows, so an entry is never too
    late; one that is too early, or stands for a session that is gone, is noticed when it comes up.
    """

    def __init__(self, plan: WindowPlan, windows: Session) -> None:
        self.ledger = Ledger(plan, SESSION_BYTES)
        self._gap = windows.gap
        self._lateness = plan.lateness
        self._at_once = plan.updates == "each"
        self._every_items = plan.sooner.every_items
        self._growing = plan.aggregate.growing
        self._watermark = -math.inf
        self._by_key: dict[Hashable, list[Stretch]] = {}
        self._stretches: dict[int, Stretch] = {}
        self._to_end: list[tuple[float, int]] = []
        self._to_go: list[tuple[float, int]] = []
        self._numbers = 0

    def fold(self, rows: Readings, marks: Watermarks) -> None:
        """Take in a chunk."""
        values = rows.values
        for row, time in enumerate(rows.times):
            if time > marks.top:
                self.advance(marks.reach(time))
            value = values[row] if values else None
            key, place = rows.keys[row], rows.places[row]
            try:
                taken = self._take(time, key, value)
            except Exception as error:  # noqa: BLE001 - it is the item's, and goes where its policy says
                self.ledger.failures.append(Failure(place, error))
                continue
            if not taken:
                late = LateItem(place, rows.item(row), key, time, float(time), float(time + self._gap))
                self.ledger.late.append(late)

    def advance(self, watermark: float) -> None:
        """Give out sessions whose end the watermark has passed; let go those whose lateness is over."""
        self._watermark = watermark
        while self._to_end and self._to_end[0][0] <= watermark:
            end, number = heapq.heappop(self._to_end)
            stretch = self._stretches.get(number)
            if stretch is None or not stretch.open:
                continue
            if stretch.end > end:
                heapq.heappush(self._to_end, (stretch.end, number))
                continue
            self._emit(stretch, "late update" if stretch.ended else "on time")
            stretch.open, stretch.ended = False, True
            heapq.heappush(self._to_go, (end, number))
        while self._to_go and self._to_go[0][0] + self._lateness <= watermark:
            end, number = heapq.heappop(self._to_go)
            stretch = self._stretches.get(number)
            if stretch is not None and not stretch.open and stretch.end == end:
                self._emit_changed(stretch, "late update")
                self._drop(stretch)

    def emit_early(self) -> None:
        """Give out what changed in sessions that are open."""
        for stretch in self._in_order():
            if stretch.open:
                self._emit_changed(stretch, "early")

    def flush(self) -> None:
        """Give out all that is open, and let it go."""
        for stretch in self._in_order():
            if stretch.open:
                self._emit(stretch, "drained")
            else:
                self._emit_changed(stretch, "late update")
            self._drop(stretch)
        self._to_end.clear()
        self._to_go.clear()

    def record(self) -> tuple[Any, ...]:
        """Return all that is needed to go on later."""
        stretches = [
            tuple(getattr(stretch, name) for name in Stretch.__slots__)
            for several in self._by_key.values()
            for stretch in several
        ]
        return (self._watermark, self._numbers, self._to_end, self._to_go, stretches)

    def resume(self, record: tuple[Any, ...]) -> None:
        """Go on with what ``record`` returned."""
        self._watermark, self._numbers, self._to_end, self._to_go, stretches = record
        self._by_key, self._stretches = {}, {}
        for fields in stretches:
            stretch = Stretch(0, None, 0, 0)
            for name, value in zip(Stretch.__slots__, fields, strict=True):
                setattr(stretch, name, value)
            self._by_key.setdefault(stretch.key, []).append(stretch)
            self._stretches[stretch.number] = stretch
        self.ledger.cells = len(self._stretches)
        self.ledger.bytes = sum(stretch.bytes for stretch in self._stretches.values())

    def _take(self, time: float, key: Any, value: Any) -> bool:
        """Add an item to its session, which may join others. Return False if that session is gone already."""
        check_key(key)
        end = time + self._gap
        near = self._touching(key, time, end)
        if near:
            self._join(near, (time, end), value)
            return True
        if end + self._lateness <= self._watermark:
            return False
        ledger, aggregate = self.ledger, self.ledger.aggregate
        size = ledger.cell_size(key)
        ledger.admit(1, size)
        state = None if ledger.counting else aggregate.add(aggregate.zero(), value)
        if self._growing:
            size += aggregate.size(state) - aggregate.size(aggregate.zero())
        stretch = Stretch(self._numbers, key, time, end)
        self._numbers += 1
        stretch.bytes = size
        ledger.cells += 1
        ledger.bytes += size
        self._stretches[stretch.number] = stretch
        several = self._by_key.setdefault(key, [])
        several.append(stretch)
        if len(several) > 1 and several[-2].start > time:
            several.sort(key=_BY_START)
        stretch.open = False  # until it is placed
        self._place(stretch, state, 1)
        return True

    def _touching(self, key: Hashable, start: float, end: float) -> list[Stretch]:
        """Return the sessions of a key that a stretch of time overlaps, in order; at most three."""
        several = self._by_key.get(key)
        if several is None:
            return []
        if len(several) == 1:  # the usual case
            only = several[0]
            return several[:] if only.start < end and start < only.end else []
        # All end in the order in which they begin, because they do not overlap.
        low, high = 0, len(several)
        while low < high:
            middle = (low + high) // 2
            if several[middle].end <= start:
                low = middle + 1
            else:
                high = middle
        near = []
        while low < len(several) and several[low].start < end:
            near.append(several[low])
            low += 1
        return near

    def _join(self, near: list[Stretch], span: tuple[float, float], value: Any) -> None:
        """Add an item to a session, and make one of all that it touches."""
        ledger, aggregate = self.ledger, self.ledger.aggregate
        first = near[0]
        state = first.state
        if not ledger.counting:
            if self._growing:
                ledger.admit(0, 1)
            if len(near) > 1:
                # An aggregate that fails here must leave all as it was; merge changes neither side.
                for other in near[1:]:
                    state = aggregate.merge(state, other.state)
            before = aggregate.size(first.state) if self._growing else 0
            state = aggregate.add(state, value)
            grown = aggregate.size(state) - before if self._growing else 0
            first.bytes += grown
            ledger.bytes += grown
        start, end = min(span[0], first.start), max(span[1], near[-1].end)
        count = 1 + sum(each.count for each in near)
        for other in near[1:]:
            self._withdraw(other)
            self._drop(other)
        if start < first.start:
            self._withdraw(first)
            first.revision, first.ended, first.shown = 0, False, None
        first.start = start
        reached = max(first.end, end)
        moved = reached != first.end
        first.end = reached
        self._place(first, state, count, moved=moved)

    def _place(self, stretch: Stretch, state: Any, count: int, *, moved: bool = True) -> None:
        """Give a session its new state, open or passed as its end says."""
        stretch.state, stretch.count = state, count
        if stretch.end > self._watermark:
            if not stretch.open:
                stretch.open = True
                heapq.heappush(self._to_end, (stretch.end, stretch.number))
            if self._every_items is not None and count % self._every_items == 0:
                self._emit(stretch, "early")
            return
        if moved:
            heapq.heappush(self._to_go, (stretch.end, stretch.number))
        stretch.ended = True
        if self._at_once:
            self._emit(stretch, "late update")

    def _in_order(self) -> list[Stretch]:
        return sorted(self._stretches.values(), key=_BY_END)

    def _emit_changed(self, stretch: Stretch, kind: Kind) -> None:
        if stretch.shown != (stretch.count, stretch.end):
            self._emit(stretch, kind)

    def _emit(self, stretch: Stretch, kind: Kind) -> None:
        bounds = (stretch.start, stretch.end)
        try:
            value = self.ledger.result(stretch.count, stretch.state)
        except Exception as error:  # noqa: BLE001 - a user's function; other windows go on
            self.ledger.fail(stretch.key, bounds, error, stretch.count, kind, stretch.revision)
            stretch.shown = (stretch.count, stretch.end)  # not to be tried again for the same items
            return
        self.ledger.emit(stretch.key, bounds, value, stretch.count, kind, stretch.revision)
        stretch.shown = (stretch.count, stretch.end)
        stretch.revision += 1

    def _withdraw(self, stretch: Stretch) -> None:
        """Say that a session which was given out is part of another now."""
        if stretch.revision:
            bounds = (stretch.start, stretch.end)
            self.ledger.emit(stretch.key, bounds, None, 0, "withdrawn", stretch.revision)

    def _drop(self, stretch: Stretch) -> None:
        del self._stretches[stretch.number]
        several = self._by_key[stretch.key]
        several.remove(stretch)
        if not several:
            del self._by_key[stretch.key]
        self.ledger.cells -= 1
        self.ledger.bytes -= stretch.bytes
