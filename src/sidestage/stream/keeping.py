"""Base of stages that keep something until time releases it: windows, and rows that wait to be joined."""

import threading
from collections.abc import Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from sidestage.clock import Clock
from sidestage.stream.chunk import Chunk, Ledger, nowhere
from sidestage.stream.columns.chunk_parts import ChunkParts
from sidestage.stream.contract import Batch
from sidestage.stream.memory.pools import Holding
from sidestage.stream.operators import Step
from sidestage.stream.routing import Fork
from sidestage.stream.shape_nodes import LATE
from sidestage.stream.windows.watermarks import Moment

_TICK_SECONDS = 0.1


class KeptState(Protocol):
    """What is kept between items: windows, or rows that wait to be joined. It goes into checkpoints."""

    @property
    def partitions(self) -> frozenset[Hashable]:
        """The parts of sources that times came from."""
        ...

    @property
    def estimated_bytes(self) -> int:
        """About how much memory it takes."""
        ...

    def allow(self, size: int) -> None:
        """Let it take so many bytes at most from now on."""
        ...

    def forget(self, partition: Hashable, /) -> None:
        """Leave a part out: it holds nobody back any more."""
        ...

    def snapshot(self) -> bytes:
        """Return all that is needed to go on elsewhere."""
        ...

    def restore(self, snapshot: bytes, now: Moment) -> None:
        """Go on from a snapshot. Raises DataError."""
        ...


State = TypeVar("State", bound=KeptState)


class KeepingOperator(Generic[State]):
    """One worker's share of what is kept.

    An item is settled once it is taken in: what is kept is safe only with a checkpoint, which keeps it
    together with the positions that it was read up to. ``results`` that time alone releases are under way
    until they are settled. If ``keep`` is set, what is kept stays at the end, for somebody who goes on.
    """

    def __init__(self, state: State, clock: Clock, following: Step, keep: threading.Event) -> None:
        self.state = state
        self.results = Ledger()
        self.lock = threading.Lock()
        """Held while anything changes here: whoever takes a snapshot holds it."""
        self._clock = clock
        self._next = following
        self._late = following.sides.get(LATE) if isinstance(following, Fork) else None
        self._keep = keep
        self._due = clock.monotonic() + _TICK_SECONDS
        self._parts = ChunkParts(state.forget)
        self._holding: Holding | None = None

    def count_in(self, holding: Holding) -> None:
        """Count what is kept here as part of the stream's memory, and keep it within that."""
        self._holding = holding
        self._allow()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot. Raises DataError."""
        self.state.restore(snapshot, Moment.of(self._clock))
        self._weigh()
        self._parts.go_on_with(self.state.partitions)

    def due(self) -> float | None:
        """Return when to look whether time alone has released something."""
        further = self._next.due()
        return self._due if further is None else min(self._due, further)

    def tick(self, now: float) -> None:
        """Push on what time alone has released."""
        if now >= self._due:
            self._due = now + _TICK_SECONDS
            with self.lock:
                released = self._released()
                self._weigh()
                self._push_results(released)
        self._next.tick(now)

    def flush(self) -> None:
        """Have what follows pass on what it holds; what is kept here stays."""
        self._next.flush()

    def finish(self) -> None:
        """Push on all that is kept, unless somebody goes on with it, and finish what follows."""
        if not self._keep.is_set():
            with self.lock:
                rest = self._rest()
                self._weigh()
                self._push_results(rest)
        self._next.finish()

    def _released(self) -> Sequence[Any]:
        """Return what time has released by now."""
        raise NotImplementedError

    def _rest(self) -> Sequence[Any]:
        """Return what comes of all that is kept: nothing more comes in."""
        raise NotImplementedError

    def _allow(self) -> None:
        """Tell how much more may be kept, as all others are now."""
        if self._holding is not None:
            self.state.allow(self._holding.most())

    def _weigh(self) -> None:
        """Note how much is kept by now."""
        if self._holding is not None:
            self._holding.set(self.state.estimated_bytes)

    def _push_results(self, results: Sequence[Any]) -> None:
        if results:
            ticket = self.results.issue(Batch("results", 0, [], 0))
            origins = nowhere(len(results), (ticket,))
            self._next.push(Chunk(list(results), (ticket,), self._clock.monotonic(), origins))
