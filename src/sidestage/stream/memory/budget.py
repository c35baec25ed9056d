"""One amount of memory for all that a stream holds: read ahead, waiting, at work, put together, and kept.

What is read is admitted by bytes: a source reads on while there is room, and waits otherwise. What the stages
make of it may be larger; then its share grows, which never waits, or two stages could wait for each other.
How much larger things become is learned, and room for it is left when more is read. A share is given back
when nothing that came of a batch is under way any more.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sidestage.stream.chunk import Chunk
from sidestage.stream.memory.pools import KINDS, Kind, Pool
from sidestage.stream.memory.weights import weigh

PIECES = 16
"""One chunk takes at most about one part in so many of the budget."""

_UNPROVEN_PART = 8
"""While all is held back and nothing is through yet, only one part in so many is used: it may still grow."""

_FORGET = 0.05
"""How fast a source forgets, per batch, that items were larger or grew more."""

_TABLES_PART = 2
"""Tables that are joined may take one part in so many; the others, each a part of what tables leave."""

_KEPT_PART = 3
"""What windows and joins keep may take so much together: all at once, its results need the rest."""

_CACHES_PART = 4

_ORIGIN_BYTES = 40
"""What it takes to know of an item where it came from, once its chunk was taken apart."""

_WORTH = 4
"""While others are under way, reading less than one part in so many of a chunk is put off."""


class MemoryCounts(msgspec.Struct, frozen=True):
    """The memory of a stream, in bytes: what it may hold, holds, and held at most, as estimated.

    ``windows``, ``joins``, ``tables``, ``lookups`` are the parts of it that are kept; the rest is under way.
    """

    budget: int
    used: int
    peak: int
    windows: int = 0
    joins: int = 0
    tables: int = 0
    lookups: int = 0

    @property
    def kept(self) -> dict[str, int]:
        """What is kept, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS}


class Hop(NamedTuple):
    """A place at which chunks are weighed. Items that went several ways are counted once.

    ``branch`` tells ways apart that lead to different sinks; None where all go the same way. ``learns`` says
    whether what is weighed there still comes of single items.
    """

    number: int
    branch: int | None
    learns: bool


