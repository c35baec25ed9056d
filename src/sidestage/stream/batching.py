"""Items put together: by number, and by the time that the first of them may wait."""

from collections import deque
from time import perf_counter
from typing import Any

from sidestage.clock import Clock
from sidestage.stream.chunk import Chunk, Ticket, nowhere
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.observing.spans import together
from sidestage.stream.operators import Step


class BatchOperator:
    """Makes lists of ``size`` items; shorter ones when the first is ``within`` seconds old, and at the end.

    A list holds the tickets of all the chunks that its items came in.
    """

    def __init__(self, size: int, within: float | None, clock: Clock, meter: Meter, following: Step) -> None:
        self._size = size
        self._within = within
        self._clock = clock
        self._meter = meter
        self._next = following
        self._items: list[Any] = []
        self._held: deque[tuple[int, Chunk]] = deque()  # (items of the chunk that are still here, chunk)
        self._since = 0.0

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        came = len(chunk.items)
        if not self._items and self._within is not None:
            self._since = self._clock.monotonic()
        self._items += chunk.items
        self._held.append((came, chunk))
        full = len(self._items) // self._size
        made = self._taken(full) if full else None
        self._meter.took(came, perf_counter() - began)
        chunk.trail = self._meter.trail(chunk)
        if made is not None:
            self._push(*made)

    def due(self) -> float | None:
        """Return when the first item has waited long enough."""
        further = self._next.due()
        if not self._items or self._within is None:
            return further
        mine = self._since + self._within
        return mine if further is None else min(mine, further)

    def tick(self, now: float) -> None:
        """Pass on what has waited long enough."""
        if self._items and self._within is not None and now >= self._since + self._within:
            self._push(*self._taken(1))
        self._next.tick(now)

    def flush(self) -> None:
        """Pass on the rest."""
        if self._items:
            self._push(*self._taken(1))
        self._next.flush()

    def finish(self) -> None:
        """Pass on the rest: nothing more comes."""
        if self._items:
            self._push(*self._taken(1))
        self._next.finish()

    def _push(self, lists: Chunk, traced: list[Chunk]) -> None:
        """Push on lists, with the traces of those of their chunks that have one."""
        lists.trail = together([each.trail for each in traced if each.trail is not None])
        self._meter.follow(lists.trail)
        self._next.push(lists)

    def _taken(self, count_of_lists: int) -> tuple[Chunk, list[Chunk]]:
        """Return the first items as a chunk of lists, and the chunks that they came in."""
        size, items = self._size, self._items
        upto = count_of_lists * size
        made = [items[at : at + size] for at in range(0, min(upto, len(items)), size)]
        tickets: dict[Ticket, None] = {}
        chunks: list[Chunk] = []
        born = self._held[0][1].born
        left = min(upto, len(items))
        while left:
            count, chunk = self._held.popleft()
            chunks.append(chunk)
            taken = min(left, count)
            left -= taken
            for ticket in chunk.tickets:
                if ticket in tickets:
                    if taken == count:
                        ticket.settle()  # it is held already, by this very chunk of lists
                    continue
                tickets[ticket] = None
                if taken < count:
                    ticket.hold()
            if taken < count:
                self._held.appendleft((count - taken, chunk))
        self._items = items[upto:]
        if self._items and self._within is not None:
            self._since = self._clock.monotonic()
        lists = Chunk(made, tuple(tickets), born, nowhere(len(made), tickets))
        lists.weight = sum(map(len, made))
        return lists, chunks
