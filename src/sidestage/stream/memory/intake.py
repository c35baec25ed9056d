"""What a source gives, let in as there is room for it: cut into pieces, and refused if it never fits."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from sidestage.errors import ItemTooLarge
from sidestage.policy.limits import size_text
from sidestage.stream.chunk import Chunk, Ledger, Ticket
from sidestage.stream.contract import Batch
from sidestage.stream.failing import Desk, GivenUp
from sidestage.stream.memory.budget import Room, Share
from sidestage.stream.memory.weights import weigh, weight
from sidestage.stream.operators import Step

STILL_SECONDS = 0.02
"""After so long without room, and nobody at work, all stages are to pass on what they hold."""

_FIRST_SECONDS = 0.002
"""How often to look whether it is known what becomes of the first item."""

_ROUGHLY = 2
"""A batch that is so many times a piece, or more, is cut."""


class Piece(NamedTuple):
    """Items of one batch by their places in it; ``size`` in bytes."""

    items: list[Any]
    places: list[int] | None
    size: int


class Others(Protocol):
    """All workers of a stream."""

    def is_still(self) -> bool:
        """Whether no chunk waits anywhere."""
        ...

    def is_at_rest(self) -> bool:
        """Whether, besides, nobody is at work on one."""
        ...


class Intake:
    """Stands between one source and its first stage.

    All pieces of a batch get their tickets when it is read, so that no checkpoint comes between them.
    """

    def __init__(
        self,
        share: Share,
        desk: Desk,
        size: Callable[[Any], float] | None,
        others: Others,
    ) -> None:
        self._share = share
        self._budget = share.budget
        self._desk = desk
        self._size = size
        self._others = others
        self._quiet = 0.0
        self._waiting: deque[tuple[Chunk, Room]] = deque()

    @property
    def holds(self) -> bool:
        """Whether something was read that there was no room for yet."""
        return bool(self._waiting)

    def ask(self, most: int) -> int:
        """Return how many items may be read now; 0: none."""
        return 0 if self._waiting else self._share.ask(most)

    def take(self, batches: Iterable[Batch], ledger: Ledger, now: float, ahead: int) -> None:
        """Note what was read, if anything; ``ahead`` items more are with the reader. Raises StreamFailed."""
        chunks: list[Chunk] = []
        sizes: list[int] = []
        for batch in batches:
            pieces = list(self._pieces(batch, ledger, now)) or [Piece([], None, 0)]
            upto = [batch.first] * (len(pieces) - 1) + [batch.next]
            for piece, position in zip(pieces, upto, strict=True):
                ticket = ledger.issue(Batch(batch.part, batch.first, piece.items, position), now)
                chunk = Chunk(piece.items, (ticket,), now, piece.places)
                if piece.items:
                    chunks.append(chunk)
                    sizes.append(piece.size)
                else:
                    chunk.settle()
        rooms = self._share.came(sizes, sum(len(chunk.items) for chunk in chunks), ahead)
        for chunk, room in zip(chunks, rooms, strict=True):
            chunk.tickets[0].room = room
            self._waiting.append((chunk, room))

    def push_on(self, push: Callable[[Chunk], None]) -> None:
        """Push on what there is room for."""
        while self._waiting and self._share.admit(self._waiting[0][1]):
            push(self._waiting.popleft()[0])

    def wait(self, step: Step, seconds: float) -> None:
        """Wait for room. If nothing moves, have all stages pass on what they hold: else it might never."""
        budget, others, is_known = self._budget, self._others, self._share.is_known
        released = budget.released
        seconds = min(seconds, STILL_SECONDS if is_known else _FIRST_SECONDS)
        budget.wait(seconds)
        if budget.released != released:
            self._quiet = 0.0
            return
        self._quiet += seconds
        if not is_known and others.is_at_rest():
            self._share.rest()
        elif self._quiet >= STILL_SECONDS and others.is_still():
            self._quiet = 0.0
            step.flush()

    def _pieces(self, batch: Batch, ledger: Ledger, now: float) -> Iterator[Piece]:
        """Yield the items of a batch, cut if it is large. Raises StreamFailed for one that never fits."""
        items, most = batch.items, self._share.piece
        if self._size is None:
            whole = weigh(items)
            if whole <= self._budget.limit and (whole < _ROUGHLY * most or len(items) <= 1):
                if items:
                    yield Piece(items, None, whole)
                return
        probe = Chunk(items, (Ticket(batch, ledger),), now)
        sizes = [self._measured(probe, index, item) for index, item in enumerate(items)]
        places: list[int] = []
        held = 0
        for place, size in enumerate(sizes):
            if size is None:
                continue
            if places and held + size > most:
                yield Piece([items[each] for each in places], places, held)
                places, held = [], 0
            places.append(place)
            held += size
        if len(places) == len(items):
            yield Piece(items, None, held)
        elif places:
            yield Piece([items[each] for each in places], places, held)

    def _measured(self, probe: Chunk, index: int, item: Any) -> int | None:
        """Return the bytes of an item, or None if it was refused. Raises StreamFailed."""
        try:
            size = weight(item) if self._size is None else _whole(self._size(item))
            if size <= self._budget.limit:
                return size
            error: Exception = ItemTooLarge(
                f"The item takes {size_text(size)}, and all of the stream {size_text(self._budget.limit)}.",
                hint="Raise Settings(memory=...), or make the items of the source smaller.",
            )
        except Exception as raised:  # noqa: BLE001 - the user's function
            error = raised
        self._desk.decide(probe, index, item, GivenUp(error, 1))
        return None


def _whole(size: object) -> int:
    """Return what a user's function says as a number of bytes. Raises TypeError."""
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < float("inf"):
        raise TypeError(f"size() gave {ascii(size)[:60]}, which is no number of bytes.")
    return int(size)