class Budget:
    """What all workers of a run share of memory; ``limit`` in bytes. Safe for threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.piece = max(1, limit // PIECES)
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._used = 0
        self._peak = 0
        self._promised = 0
        self._closed = False
        self.released = 0
        """How often something was given back."""
        self.left = 0
        """What was under way when the run ended: nothing, unless it was told to stop at once."""
        self._results = Share(self)
        self.tables = Pool(self, _TABLES_PART)
        self.kept = Pool(self, _KEPT_PART, self.tables)
        self.caches = Pool(self, _CACHES_PART, self.tables)

    def counts(self) -> MemoryCounts:
        """Return what is used."""
        with self._lock:
            kept: dict[Kind, int] = {}
            for pool in () if self._closed else self._pools:
                kept |= pool.by_kind
            return MemoryCounts(self.limit, self._used, self._peak, **kept)

    def share(self) -> "Share":
        """Return the account of one source."""
        return Share(self)

    def note(self, hop: Hop, chunk: Chunk) -> None:
        """Weigh a chunk. If it is more than was counted for its tickets, their share grows. Never waits."""
        size = weigh(chunk.items)
        if chunk.origins is not None:
            size += _ORIGIN_BYTES * len(chunk.origins)
        with self._lock:
            rooms: list[Room] = []
            for ticket in chunk.tickets:
                if ticket.room is None:  # results of windows: they were not read
                    ticket.room = Room(self._results, size // len(chunk.tickets))
                    self._results.began(ticket.room)
                if isinstance(ticket.room, Room):
                    rooms.append(ticket.room)
            whole = sum(room.base for room in rooms)
            for room in rooms:
                room.note(hop, size * room.base // whole)

    def add(self, size: int) -> None:
        """Count more, or less. Called with the lock held."""
        self._used += size
        self._peak = max(self._peak, self._used)
        if size < 0:
            self._tell()

    def promise(self, size: int) -> None:
        """Keep more room free, or less, for what is to come. Called with the lock held."""
        self._promised += size
        if size < 0:
            self._tell()

    def free(self, part: int) -> int:
        """Return how much more fits into one part in ``part``. Called with the lock held."""
        return self.limit // part - self._used - self._promised

    def wait(self, seconds: float) -> None:
        """Wait until something is given back, but not longer."""
        with self._lock:
            self._freed.wait(seconds)

    def close(self) -> None:
        """Note that the run is over: nothing is held any more, though it may not have been given back."""
        with self._lock:
            if not self._closed:
                self.left = self._used - sum(pool.used for pool in self._pools)
            self._closed = True
            self._used = self._promised = 0

    @property
    def lock(self) -> threading.Lock:
        """Held while anything here changes."""
        return self._lock

    @property
    def is_closed(self) -> bool:
        """Whether the run is over."""
        return self._closed

    @property
    def _pools(self) -> tuple[Pool, ...]:
        return self.tables, self.kept, self.caches

    def _tell(self) -> None:
        self.released += 1
        self._freed.notify_all()


class Share:
    """What one source has under way, and what is known about its items.

    The first item goes alone: until it is through, or held back somewhere, nobody knows what becomes of it.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._under_way = 0
        self._asked = 0
        self._ahead = 0
        self._waiting = 0
        self._most = 1
        self._mean = 0.0
        self._growth = 1.0
        self._is_known = False
        self._part = _UNPROVEN_PART

    @property
    def piece(self) -> int:
        """How many bytes a piece of what is read should take at most: less if they are to become more."""
        return max(1, int(self.budget.piece / self._growth))

    def ask(self, most: int) -> int:
        """Return how many items may be read now, up to ``most``; 0: none. Room for them is kept free.

        One may always be read if nothing is under way: then waiting would change nothing.
        """
        budget = self.budget
        with budget.lock:
            expected = self._mean * self._growth
            wanted = min(most, self._most, max(1, int(budget.piece / expected)) if expected else 1)
            fitting = int(budget.free(self._part) / expected) if expected and self._is_known else 0
            if fitting < max(1, wanted // _WORTH):
                if self._under_way:
                    return 0
                fitting = max(1, fitting)
            number = min(wanted, fitting)
            self._asked = int(number * expected)
            budget.promise(self._asked)
            return number

    def came(self, sizes: Sequence[int], count: int, ahead: int) -> "list[Room]":
        """Note what was read: so many items, in pieces of these sizes; ``ahead`` items wait in the reader.

        Each piece counts from now on; it is not under way yet.
        """
        budget = self.budget
        rooms = [Room(self, size) for size in sizes]
        came = sum(room.base for room in rooms)
        with budget.lock:
            budget.promise(-self._asked)
            self._asked = 0
            if count:
                mean = came / count
                self._mean = max(mean, self._mean + (mean - self._mean) * _FORGET)
                self._most = max(self._most, 2 * count)
            size = int(ahead * self._mean)
            budget.add(came + size - self._ahead)
            self._ahead = size
            self._waiting += came
        return rooms

    def admit(self, room: "Room") -> bool:
        """Return whether a piece may go now, and count it as under way if so.

        It is there already, like all that waits with it: only what it will become needs room.
        """
        budget = self.budget
        with budget.lock:
            more = int(room.base * (self._growth - 1))
            free = budget.free(self._part) + self._waiting
            if self._under_way and not (self._is_known and room.base + more <= free):
                return False
            self._waiting -= room.base
            room.promise = more
            budget.promise(more)
            self._under_way += 1
            return True

    def began(self, room: "Room") -> None:
        """Count what was not read as under way. Called with the lock held."""
        self._under_way += 1
        self.budget.add(room.base)

    def ended(self, room: "Room") -> None:
        """Give back what a piece had."""
        budget = self.budget
        with budget.lock:
            self._under_way -= 1
            self._is_known, self._part = True, 1
            learned = max(1.0, room.growth)
            self._growth = max(learned, self._growth + (learned - self._growth) * _FORGET)
            if not budget.is_closed:
                budget.promise(-room.promise)
                budget.add(-room.size)

    def grew(self, room: "Room") -> None:
        """Learn from how much a piece has grown. Called with the lock held."""
        self._growth = max(self._growth, room.growth)

    @property
    def is_known(self) -> bool:
        """Whether it is known what becomes of an item, at least up to where it is held back."""
        return self._is_known

    def rest(self) -> None:
        """Note that nothing more becomes of the first item for now: it is held back."""
        self._is_known = True


class Room:
    """What one piece of what was read takes: ``base`` as it was read, ``size`` by now, at most."""

    __slots__ = ("_branches", "_by_hop", "_share", "_trunk", "base", "growth", "promise", "size")

    def __init__(self, share: Share, base: int) -> None:
        self._share = share
        self.base = max(1, base)
        self.size = self._trunk = self.base
        self.promise = 0
        self.growth = 1.0
        self._by_hop: dict[int, int] = {}
        self._branches: dict[int, int] = {}

    def note(self, hop: Hop, size: int) -> None:
        """Count a chunk that came of it and passes a hop. Called with the budget's lock held."""
        seen = self._by_hop[hop.number] = self._by_hop.get(hop.number, 0) + size
        if seen <= self._trunk:
            return
        if hop.branch is None:
            self._trunk = seen
        else:
            self._branches[hop.branch] = max(seen, self._branches.get(hop.branch, 0))
        total = self._trunk + sum(max(0, each - self._trunk) for each in self._branches.values())
        grown = total - self.size
        if grown <= 0:
            return
        budget = self._share.budget
        self.size = total
        if budget.is_closed:
            return
        kept = min(grown, self.promise)
        self.promise -= kept
        budget.promise(-kept)
        budget.add(grown)
        if hop.learns:
            self.growth = total / self.base
            self._share.grew(self)

    def release(self) -> None:
        """Give it back: nothing that came of it is under way."""
        self._share.ended(self)
