"""The parts of one run that can be cancelled: who is at work on what, and which stages are no more."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from sidestage.clock import Clock
from sidestage.errors import DefinitionError, SidestageError
from sidestage.events import Event, Listener
from sidestage.policy.news import News
from sidestage.stream.contract import Writer
from sidestage.stream.failing import Halt
from sidestage.stream.layout import Layout, Segment
from sidestage.stream.nodes import MapNode, Node, SinkNode, SourceNode
from sidestage.stream.operators import Step
from sidestage.stream.scopes.branches import endable
from sidestage.stream.scopes.events import SinkLeft, WorkerAtWork, WorkerCancellation, WorkerCancelled
from sidestage.stream.scopes.gates import Closing, Gate, Quiet
from sidestage.stream.scopes.halting import ScopedHalt
from sidestage.stream.scopes.hands import Ask, Hand, Held
from sidestage.stream.scopes.scope import Cancelled, Scope

PATIENCE = 5.0
"""How many seconds a worker may take to give up what it was asked for."""


class Coroutines(Protocol):
    """A stage of coroutines, as whoever cancels one of them sees it."""

    def ask(self, number: int | None, error: Cancelled) -> Sequence[Ask]:
        """Ask the worker with this number, or all, to give up what they have in hand.

        Raises SidestageError if their event loop does not answer.
        """
        ...

    def at_work(self) -> Sequence[tuple[int, float]]:
        """Return the numbers of those that have something in hand, and for how many seconds."""
        ...


class Mine(threading.local):
    """What each thread of a worker has in hand."""

    hand: Hand | None = None


class Scopes:
    """Stages and workers of one run."""

    def __init__(self, layout: Layout, clock: Clock, halt: Halt, listener: Listener | None) -> None:
        self.layout = layout
        self.nodes = {layout.names[node]: node for node in layout.nodes}
        self.of = {node: Scope() for node in layout.nodes}
        self.endable = endable(layout)
        self.ending = threading.Lock()
        """Held by whoever cancels a stage: what else may be cancelled depends on it."""
        self.goes_on = False
        """Whether somebody goes on from checkpoints: what windows hold stays in them then."""
        self._clock = clock
        self._halt = halt
        self._news = News(listener)
        self._mine = Mine()
        self._lock = threading.Lock()
        self._hands: dict[tuple[Segment, int], Hand] = {}
        self._coroutines: dict[Node, Coroutines] = {}

    def enter(self, segment: Segment, number: int) -> None:
        """Note that the thread that calls is the worker of a segment with this number, from zero."""
        hand = self._mine.hand = Hand()
        with self._lock:
            self._hands[segment, number] = hand

    def hand(self) -> Hand:
        """Return what the worker whose thread calls has in hand; a new one in threads of nobody."""
        return self._mine.hand or Hand()

    def note_coroutines(self, node: Node, stage: Coroutines) -> None:
        """Note who does a stage of coroutines."""
        self._coroutines[node] = stage

    def halt_of(self, node: Node) -> Halt:
        """Return what a stage waits with: if it may be cancelled that ends the wait."""
        return ScopedHalt(self._halt, self.of[node]) if node in self.endable else self._halt

    def keeping(self, node: Node, usual: threading.Event) -> threading.Event:
        """Return whether what a stage holds stays at its end, as usual or since it was cancelled."""
        if node not in self.endable:
            return usual
        return _Keeping(usual, self.of[node], self)

    def look(self) -> None:
        """Raise Cancelled if the worker whose thread calls is to give up what it has in hand."""
        hand = self._mine.hand
        if hand is not None and hand.asked is not None:
            hand.look()

    def held(self, node: Node, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a function whose calls whoever waits for them can give up, as ``look`` says."""
        name, scope, mine, monotonic = (
            self.layout.names[node],
            self.of[node],
            self._mine,
            self._clock.monotonic,
        )

        def in_hand(item: Any) -> Any:
            if scope.error is not None:
                raise Cancelled(*scope.error.args)
            hand = mine.hand
            if hand is None:
                return call(item)
            hand.held = Held(name, "thread", monotonic(), item)
            try:
                return call(item)
            finally:
                hand.leave()

        return in_hand

    def held_writer(self, node: Node, writer: Writer[Any]) -> Writer[Any]:
        """Return a writer whose writing can be given up."""
        return _HeldWriter(self.held(node, writer.write), writer)

    def gated(self, node: Node, build: Callable[[], Step], opened: list[Closing]) -> Step:
        """Return the way into a stage that the worker of the one before does, with a gate if it needs one.

        ``build`` returns the stage, and adds what it opens to ``opened``.
        """
        is_within = bool(node.before) and node.before[0] in self.endable
        if node not in self.endable or (
            is_within and not isinstance(node, SinkNode) and not self._parts(node)
        ):
            return build()
        before = len(opened)
        step, scope = build(), self.of[node]
        behind: list[Closing] = [Quiet(each, scope, self._teller(node)) for each in opened[before:]]
        opened[before:] = behind
        return Gate(scope, step, behind)

    def quiet(self, node: Node, opened: list[Closing]) -> None:
        """Have errors of closing what the worker of a stage opened told, once the stage is cancelled."""
        if node in self.endable:
            opened[:] = [Quiet(each, self.of[node], self._teller(node)) for each in opened]

    def tell(self, event: Event) -> None:
        """Have the listener hear of an event."""
        self._news.note(event)
        self._news.tell()

    def node(self, stage: str) -> Node:
        """Return the stage of this name. Raises DefinitionError."""
        node = self.nodes.get(stage)
        if node is None:
            known = ", ".join(name for name, each in self.nodes.items() if not isinstance(each, SourceNode))
            raise DefinitionError(f"There is no stage {stage!r}.", hint=f"There are {known}.")
        return node

    def at_work(self) -> tuple[WorkerAtWork, ...]:
        """Return who is at work on something that can be given up, the longest first."""
        now = self._clock.monotonic()
        with self._lock:
            hands = dict(self._hands)
        found = [
            WorkerAtWork(held.stage, number + 1, held.kind, now - held.since)
            for (_, number), hand in hands.items()
            if (held := hand.held) is not None
        ]
        for node, stage in list(self._coroutines.items()):
            name = self.layout.names[node]
            found += [WorkerAtWork(name, number, "coroutine", seconds) for number, seconds in stage.at_work()]
        return tuple(sorted(found, key=lambda each: -each.seconds))

    def cancel_worker(self, stage: str, number: int, why: str, by: str) -> WorkerCancellation:
        """Have one worker give up what it has in hand. Raises DefinitionError, SidestageError."""
        node = self.node(stage)
        segment = self.layout.segment_of[node]
        if not 1 <= number <= segment.workers:
            raise DefinitionError(
                f"{stage!r} has no worker {number}.",
                hint=f"Its workers are counted from 1 to {segment.workers}.",
            )
        kind = _kind(node, stage)
        error = Cancelled(f"the worker {stage} {number} was cancelled{told(by, why)}")
        asks: Sequence[Ask]
        hand = None
        if kind == "coroutine":
            coroutines = self._coroutines.get(node)
            asks = () if coroutines is None else coroutines.ask(number, error)
        else:
            with self._lock:
                hand = self._hands.get((segment, number - 1))
            ask = None if hand is None else hand.ask(error, lambda held: held == stage)
            asks = () if ask is None else (ask,)
        for ask in asks:
            if not ask.over.wait(PATIENCE):
                if hand is not None:
                    hand.withdraw(ask)
                if not ask.was_given_up:
                    raise _deaf(stage, number)
            if ask.was_given_up:
                self.tell(WorkerCancelled(self._clock.now(), stage, number, kind, by, why))
                return WorkerCancellation(stage, number, kind, ask.item)
        return WorkerCancellation(stage, number, kind, None)

    def ask_all(self, nodes: Sequence[Node], error: Cancelled) -> int:
        """Ask all workers to give up what they have in hand of some stages; return how many were asked."""
        names = {self.layout.names[node] for node in nodes}
        with self._lock:
            hands = list(self._hands.values())
        asked = sum(hand.ask(error, names.__contains__) is not None for hand in hands)
        for node in nodes:
            coroutines = self._coroutines.get(node)
            if coroutines is not None:
                with suppress(SidestageError):  # their loop is busy: they hear of it when they come to an end
                    asked += len(coroutines.ask(None, error))
        return asked

    def _parts(self, node: Node) -> bool:
        """Whether the stage before goes on without a stage."""
        return len(self.layout.after[node.before[0]]) > 1

    def _teller(self, node: Node) -> Callable[[Exception], None]:
        def tell(error: Exception) -> None:
            self.tell(SinkLeft(self._clock.now(), self.layout.names[node], type(error).__name__))

        return tell


