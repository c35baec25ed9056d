"""One source, being read by the thread that does the first stages."""

from collections.abc import Callable, Iterable, Sequence

from sidestage.clock import Clock
from sidestage.stream.chunk import Chunk, Ledger
from sidestage.stream.contract import Batch, Position, Positions, Reader, TransactionLost
from sidestage.stream.joins.pacing import Pace
from sidestage.stream.memory.intake import Intake
from sidestage.stream.observing.spans import Incoming
from sidestage.stream.observing.watch import Watch
from sidestage.stream.operators import Step
from sidestage.stream.settings import Settings

READ_SECONDS = 0.1
"""How long a source waits at most before it hears that it is to stop."""


class Feed:
    """Reads, pushes on, and tells the source how far it has been dealt with.

    ``keep`` makes safe whatever is needed before a source may be told; None leaves both to a barrier.
    ``is_bound`` says that what is read belongs to a transaction: its parts must not be taken away.
    """

    def __init__(
        self,
        name: str,
        reader: Reader[object],
        step: Step,
        settings: Settings,
        clock: Clock,
        keep: Callable[[Positions], None] | None,
        watch: Watch | None = None,
        *,
        is_bound: bool = False,
    ) -> None:
        self.name = name
        self._reader = reader
        self._step = step
        self._keep = keep
        self._settings = settings
        self._clock = clock
        self._ledger = Ledger(name)
        self._is_bound = is_bound
        self._committed_at = clock.monotonic()
        self._watch = watch or Watch()
        self.incoming: Incoming | None = None
        """What tells the trace that an item came with."""
        self.intake: Intake | None = None
        """What lets in as much as there is memory for, if that is counted."""
        self.pace: Pace | None = None
        """What has it wait for the other side of a join, if anything does."""
        self._items = 0

    def go_on(self) -> bool:
        """Read what is there, and push it on; return False at the end of the source.

        Raises TransactionLost if somebody else reads what belongs to a transaction of this stream.
        """
        due = self._step.due()
        wait = READ_SECONDS
        if due is not None:
            wait = min(wait, max(0.0, due - self._clock.monotonic()))
        intake = self.intake
        most = self._may_read(wait)
        batches = self._read(most, wait) if most else ()
        lost = self._reader.lost()
        if lost and self._ledger.forget(lost) and self._is_bound:
            raise TransactionLost(f"{self.name}: {', '.join(sorted(lost))} taken away by another reader")
        now = self._clock.monotonic()
        if intake is None:
            self._push_all(batches or (), now)
        else:
            if most:
                intake.take(batches or (), self._ledger, now, self._ahead)
            intake.push_on(self._push)
        if due is not None and now >= due:
            self._step.tick(now)
            if self._watch.on:
                self._watch.rest()
        if now - self._committed_at >= self._settings.commit_every:
            self._committed_at = now
            self.commit()
        return batches is not None

    def _may_read(self, wait: float) -> int:
        """Return how many items may be read now; 0: none may, and some time has passed."""
        most, intake, pace = self._settings.chunk, self.intake, self.pace
        if intake is not None:
            most = intake.ask(most)
            if not most:
                intake.wait(self._step, wait)
                return 0
        if pace is not None and pace.is_held:
            if intake is not None:  # the room that it was promised is for others
                intake.take((), self._ledger, self._clock.monotonic(), self._ahead)
            pace.wait(wait)
            return 0
        return most

    @property
    def _ahead(self) -> int:
        """How many items the reader has that were not asked for yet, if it says so."""
        ahead: int = getattr(self._reader, "ahead", 0)
        return ahead

    def _read(self, most: int, wait: float) -> Sequence[Batch] | None:
        began = self._watch.begin_reading()
        batches = self._reader.read(most, wait)
        if began is not None:
            self._watch.end_reading(began, sum(len(batch.items) for batch in batches or ()))
        return batches

    def _push_all(self, batches: Iterable[Batch], now: float) -> None:
        for batch in batches:
            chunk = Chunk(batch.items, (self._ledger.issue(batch, now),), now)
            if chunk.items:
                self._push(chunk)
            else:
                chunk.settle()

    def _push(self, chunk: Chunk) -> None:
        watch = self._watch
        self._items += len(chunk.items)
        if watch.spans is not None:
            watch.spans.begin(self.name, chunk, self.incoming)
        watch.begin(chunk)
        self._step.push(chunk)
        if watch.on:
            watch.rest()

    @property
    def holds(self) -> bool:
        """Whether something was read that has not been pushed on yet, for want of memory."""
        return self.intake is not None and self.intake.holds

    def lag(self) -> float:
        """Return the age, in seconds, of the oldest batch that is under way; 0 if there is none."""
        oldest = self._ledger.oldest()
        return 0.0 if oldest is None else self._clock.monotonic() - oldest

    def reading_cpu(self) -> float:
        """Return the processor time that reading took, in seconds, estimated from some of the readings."""
        watch = self._watch
        return watch.read_cpu / watch.read_items * self._items if watch.read_items else 0.0

    def stop(self) -> None:
        """Take nothing more from the source; what it has taken already is still read."""
        self._end_pace()
        self._reader.stop()

    @property
    def has_settled(self) -> bool:
        """Whether any of its items have been dealt with."""
        return self._ledger.has_settled

    @property
    def unsettled(self) -> int:
        """How many of its batches are under way."""
        return self._ledger.unsettled

    def take_reached(self) -> dict[str, Position]:
        """Return, once, the positions that parts have reached since this was last asked."""
        return self._ledger.take_reached()

    def flush(self) -> None:
        """Have all stages pass on what they hold."""
        self._step.flush()

    def finish(self) -> None:
        """Push on what is held back: nothing more comes."""
        self._end_pace()
        self._step.finish()

    def _end_pace(self) -> None:
        pace, self.pace = self.pace, None
        if pace is not None:
            pace.end()

    def tell(self, reached: Positions) -> None:
        """Tell the source what need not be read again."""
        self._reader.commit(reached)

    def commit(self) -> None:
        """Tell the source how far it has been dealt with, if that is farther than before."""
        if self._keep is None:
            return
        reached = self._ledger.take_reached()
        if reached:
            self._keep(reached)
            self.tell(reached)
