"""Memory that two processes share, and use again and again: one end writes into it, the other one reads it.

A segment is a file in memory without a name, so none is left behind, however its processes end. The reader
works in the segment itself. It gives it back when nothing of what it was handed refers to it any more, and
only then is it written to again. Filling a new segment costs three times as much as filling one again: hence
all this.
"""

import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MOST_BYTES = 64 << 20
"""What the segments of one end may take together. What does not fit takes another way."""

_MOST_SEGMENTS = 8
_GRAIN = 1 << 20


class Segment(NamedTuple):
    """Memory to write to. ``fresh``: the descriptor of one that the reader has not seen, or None."""

    slot: int
    size: int
    view: memoryview
    fresh: int | None


class Lender:
    """The segments that one end writes to. They grow with what they are needed for."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._free: set[int] = set()
        self._is_possible = hasattr(os, "memfd_create")

    def take(self, size: int) -> Segment | None:
        """Return a segment of at least this size, until it ``came_back``; None if there is no room."""
        fitting = [slot for slot in self._free if len(self._maps[slot]) >= size]
        if not fitting:
            return self._made(size)
        slot = min(fitting, key=lambda each: len(self._maps[each]))
        return self._lent(slot, None)

    def came_back(self, slots: Iterable[int]) -> None:
        """Note that nobody reads these any more."""
        self._free.update(slots)

    def _lent(self, slot: int, fresh: int | None) -> Segment:
        self._free.discard(slot)
        memory = self._maps[slot]
        return Segment(slot, len(memory), memoryview(memory), fresh)

    def _made(self, size: int) -> Segment | None:
        """Return a new segment, in place of one that is too small if there is one to spare."""
        spare = max(self._free, key=lambda slot: len(self._maps[slot]), default=None)
        taken = sum(map(len, self._maps)) - (0 if spare is None else len(self._maps[spare]))
        capacity = min(-(-(size + size // 4) // _GRAIN) * _GRAIN, MOST_BYTES - taken)
        if not self._is_possible or capacity < size or (spare is None and len(self._maps) >= _MOST_SEGMENTS):
            return None
        try:
            number = os.memfd_create("sidestage-stream")
        except OSError:
            self._is_possible = False
            return None
        try:
            os.posix_fallocate(number, 0, capacity)
            memory = _mapped(number, capacity)
        except OSError:
            os.close(number)
            return None
        if spare is None:
            spare = len(self._maps)
            self._maps.append(memory)
        else:
            self._maps[spare] = memory
        return self._lent(spare, number)


class Borrower:
    """The segments that the other end writes to, and which of them are not read any more."""

    def __init__(self) -> None:
        self._kinds: dict[int, Callable[[], Any]] = {}
        self._lent: dict[int, weakref.ref[Any]] = {}
        self._returned: deque[int] = deque()

    def learn(self, slot: int, number: int, size: int) -> None:
        """Take a new segment in place of an earlier one. Closes the descriptor."""
        import ctypes  # noqa: PLC0415 - few streams need it

        try:
            memory = _mapped(number, size)
        finally:
            os.close(number)
        # Unlike a memoryview it stays as long as any part of it is in use, and says when that ends.
        kind: Any = type("Lent", (ctypes.c_char * size,), {})
        self._kinds[slot] = lambda: kind.from_buffer(memory)

    def borrow(self, slot: int) -> memoryview:
        """Return a segment; it goes back when nothing refers to this, or to parts of it."""
        lent = self._kinds[slot]()
        returned = self._returned
        self._lent[slot] = weakref.ref(lent, lambda _: returned.append(slot))
        return memoryview(lent).cast("B")

    def returned(self) -> list[int]:
        """Return, once, which segments are not read any more."""
        slots = []
        while self._returned:
            slots.append(self._returned.popleft())
        return slots


def _mapped(number: int, size: int) -> mmap.mmap:
    """Return the memory of a descriptor, which it does not need any more if Python allows that."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(number, size, trackfd=False)
    return mmap.mmap(number, size)