class _Keeping(threading.Event):
    """Whether what a stage holds stays for the next run. Nobody sets it."""

    def __init__(self, usual: threading.Event, scope: Scope, scopes: Scopes) -> None:
        super().__init__()
        self._usual = usual
        self._scope = scope
        self._scopes = scopes

    def is_set(self) -> bool:
        return self._usual.is_set() or (self._scope.error is not None and self._scopes.goes_on)


class _HeldWriter:
    """A writer whose writing can be given up."""

    def __init__(self, write: Callable[[Any], Any], writer: Writer[Any]) -> None:
        self.write = write
        self.close = writer.close


def told(by: str, why: str) -> str:
    """Return who cancelled something, and why, as the end of a sentence."""
    return f"{f' by {by}' if by else ''}{f': {why}' if why else ''}"


def _kind(node: Node, stage: str) -> Any:
    """Return what the workers of a stage are. Raises DefinitionError if they can give up nothing."""
    if isinstance(node, MapNode) and node.is_async:
        return "coroutine"
    if node.manner.on == "process":
        return "process"
    guard = node.manner.guard
    timed = guard is not None and guard.bulkhead is not None and guard.bulkhead.timeout is not None
    if isinstance(node, SourceNode) or not (timed or node.manner.timeout is not None):
        raise DefinitionError(
            f"The workers of {stage!r} are threads without a timeout: nobody can end what they are at.",
            hint='Give the stage a timeout, however long (timeout=3600), or on="process", then one of its '
            "workers can be cancelled. What runs now: engine.cancel_stage() if it is a branch of its own, "
            "or engine.cancel().",
        )
    return "thread"


def _deaf(stage: str, number: int) -> SidestageError:
    return SidestageError(
        f"The worker {stage} {number} did not give up what it has in hand within {PATIENCE:g} s.",
        hint="A breaker that is open, or code of your own that catches its cancellation? "
        "engine.cancel_stage() or engine.cancel() end more than one worker.",
    )
