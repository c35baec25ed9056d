"""The rows of one side of a join, by key and time, and about how many bytes they take."""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Hashable
from operator import itemgetter
from typing import Any, NamedTuple

from sidestage.stream.memory.weights import weights
from sidestage.stream.windows.aggregate import bytes_of
from sidestage.stream.windows.watermarks import EventTime, Moment, Watermarks

_ROW_BYTES = 245
"""What a row takes beside its item: its places by time and by age; measured with Python 3.11."""

_SHELF_BYTES = 250
"""What a key takes beside itself and its rows; measured likewise."""

_WEIGHED_AT_ONCE = 512

_NUMBER = 3
"""Where the number of a row stands in a record."""


class Standing(NamedTuple):
    """How far left and right have come by their own items, in seconds since the epoch, and which are idle."""

    reached: tuple[float, float]
    idle: tuple[bool, bool]


class Row:
    """An item that waits. ``size``: bytes that it takes with its places; 0 if nobody counts them."""

    __slots__ = ("is_joined", "item", "number", "size")

    def __init__(self, item: Any, number: int, size: int, *, is_joined: bool) -> None:
        self.item = item
        self.number = number
        self.size = size
        self.is_joined = is_joined


class _Shelf:
    """The rows of one key of a side, by time, and by order of arrival among equal times."""

    __slots__ = ("rows", "size", "times")

    def __init__(self, size: int) -> None:
        self.times: list[float] = []
        self.rows: list[Row] = []
        self.size = size

    def add(self, time: float, row: Row) -> None:
        place = bisect_right(self.times, time)
        self.times.insert(place, time)
        self.rows.insert(place, row)


class Side:
    """All the rows of one side. ``lead``: how much later than its rows the other side's may be."""

    def __init__(self, time: EventTime, lead: float) -> None:
        self.time = time
        self.lead = lead
        self.marks = Watermarks(time)
        self.reached = -math.inf
        self.heard: float | None = None
        self.shelves: dict[Hashable, _Shelf] = {}
        self.count = 0
        self.bytes = 0
        self._order: list[tuple[float, int, Hashable]] = []

    def cost(self, key: Hashable, size: int) -> int:
        """Return about how many bytes one more row of this key takes, whose item takes ``size``."""
        return size + _ROW_BYTES + (0 if key in self.shelves else _shelf_bytes(key))

    def add(self, time: float, key: Hashable, row: Row) -> None:
        """Let a row wait."""
        shelf = self.shelves.get(key)
        if shelf is None:
            shelf = self.shelves[key] = _Shelf(_shelf_bytes(key) if row.size else 0)
            self.bytes += shelf.size
        shelf.add(time, row)
        heapq.heappush(self._order, (time, row.number, key))
        self.count += 1
        self.bytes += row.size

    def weigh(self) -> None:
        """Count the bytes of all rows that wait, which nobody did before."""
        rows = [row for shelf in self.shelves.values() for row in shelf.rows]
        for start in range(0, len(rows), _WEIGHED_AT_ONCE):
            some = rows[start : start + _WEIGHED_AT_ONCE]
            for row, size in zip(some, weights([row.item for row in some]), strict=True):
                row.size = size + _ROW_BYTES
        for key, shelf in self.shelves.items():
            shelf.size = _shelf_bytes(key)
        self.bytes = sum(row.size for row in rows) + sum(shelf.size for shelf in self.shelves.values())

    def matches(self, time: float, key: Hashable, lead: float) -> list[Row]:
        """Return the rows that belong to one of the other side, whose ``lead`` this is."""
        shelf = self.shelves.get(key)
        if shelf is None:
            return []
        mine = self.lead
        first = bisect_left(shelf.times, time, key=lambda own: own + mine)
        return shelf.rows[first : bisect_right(shelf.times, time + lead)]

    def stay(self, now: Moment) -> None:
        """Do not become idle for now: nobody reads the sources of this side."""
        self.heard = now.monotonic
        self.marks.stay(now)

    def release(self, bound: float) -> list[Row]:
        """Forget rows that nothing from ``bound`` on belongs to; return them, the oldest first."""
        order, gone = self._order, Counter[Hashable]()
        released: list[Row] = []
        while order and order[0][0] + self.lead < bound:
            key = heapq.heappop(order)[2]
            released.append(self.shelves[key].rows[gone[key]])
            gone[key] += 1
        for key, count in gone.items():
            shelf = self.shelves[key]
            if count == len(shelf.rows):
                self.bytes -= shelf.size
                del self.shelves[key]
            else:
                del shelf.times[:count], shelf.rows[:count]
        self.count -= len(released)
        self.bytes -= sum(row.size for row in released)
        return released

    def record(self) -> tuple[Any, ...]:
        """Return all that is needed to go on later."""
        rows = [
            (time, key, row.item, row.number, row.is_joined, row.size)
            for key, shelf in self.shelves.items()
            for time, row in zip(shelf.times, shelf.rows, strict=True)
        ]
        return (self.marks.record(), self.reached, self.heard, rows)

    def resume(self, record: tuple[Any, ...], now: Moment, latest: float, *, weighs: bool) -> None:
        """Go on with what ``record`` returned at ``latest``. ``weighs``: count the bytes of rows."""
        marks, self.reached, heard, rows = record
        self.marks.resume(marks, now)
        self.heard = None if heard is None else heard + (now.monotonic - latest)
        is_known = True
        for time, key, item, number, is_joined, *size in sorted(rows, key=itemgetter(_NUMBER)):
            known = size[0] if size and weighs else 0
            is_known = is_known and known > 0
            self.add(time, key, Row(item, number, known, is_joined=is_joined))
        if weighs and not is_known:  # nobody asked for it when the checkpoint was taken
            self.weigh()


def row_size(item_size: int) -> int:
    """Return what a row takes whose item takes so many bytes."""
    return item_size + _ROW_BYTES


def _shelf_bytes(key: Hashable) -> int:
    return _SHELF_BYTES + bytes_of(key)
