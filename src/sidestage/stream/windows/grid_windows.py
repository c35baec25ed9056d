"""The state of tumbling and sliding windows, by number and key.

Within a chunk nothing depends on where the watermark lies exactly until it gets to the next boundary (a
window's end, or the end of its lateness). So a chunk is cut at the items that move it there: what lies
between may be counted together, and every item is still judged by the watermark of its own moment.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from sidestage.stream.windows.aggregates import Count, Total, is_plain
from sidestage.stream.windows.event_times import Readings
from sidestage.stream.windows.grid import Grid
from sidestage.stream.windows.ledger import Ledger, check_key
from sidestage.stream.windows.plan import Failure, Kind, LateItem, Sliding, Tumbling, WindowPlan
from sidestage.stream.windows.watermarks import Watermarks

_ENTRY_BYTES = 44  # of a dictionary, half way between two sizes
_COUNT_BYTES = 28
_SHOWN_BYTES = 84  # a tuple and its count

_WORTH = 8
"""Fewer items than this are not worth counting together."""


class Pane:
    """One window, all keys. ``shown``: count and times given out, of keys that were."""

    __slots__ = ("bytes", "counts", "number", "shown", "states")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[Hashable, int] = {}
        self.states: dict[Hashable, Any] = {}
        self.shown: dict[Hashable, tuple[int, int]] = {}
        self.bytes = 0


class Addition(NamedTuple):
    """What is added to one window together: items per key, and their new states unless only counted."""

    number: int
    counts: dict[Hashable, int]
    states: dict[Hashable, Any]


class GridWindows:
    """Open windows, and those that passed but are kept for late items."""

    def __init__(self, plan: WindowPlan, windows: Tumbling | Sliding) -> None:
        self.ledger = Ledger(plan, _cell_bytes(plan))
        self.grid = Grid(windows)
        self.totalling = isinstance(plan.aggregate, Total)
        self._quick = is_plain(plan.aggregate) and plan.sooner.every_items is None and bool(self.grid.steps)
        self.on_arrays = self._quick and self.grid.steps == 1 and (self.ledger.counting or self.totalling)
        self._growing = plan.aggregate.growing
        self._in_place = plan.aggregate.in_place
        self.first_open: float = -math.inf
        self.due = -math.inf
        self._first_kept: float = -math.inf
        self._lateness = plan.lateness
        self._at_once = plan.updates == "each"
        self._every_items = plan.sooner.every_items
        self._panes: dict[int, Pane] = {}
        self._to_end: list[int] = []
        self._to_go: list[int] = []

    def fold(self, rows: Readings, marks: Watermarks) -> None:
        """Take in a chunk."""
        times = rows.times
        count = len(times)
        if not count:
            return
        highest = max(times)
        begin = look = 0
        while begin < count:
            alarm = marks.alarm(self.due)
            stop = count
            if highest >= alarm:
                stop = next((row for row in range(look, count) if times[row] >= alarm), count)
            self._piece(rows, begin, stop)
            if stop < count:
                self.advance(marks.reach(times[stop]))
                look = stop + 1
            begin = stop
        marks.reach(highest)

    def advance(self, watermark: float) -> None:
        """Give out windows whose end the watermark has passed; let go those whose lateness is over."""
        if watermark < self.due or watermark == -math.inf:
            return
        first_open = self.grid.first(watermark)
        while self._to_end and self._to_end[0] < first_open:
            pane = self._panes[heapq.heappop(self._to_end)]
            for key in pane.counts:
                self._emit(pane, key, "on time")
            heapq.heappush(self._to_go, pane.number)
        first_kept = self.grid.first(watermark, self._lateness)
        while self._to_go and self._to_go[0] < first_kept:
            pane = self._panes[heapq.heappop(self._to_go)]
            self._emit_changed(pane, "late update")
            self._drop(pane)
        self.first_open, self._first_kept = first_open, first_kept
        self.due = min(self.grid.end(first_open), self.grid.end(first_kept) + self._lateness)

    def emit_early(self) -> None:
        """Give out what changed in windows that are open."""
        for number in sorted(self._to_end):
            self._emit_changed(self._panes[number], "early")

    def flush(self) -> None:
        """Give out all that is open, and let it go."""
        for number in sorted(self._to_go):
            self._emit_changed(self._panes[number], "late update")
        for number in sorted(self._to_end):
            pane = self._panes[number]
            for key in pane.counts:
                self._emit(pane, key, "drained")
        for pane in list(self._panes.values()):
            self._drop(pane)
        self._to_end.clear()
        self._to_go.clear()

    def one(self, time: float, key: Any, value: Any, place: int, item: Any) -> None:
        """Take in one item, at the watermark there is."""
        try:
            taken = self._take(time, key, value)
        except Exception as error:  # noqa: BLE001 - it is the item's, and goes where its policy says
            self.ledger.failures.append(Failure(place, error))
            return
        if not taken:
            last = self.grid.last(time)
            start, end = float(self.grid.start(last)), float(self.grid.end(last))
            self.ledger.late.append(LateItem(place, item, key, time, start, end))

    def stage(self, number: int, keys: Sequence[Hashable], values: Sequence[Any]) -> Addition:
        """Count items of one window together, and add their values in order. Nothing is changed yet.

        Raises whatever a key or value raises.
        """
        counts = Counter(keys)
        if self.ledger.counting:
            return Addition(number, counts, {})
        before, aggregate = self.states_of(number), self.ledger.aggregate
        states = {key: before[key] if key in before else aggregate.zero() for key in counts}
        if self.totalling:  # what add does, without a call per item
            for key, value in zip(keys, values, strict=True):
                states[key] = states[key] + value
        else:
            add = aggregate.add
            for key, value in zip(keys, values, strict=True):
                states[key] = add(states[key], value)
        return Addition(number, counts, states)

    def commit(self, additions: Sequence[Addition], others: Sequence[Hashable]) -> bool:
        """Add what was staged, unless something about it needs a closer look; then nothing is changed.

        ``others`` are keys of items that will be taken in one by one afterwards.
        """
        ledger = self.ledger
        fresh: list[list[Hashable]] = []
        for addition in additions:
            pane = self._panes.get(addition.number)
            known = {} if pane is None else pane.counts
            fresh.append([key for key in addition.counts if key not in known])
        sizes = [[ledger.cell_size(key) for key in keys] for keys in fresh]
        cells = sum(map(len, fresh)) + len(others)
        if not ledger.fits(cells, sum(map(sum, sizes)) + sum(map(ledger.cell_size, others))):
            return False
        if any(key != key for keys in fresh for key in keys):  # noqa: PLR0124 - only nan differs
            return False
        for addition, keys, added in zip(additions, fresh, sizes, strict=True):
            pane = self._pane(addition.number)
            counts = pane.counts
            for key, count in addition.counts.items():
                counts[key] = counts.get(key, 0) + count
            pane.states.update(addition.states)
            pane.bytes += sum(added)
            ledger.bytes += sum(added)
            ledger.cells += len(keys)
        return True

    def states_of(self, number: int) -> dict[Hashable, Any]:
        """Return the states of a window by key; not to be changed."""
        pane = self._panes.get(number)
        return {} if pane is None else pane.states

    def keys_of(self, number: int) -> dict[Hashable, int]:
        """Return the counts of a window by key; not to be changed."""
        pane = self._panes.get(number)
        return {} if pane is None else pane.counts

    def record(self) -> tuple[Any, ...]:
        """Return all that is needed to go on later."""
        panes = [
            (pane.number, pane.counts, pane.states, pane.shown, pane.bytes) for pane in self._panes.values()
        ]
        return (panes, self._to_end, self._to_go, self.first_open, self._first_kept, self.due)

    def resume(self, record: tuple[Any, ...]) -> None:
        """Go on with what ``record`` returned."""
        panes, self._to_end, self._to_go, self.first_open, self._first_kept, self.due = record
        self._panes = {}
        for number, counts, states, shown, size in panes:
            pane = self._panes[number] = Pane(number)
            pane.counts, pane.states, pane.shown, pane.bytes = counts, states, shown, size
        self.ledger.cells = sum(len(pane.counts) for pane in self._panes.values())
        self.ledger.bytes = sum(pane.bytes for pane in self._panes.values())

    def _piece(self, rows: Readings, begin: int, stop: int) -> None:
        """Take in rows between which the watermark meets no boundary."""
        if self._quick and stop - begin >= _WORTH and self._together(rows, begin, stop):
            return
        self._one_by_one(rows, range(begin, stop))

    def _one_by_one(self, rows: Readings, wanted: Sequence[int]) -> None:
        values = rows.values
        for row in wanted:
            value = values[row] if values else None
            self.one(rows.times[row], rows.keys[row], value, rows.places[row], rows.item(row))

    def _together(self, rows: Readings, begin: int, stop: int) -> bool:
        """Take in a piece window by window. Return False, with nothing changed, if that cannot be done."""
        times = rows.times[begin:stop]
        keys = rows.keys[begin:stop]
        values = rows.values[begin:stop]
        highest = self.grid.last(max(times))
        lowest = self.grid.first(min(times))
        try:
            if highest == self.grid.last(min(times)) and lowest >= self.first_open:
                numbers = range(lowest, highest + 1)
                return self.commit([self.stage(number, keys, values) for number in numbers], ())
            groups, behind = self._groups(times)
            additions = [
                self.stage(
                    number,
                    [keys[row] for row in members],
                    [values[row] for row in members] if values else (),
                )
                for number, members in groups.items()
            ]
            if not self.commit(additions, [keys[row] for row in behind]):
                return False
        except Exception:  # noqa: BLE001 - one by one, the item at fault is found
            return False
        self._one_by_one(rows, [begin + row for row in behind])
        return True

    def _groups(self, times: Sequence[float]) -> tuple[dict[int, list[int]], list[int]]:
        """Return the rows of each open window, and the rows of which a window has passed.

        Raises ValueError if one of those is also in an open window, where it must be added in its turn.
        """
        by_last: defaultdict[float, list[int]] = defaultdict(list)
        for row, last in enumerate(self.grid.lasts(times)):
            by_last[last].append(row)
        before = (self.grid.steps or 1) - 1
        groups: dict[int, list[int]] = {}
        behind: list[int] = []
        for last, rows in by_last.items():
            if last - before >= self.first_open:
                for number in range(int(last) - before, int(last) + 1):
                    groups[number] = groups[number] + rows if number in groups else rows
            elif last >= self.first_open:
                raise ValueError("An item is in windows that passed and in open ones.")
            else:
                behind += rows
        if before:
            groups = {number: sorted(rows) for number, rows in groups.items()}
        return groups, sorted(behind)

    def _take(self, time: float, key: Any, value: Any) -> bool:
        """Add an item to all its windows that are still there. Return False if there are none."""
        last = self.grid.last(time)
        first = self.grid.first(time)
        numbers = range(first if first >= self._first_kept else int(self._first_kept), last + 1)
        check_key(key)
        if not numbers:
            return False
        ledger = self.ledger
        panes = [self._panes.get(number) for number in numbers]
        new = sum(pane is None or key not in pane.counts for pane in panes)
        if new:
            ledger.admit(new, new * ledger.cell_size(key))
        elif self._growing:
            ledger.admit(0, 1)
        if ledger.counting:
            states: list[Any] = [None] * len(numbers)
            growth = [0] * len(numbers)
        else:
            states, growth = self._added(panes, key, value)
        for number, state, grown in zip(numbers, states, growth, strict=True):
            self._store(number, key, state, grown)
        return True

    def _added(self, panes: Sequence[Pane | None], key: Hashable, value: Any) -> tuple[list[Any], list[int]]:
        """Return the new states of a key in some windows, and by how many bytes they grew."""
        aggregate = self.ledger.aggregate
        states = [
            aggregate.zero() if pane is None or key not in pane.counts else pane.states[key] for pane in panes
        ]
        if self._in_place and len(states) > 1:
            for state in states:
                aggregate.ready(state, value)
        if not self._growing:
            return [aggregate.add(state, value) for state in states], [0] * len(states)
        before = [aggregate.size(state) for state in states]
        states = [aggregate.add(state, value) for state in states]
        return states, [aggregate.size(state) - old for state, old in zip(states, before, strict=True)]

    def _store(self, number: int, key: Hashable, state: Any, grown: int) -> None:
        pane, ledger = self._pane(number), self.ledger
        counts = pane.counts
        if key not in counts:
            grown += ledger.cell_size(key)
            ledger.cells += 1
        count = counts[key] = counts.get(key, 0) + 1
        if not ledger.counting:
            pane.states[key] = state
        pane.bytes += grown
        ledger.bytes += grown
        if number < self.first_open:
            if self._at_once:
                self._emit(pane, key, "late update")
        elif self._every_items is not None and count % self._every_items == 0:
            self._emit(pane, key, "early")

    def _pane(self, number: int) -> Pane:
        pane = self._panes.get(number)
        if pane is None:
            pane = self._panes[number] = Pane(number)
            heapq.heappush(self._to_end if number >= self.first_open else self._to_go, number)
        return pane

    def _emit_changed(self, pane: Pane, kind: Kind) -> None:
        for key, count in pane.counts.items():
            shown = pane.shown.get(key)
            if shown is None or shown[0] != count:
                self._emit(pane, key, kind)

    def _emit(self, pane: Pane, key: Hashable, kind: Kind) -> None:
        count = pane.counts[key]
        revision = pane.shown.get(key, (0, 0))[1]
        bounds = (self.grid.start(pane.number), self.grid.end(pane.number))
        try:
            value = self.ledger.result(count, pane.states.get(key))
        except Exception as error:  # noqa: BLE001 - a user's function; other windows go on
            self.ledger.fail(key, bounds, error, count, kind, revision)
            pane.shown[key] = (count, revision)  # not to be tried again for the same items
            return
        pane.shown[key] = (count, revision + 1)
        self.ledger.emit(key, bounds, value, count, kind, revision)

    def _drop(self, pane: Pane) -> None:
        del self._panes[pane.number]
        self.ledger.cells -= len(pane.counts)
        self.ledger.bytes -= pane.bytes


def _cell_bytes(plan: WindowPlan) -> int:
    """Return about how many bytes one key takes in one window, without its own and those of its state."""
    size = _ENTRY_BYTES + _COUNT_BYTES
    if not isinstance(plan.aggregate, Count):
        size += _ENTRY_BYTES
    if plan.lateness or plan.sooner.every_items or plan.sooner.every_seconds:
        size += _ENTRY_BYTES + _SHOWN_BYTES
    return size
