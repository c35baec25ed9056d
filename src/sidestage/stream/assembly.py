"""From a layout to stages that run: mailboxes, desks, meters, and the chain of steps of each worker."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Circuit
from sidestage.policy.restart import Restarts
from sidestage.stream.batching import BatchOperator
from sidestage.stream.cache import Lookup
from sidestage.stream.contract import Sink, Writer
from sidestage.stream.coroutines import CoroutineStage
from sidestage.stream.failing import (
    DeadLetter,
    Desk,
    FailMode,
    Halt,
    OnError,
    Post,
    Raise,
    SetAside,
    Stopped,
    StreamDied,
)
from sidestage.stream.guarded import GuardedWriter
from sidestage.stream.layout import Layout, Segment
from sidestage.stream.lookups import LookupOperator
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.metrics import Meter, StageCounts, add_up
from sidestage.stream.nodes import (
    BatchNode,
    FilterNode,
    FlatMapNode,
    KeyNode,
    LookupNode,
    MapNode,
    MergeNode,
    Node,
    SinkNode,
    SourceNode,
    WindowNode,
)
from sidestage.stream.operators import Copies, FilterOperator, FlatMapOperator, MapOperator, Operator, Step
from sidestage.stream.outlets import KeyedOutlet, Turn, TurnOutlet, Turns, WriteStep
from sidestage.stream.processes import ProcessOperator, require_picklable
from sidestage.stream.settings import Settings
from sidestage.stream.spreading import spread
from sidestage.stream.windowed import WindowOperator, Windows

_OPERATORS: dict[type[Node], type[Operator]] = {
    MapNode: MapOperator,
    FilterNode: FilterOperator,
    FlatMapNode: FlatMapOperator,
}


class Closing(Protocol):
    """What is closed when its worker ends."""

    def close(self) -> None:
        """Release what it holds."""
        ...


@dataclass(frozen=True)
class Lane:
    """One worker of a segment, being put together: what it opened, and how it waits for its turn to send."""

    segment: Segment
    number: int
    open: list[Closing] = field(default_factory=list)
    turn: Turn | None = None


class Assembly:
    """Everything that the workers of one run share.

    Raises DefinitionError if items are to be set aside and there is no place for them.
    """

    def __init__(
        self, layout: Layout, settings: Settings, halt: Halt, clock: Clock, fail: FailMode, post: Post | None
    ) -> None:
        self.layout = layout
        self.halt = halt
        self._settings = settings
        self._clock = clock
        self._meters: defaultdict[Node, list[Meter]] = defaultdict(list)
        self.letters = Letters(post)
        self.windows = Windows(_window_names(layout))
        # Where windows stay, a key must find its worker again in the next process.
        self._spread: Callable[[Any], int] = spread if self.windows.names else hash
        self.keeps_windows = threading.Event()
        """Whether windows stay open at the end, because somebody goes on with them."""
        self.restarts = Restarts(settings.restart, random.random)
        self.circuits = {
            node: Circuit(layout.names[node], node.breaker, clock)
            for node in layout.nodes
            if isinstance(node, SinkNode) and node.breaker is not None
        }
        self._lookups: dict[Node, Lookup[Any, Any]] = {
            node: Lookup(layout.names[node], node.function, node.cache, clock, many=node.many)  # type: ignore[call-overload]
            for node in layout.nodes
            if isinstance(node, LookupNode)
        }
        for node in layout.nodes:
            if isinstance(node, MapNode) and node.manner.on == "process":
                require_picklable(node.function, layout.names[node])
        usual: OnError = SetAside() if fail == "soft" else Raise()
        self._desks = {node: self._desk(node, usual) for node in layout.nodes}
        self.inlets = {
            segment: self._mailboxes(segment)
            for segment in layout.segments
            if not isinstance(segment.head, SourceNode)
        }
        self.turns = {
            segment: Turns(segment.workers, halt)
            for segment in layout.segments
            if segment.threads > 1 and segment.ordered and segment.keyed is None
        }

    def first_step(self, lane: Lane) -> Step:
        """Return what a worker pushes its chunks into, in the thread of that worker: it opens its sinks."""
        head = lane.segment.head
        return self._followers(head, lane) if isinstance(head, SourceNode) else self._step(head, lane)

    def coroutine_stage(self, node: MapNode, lane: Lane) -> tuple[CoroutineStage, Step]:
        """Return a stage of coroutines, and what it pushes its chunks into."""
        stage = CoroutineStage(
            node.function,
            lane.segment.workers,
            node.manner.timeout,
            self._desks[node],
            self._meter(node),
            self.halt,
            ordered=lane.segment.ordered,
        )
        return stage, self._followers(node, lane)

    def rest_after(self, death: BaseException) -> None:
        """Pause before a worker that died goes on as a new one. Raises StreamDied, Stopped."""
        pause = self.restarts.next_pause(self._clock.monotonic())
        if pause is None:
            raise StreamDied(f"Its workers keep dying: {death!r}") from death
        if self.halt.wait(pause):
            raise Stopped

    def counts(self) -> tuple[StageCounts, ...]:
        """Return what each stage did so far, in the order of the description."""
        return tuple(self._counts(node) for node in self.layout.nodes if not isinstance(node, SourceNode))

    def _counts(self, node: Node) -> StageCounts:
        total = add_up(self._meters[node])
        segment = self.layout.segment_of[node]
        pending = sum(each.pending for each in self.inlets.get(segment, ())) if segment.head is node else 0
        return StageCounts(
            self.layout.names[node],
            segment.workers,
            pending,
            total.processed,
            sum(self._desks[node].errors.values()),
            total.seconds,
            tuple(total.buckets),
        )

    def _desk(self, node: Node, usual: OnError) -> Desk:
        on_error = node.manner.on_error or usual
        name = self.layout.names[node]
        if isinstance(on_error, SetAside) and not self.letters.have_a_place:
            raise DefinitionError(
                f"The stage {name!r} sets items aside, and there is no place for them.",
                hint="Name one: run(dead_letters=letters.append), or a file.",
            )
        return Desk(
            name, on_error, node.manner.retry, self.letters.post, self.halt, random.random, self.rest_after
        )

    def _mailboxes(self, segment: Segment) -> tuple[Mailbox, ...]:
        senders = self.layout.senders(segment.head)
        count = segment.threads if segment.keyed is not None else 1
        return tuple(Mailbox(self._settings.buffer, self.halt, senders=senders) for _ in range(count))

    def _followers(self, node: Node, lane: Lane) -> Step:
        steps = [self._entry(after, lane) for after in self.layout.after[node]]
        return steps[0] if len(steps) == 1 else Copies(steps)

    def _entry(self, node: Node, lane: Lane) -> Step:
        """Return the way into a stage: itself, or its mailbox."""
        if not self.layout.begins_segment(node):
            return self._step(node, lane)
        segment = self.layout.segment_of[node]
        inlets = self.inlets[segment]
        outlet: Mailbox | KeyedOutlet = inlets[0]
        keyed = segment.keyed
        if keyed is not None and keyed is lane.segment.keyed:
            outlet = inlets[lane.number]
        elif keyed is not None:
            desk, meter = self._desks[keyed], self._meter(keyed)
            outlet = KeyedOutlet(keyed.key, self._spread, keyed.into, inlets, desk, meter)
        return outlet if lane.turn is None else TurnOutlet(outlet, lane.turn)

    def _step(self, node: Node, lane: Lane) -> Step:
        if isinstance(node, SinkNode):
            return WriteStep(self._writer(node, lane), self._desks[node], self._meter(node))
        following = self._followers(node, lane)
        if isinstance(node, KeyNode | MergeNode):
            return following
        return self._operator(node, lane, following)

    def _operator(self, node: Node, lane: Lane, following: Step) -> Step:
        desk, meter = self._desks[node], self._meter(node)
        match node:
            case WindowNode():
                return self._windows_of(node, lane, meter, following)
            case LookupNode():
                return LookupOperator(node.key, self._lookups[node], node.put, desk, meter, following)
            case BatchNode():
                return BatchOperator(node.size, node.within, self._clock, meter, following)
            case MapNode() if node.manner.on == "process":
                return self._process_step(node, lane, meter, following)
            case MapNode() | FilterNode() | FlatMapNode():
                return _OPERATORS[type(node)](node.function, desk, meter, following)
        raise TypeError(node)

    def _windows_of(self, node: WindowNode, lane: Lane, meter: Meter, following: Step) -> Step:
        beside = None if node.beside is None else _opened(node.beside, lane)
        operator = WindowOperator(
            node.plan,
            self._clock,
            self._desks[node],
            meter,
            following,
            beside,
            self.keeps_windows,
        )
        self.windows.add(_window_name(self.layout, node, lane.number), operator)
        return operator

    def _writer(self, node: SinkNode, lane: Lane) -> Writer[Any]:
        writer = _opened(node.sink, lane)
        if node.breaker is None:
            return writer
        return GuardedWriter(writer, self.circuits[node], node.breaker, self.halt)

    def _process_step(self, node: MapNode, lane: Lane, meter: Meter, following: Step) -> Step:
        operator = ProcessOperator(
            node.function,
            node.manner.timeout,
            self._desks[node],
            meter,
            following,
            self.restarts,
            self.halt,
            self._clock,
        )
        lane.open.append(operator)
        return operator

    def _meter(self, node: Node) -> Meter:
        meter = Meter()
        self._meters[node].append(meter)
        return meter


def _opened(sink: Sink[Any], lane: Lane) -> Writer[Any]:
    """Return a sink that is written to by a worker, and closed when that ends."""
    writer = sink.open()
    lane.open.append(writer)
    return writer


def _window_names(layout: Layout) -> frozenset[str]:
    return frozenset(
        _window_name(layout, node, number)
        for node in layout.nodes
        if isinstance(node, WindowNode)
        for number in range(layout.segment_of[node].threads)
    )


def _window_name(layout: Layout, node: Node, number: int) -> str:
    return f"{layout.names[node]} {number + 1} of {layout.segment_of[node].threads}"


class Letters:
    """The way to where dead letters are kept, for all stages."""

    def __init__(self, post: Callable[[DeadLetter], None] | None) -> None:
        self._post = post
        self._lock = threading.Lock()
        self.count = 0

    @property
    def have_a_place(self) -> bool:
        """Whether anything can be set aside."""
        return self._post is not None

    def post(self, letter: DeadLetter) -> None:
        """Set an item aside, safely."""
        assert self._post is not None
        self._post(letter)
        with self._lock:
            self.count += 1

    def sync(self) -> None:
        """Return when all that was set aside is safe."""
        sync = getattr(self._post, "sync", None)
        if sync is not None:
            sync()
