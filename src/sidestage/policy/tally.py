"""Counts over the last seconds."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

M = TypeVar("M", bound=str)

_SLOTS = 10


class Slot(NamedTuple, Generic[M]):
    """A tenth of a tally's time: which one, the items in it, and how many were marked, by mark."""

    number: int
    items: int
    marked: Counter[M]


class Tally(Generic[M]):
    """How many items there were in the last ``within`` seconds, and how many of them carry a mark.

    Time is cut into tenths: the tally covers the running tenth and the nine before it. Not safe for threads.
    """

    def __init__(self, within: float) -> None:
        self._width = within / _SLOTS
        self._slots: deque[Slot[M]] = deque()
        self.items = 0
        self.marked: Counter[M] = Counter()

    @property
    def marks(self) -> int:
        """The marked items, whatever the mark."""
        return self.marked.total()

    @property
    def share(self) -> float:
        """The share of items that are marked, 0 to 1; 0 if there were none."""
        return self.marks / self.items if self.items else 0.0

    def add(self, now: float, items: int, marked: Mapping[M, int]) -> None:
        """Count ``items``, of which ``marked`` are marked, at ``now`` (seconds of a monotonic clock)."""
        number = int(now / self._width)
        if self._slots and self._slots[-1].number >= number:
            last = self._slots.pop()
            slot = Slot(last.number, last.items + items, last.marked + Counter(marked))
        else:
            slot = Slot(number, items, Counter(marked))
        self._slots.append(slot)
        self.items += items
        self.marked.update(marked)

    def forget(self, now: float) -> list[Slot[M]]:
        """Leave out what is too old at ``now``, and return it, oldest first."""
        oldest = int(now / self._width) - _SLOTS + 1
        gone: list[Slot[M]] = []
        while self._slots and self._slots[0].number < oldest:
            slot = self._slots.popleft()
            gone.append(slot)
            self.items -= slot.items
            self.marked -= slot.marked  # also drops marks that nothing carries any longer
        return gone
