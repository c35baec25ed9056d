"""What lookups remember, weighed now and then, and kept within its part of the budget."""

from typing import Any

from sidestage.stream.chunk import Chunk
from sidestage.stream.lookups.cache import Lookup
from sidestage.stream.memory.pools import Holding
from sidestage.stream.memory.weights import weigh
from sidestage.stream.operators import Step

_SAMPLE = 32
_ENTRY_BYTES = 350
"""Bytes of an entry without key and value: its places in the dictionaries, and the answer; measured."""

_CHANGE = 0.05
"""Weighed again once so large a part of the entries has come or gone."""


class Remembered:
    """What one lookup remembers. Used by all workers of its stage: two that look at once do no harm."""

    def __init__(self, holding: Holding, lookup: Lookup[Any, Any]) -> None:
        self._holding = holding
        self._lookup = lookup
        self._entries = 0

    def look(self) -> None:
        """Weigh it if it has changed much, and have it forget what is too much."""
        entries = len(self._lookup)
        if abs(entries - self._entries) <= _CHANGE * self._entries:
            return
        sample = self._lookup.sample(_SAMPLE)
        mean = _ENTRY_BYTES + weigh(sample) / max(1, len(sample))
        self._lookup.bound(max(1, int(self._holding.most() / mean)))
        self._entries = len(self._lookup)
        self._holding.set(int(self._entries * mean))


class Remembering:
    """What follows a lookup: looks at what that remembers."""

    def __init__(self, remembered: Remembered, following: Step) -> None:
        self._look = remembered.look
        self._next = following
        self.due = following.due
        self.tick = following.tick
        self.flush = following.flush
        self.finish = following.finish

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self._look()
        self._next.push(chunk)
