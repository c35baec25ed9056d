"""Items that move together, and the tickets by which their source learns that they have arrived."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from sidestage.stream.contract import Batch, Position
from sidestage.stream.observing.traces import trace_of

if TYPE_CHECKING:
    from sidestage.stream.observing.spans import Trail


NOWHERE = -1
"""The origin of what came of no single item."""


def nowhere(count: int, tickets: Collection["Ticket"]) -> list[int] | None:
    """Return the origins of so many items that came of no single one each."""
    return [NOWHERE] * count if len(tickets) == 1 else None  # several tickets have none anyway


class Origin(msgspec.Struct, frozen=True):
    """Where an item came from: ``index`` counts the items of its batch, which began at ``first``."""

    part: str
    first: Position
    index: int


class Releasing(Protocol):
    """What a batch takes of the memory of the stream."""

    def release(self) -> None:
        """Give it back."""
        ...


class Ticket:
    """One batch of a source. It is settled when nothing that came of it is under way any more.

    ``born`` is when it was read, ``settled`` is called when it is settled. ``room`` is what it takes of the
    stream's memory, if that is counted.
    """

    __slots__ = ("_ledger", "born", "first", "next", "part", "pending", "room", "settled", "size", "source")

    def __init__(self, batch: Batch, ledger: "Ledger", born: float = 0.0) -> None:
        self.source = ledger.source
        self.part = batch.part
        self.first = batch.first
        self.next = batch.next
        self.pending = 1
        self.size = len(batch.items)
        self.born = born
        self.settled: Callable[[], None] | None = None
        self.room: Releasing | None = None
        self._ledger = ledger

    @property
    def is_revoked(self) -> bool:
        """Whether somebody took back the item that it stands for."""
        return False

    @property
    def is_several(self) -> bool:
        """Whether it stands for several batches, of which nobody knows which items came from where."""
        return False

    def hold(self, times: int = 1) -> None:
        """Wait for so many chunks more."""
        self._ledger.hold(self, times)

    def settle(self) -> None:
        """Note that one chunk has been dealt with."""
        self._ledger.settle(self)


class Chunk:
    """Items on their way. ``origins`` holds the index of each in its ticket's batch; None: its own.

    There is more than one ticket where items of several batches were put together, and no origins then.
    ``sequence`` numbers chunks that are to leave a stage in the order in which they came; ``born`` is when
    its oldest item was read, in seconds of the monotonic clock. ``weight`` is how many items its items hold,
    if those are lists; ``trail`` how far its trace has come, if it is traced.
    """

    __slots__ = ("born", "items", "origins", "sequence", "tickets", "trail", "weight")

    def __init__(
        self,
        items: list[Any],
        tickets: tuple[Ticket, ...],
        born: float,
        origins: list[int] | None = None,
    ) -> None:
        self.items = items
        self.tickets = tickets
        self.origins = origins
        self.born = born
        self.sequence = 0
        self.weight = 0
        self.trail: Trail | None = None

    def origin_of(self, index: int) -> Origin | None:
        """Return where the item with this index came from, if that is one batch."""
        ticket, place = self.tickets[0], self._place(index)
        return None if place is None else Origin(ticket.part, ticket.first, place)

    def trace_of(self, index: int) -> str | None:
        """Return the trace id of the item with this index, if it came of one batch."""
        place = self._place(index)
        return None if place is None else trace_of(self.tickets[0], place)

    def _place(self, index: int) -> int | None:
        if len(self.tickets) != 1 or self.tickets[0].is_several:
            return None
        place = index if self.origins is None else self.origins[index]
        return None if place == NOWHERE else place

    @property
    def is_revoked(self) -> bool:
        """Whether somebody took back what it came of."""
        return len(self.tickets) == 1 and self.tickets[0].is_revoked

    @property
    def load(self) -> int:
        """How much room it takes: its items, or what they hold."""
        return self.weight or len(self.items)

    def become(self, made: list[Any], gone: Sequence[int]) -> None:
        """Hold what was made of its items, one of each but those with the indices ``gone``."""
        if gone and len(self.tickets) == 1:
            left = frozenset(gone)
            origins: Iterable[int] = range(len(self.items)) if self.origins is None else self.origins
            self.origins = [each for index, each in enumerate(origins) if index not in left]
        self.items = made

    def settle(self) -> None:
        """Note that all of it has been dealt with."""
        for ticket in self.tickets:
            ticket.settle()

    def hold(self, times: int = 1) -> None:
        """Have its tickets wait for so many chunks more."""
        for ticket in self.tickets:
            ticket.hold(times)


class Ledger:
    """The tickets of a source, by part, in the order of reading.

    A part has reached the place where its first unsettled batch begins: all before it has been dealt with.
    """

    def __init__(self, source: str = "") -> None:
        self.source = source
        self.has_settled = False
        """Whether a batch with items has been dealt with."""
        self._lock = threading.Lock()
        self._open: dict[str, deque[Ticket]] = {}
        self._reached: dict[str, Position] = {}

    def issue(self, batch: Batch, now: float = 0.0) -> Ticket:
        """Return the ticket of a batch that has just been read, at ``now`` of the monotonic clock."""
        ticket = Ticket(batch, self, now)
        with self._lock:
            self._open.setdefault(batch.part, deque()).append(ticket)
        return ticket

    def hold(self, ticket: Ticket, times: int) -> None:
        """Have a ticket wait for more."""
        with self._lock:
            ticket.pending += times

    def settle(self, ticket: Ticket) -> None:
        """Note that a ticket waits for one chunk less."""
        with self._lock:
            ticket.pending -= 1
            if ticket.pending:
                return
            if ticket.size:
                self.has_settled = True
            queue = self._open.get(ticket.part)
            while queue and not queue[0].pending:
                done = queue.popleft()
                self._reached[done.part] = done.next
        if ticket.room is not None:
            ticket.room.release()
        if ticket.settled is not None:
            ticket.settled()

    def take_reached(self) -> dict[str, Position]:
        """Return, once, the positions that parts have reached since this was last asked."""
        if not self._reached:
            return {}
        with self._lock:
            reached, self._reached = self._reached, {}
        return reached

    def forget(self, parts: Collection[str]) -> bool:
        """Commit nothing of these parts any more: somebody else reads them.

        Returns whether anything of them was read that has not been told by ``take_reached``.
        """
        with self._lock:
            unsettled = [self._open.pop(part, None) for part in parts]
            untold = [self._reached.pop(part, None) for part in parts]
        return any(unsettled) or any(each is not None for each in untold)

    def oldest(self) -> float | None:
        """Return when the oldest batch was read of those under way, None if there are none."""
        with self._lock:
            return min((queue[0].born for queue in self._open.values() if queue), default=None)

    @property
    def unsettled(self) -> int:
        """How many batches are under way."""
        with self._lock:
            return sum(len(queue) for queue in self._open.values())
