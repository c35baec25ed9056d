"""The chain of steps of one worker: the operators of its segment, and the ways out of it."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sidestage.stream.assembly import Assembly, window_name
from sidestage.stream.contract import Sink, Writer
from sidestage.stream.failing import Desk
from sidestage.stream.guarding.limiting import Bounds, KeyLimitOperator, Limiter, LimitOperator
from sidestage.stream.guarding.timed_writer import TimedWriter
from sidestage.stream.guarding.writer import GuardedWriter
from sidestage.stream.joins.interval_stage import IntervalOperator
from sidestage.stream.keys.coroutines import KeyedCoroutineStage
from sidestage.stream.keys.hot_keys import Alarm
from sidestage.stream.keys.lines import LineOutlet, Lines
from sidestage.stream.keys.outlets import KeyedOutlet, MailboxOutlets, Numbers, Outlets
from sidestage.stream.keys.overflow import Aside, LineOutlets
from sidestage.stream.layout import Segment
from sidestage.stream.life.revoking import RevocableOperator
from sidestage.stream.lookups.remembering import Remembering
from sidestage.stream.lookups.stage import LookupOperator
from sidestage.stream.memory.pools import Kind
from sidestage.stream.memory.weighing import Weighed
from sidestage.stream.nodes import (
    BatchNode,
    FilterNode,
    FlatMapNode,
    KeyNode,
    LimitNode,
    LookupNode,
    MapNode,
    MergeNode,
    Node,
    RevocableNode,
    SinkNode,
    SourceNode,
    WindowNode,
    sources_before,
)
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.observing.watch import Branch, Leaving, Watch, Watched
from sidestage.stream.operators import Copies, FilterOperator, FlatMapOperator, MapOperator, Operator, Step
from sidestage.stream.outlets import Turn, TurnOutlet, WriteStep
from sidestage.stream.routing import Away, Fork
from sidestage.stream.scopes.gates import Closing
from sidestage.stream.shape_nodes import (
    FAILED,
    BatchMapNode,
    GatherNode,
    IntervalNode,
    RouteNode,
    SideNode,
    TableJoinNode,
)
from sidestage.stream.shape_steps import shape_step
from sidestage.stream.windows.stage import WindowOperator
from sidestage.stream.workers.coroutines import CoroutineStage
from sidestage.stream.workers.hands import Hands
from sidestage.stream.workers.process_steps import ProcessNode, function_of, process_step

_OPERATORS: dict[type[Node], type[Operator]] = {
    MapNode: MapOperator,
    FilterNode: FilterOperator,
    FlatMapNode: FlatMapOperator,
}

_HELD_SECONDS = 10.0
"""How long an item is held back at most where checkpoints wait until nothing is."""


@dataclass(frozen=True)
class Lane:
    """One worker of a segment, being put together: what it opened, and how it waits for its turn to send."""

    segment: Segment
    number: int
    open: list[Closing] = field(default_factory=list)
    turn: Turn | None = None
    watch: Watch = field(default_factory=Watch)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close in the end all that the worker opened, also if some of it cannot be closed."""
        with ExitStack() as stack:
            try:
                yield
            finally:
                for each in self.open:
                    stack.callback(each.close)


class Chain:
    """Puts together what one worker does, in the thread of that worker: it opens its sinks."""

    def __init__(self, assembly: Assembly, lane: Lane) -> None:
        self._shared = assembly
        self._layout = assembly.layout
        self._lane = lane

    def first_step(self) -> Step:
        """Return what the worker pushes its chunks into."""
        head, scopes = self._lane.segment.head, self._shared.scopes
        scopes.enter(self._lane.segment, self._lane.number)
        if isinstance(head, SourceNode):
            return self._followers(head)
        step = self._step(head)
        scopes.quiet(head, self._lane.open)
        return step

    def coroutine_stage(self, node: MapNode) -> tuple[CoroutineStage, Step]:
        """Return a stage of coroutines, and what it pushes its chunks into."""
        segment, shared = self._lane.segment, self._shared
        following = self._followers(node)
        parts = (
            shared.guards.around(node, node.function),
            segment.workers,
            node.manner.timeout if node.manner.guard is None else None,  # the guard's waits do not count
            self._desk(node, following),
            shared.new_meter(node),
            shared.halt,
        )
        stage: CoroutineStage
        if segment.lines:
            stage = KeyedCoroutineStage(*parts, shared.line_inlets[segment][0])
        else:
            stage = CoroutineStage(*parts, ordered=segment.ordered)
        shared.scopes.note_coroutines(node, stage)
        shared.scopes.quiet(node, self._lane.open)
        return stage, Watched(following, self._lane.watch)

    def _followers(self, node: Node) -> Step:
        afters = self._layout.after[node]
        results = self._copies([self._entry(after) for after in afters if not isinstance(after, SideNode)])
        sides: dict[str, list[Step]] = {}
        for after in afters:
            if isinstance(after, SideNode):
                sides.setdefault(after.port, []).append(self._branch(self._entry(after)))
        if not sides:
            return results
        return Fork(results, {port: self._copies(steps) for port, steps in sides.items()})

    def _copies(self, steps: list[Step]) -> Step:
        """Return the way to all of several steps."""
        if not steps:
            return Away()
        return steps[0] if len(steps) == 1 else Copies([self._branch(step) for step in steps])

    def _branch(self, step: Step) -> Step:
        watch = self._lane.watch
        return step if watch.spans is None else Branch(step, watch)

    def _entry(self, node: Node) -> Step:
        """Return the way into a stage, past a balance if memory is counted."""
        budget, step = self._shared.budget, self._way_into(node)
        return step if budget is None else Weighed(budget, self._shared.hops[node], step)

    def _way_into(self, node: Node) -> Step:
        """Return the way into a stage: itself, or its mailbox."""
        if not self._layout.begins_segment(node):
            return self._shared.scopes.gated(node, lambda: self._step(node), self._lane.open)
        segment = self._layout.segment_of[node]
        keyed = segment.keyed
        mine = self._lane.segment
        if keyed is None:
            way: Step = self._shared.inlets[segment][0]
        elif segment.lines:
            lines = self._shared.lines[segment]
            if mine.keyed is keyed:
                way = LineOutlet(self._shared.line_inlets[mine][self._lane.number], lines)
            else:
                way = self._fan_out(keyed, segment.lines, self._line_outlets(keyed, segment, lines))
        else:
            mailboxes = self._shared.inlets[segment]
            if mine.keyed is keyed:
                way = mailboxes[self._lane.number]
            else:
                way = self._fan_out(keyed, keyed.into, MailboxOutlets(mailboxes))
        if self._lane.turn is not None:
            way = TurnOutlet(way, self._lane.turn)
        return way if self._lane.watch.spans is None else Leaving(way, self._lane.watch)

    def _fan_out(self, keyed: KeyNode, into: int, to: Outlets) -> Step:
        # In turn, chunks are sent by whichever worker comes to it, whom this one cannot watch.
        watch = self._lane.watch if self._lane.turn is None else None
        desk, meter = self._shared.desks[keyed], self._shared.new_meter(keyed, watch)
        return KeyedOutlet(self._numbers(keyed), into, to, desk, meter)

    def _line_outlets(self, keyed: KeyNode, segment: Segment, lines: Lines) -> LineOutlets:
        shared, names = self._shared, self._layout.names
        store = shared.stores.get(keyed)
        aside = None if store is None else Aside(store, shared.desks[keyed], names[keyed])
        alarm = Alarm(names[segment.head], shared.clock, shared.listener)
        return LineOutlets(lines, self._numbers(keyed), alarm, aside)

    def _numbers(self, keyed: KeyNode) -> Numbers:
        return Numbers(keyed.key, self._shared.spread, keyed.manner.on_error, self._layout.names[keyed])

    def _step(self, node: Node) -> Step:
        return self._shared.revoking.sifted(node, self._step_itself(node))

    def _step_itself(self, node: Node) -> Step:
        if isinstance(node, SinkNode):
            return WriteStep(self._writer(node), self._shared.desks[node], self._meter(node))
        following = self._followers(node)
        if isinstance(node, KeyNode | MergeNode | SideNode):
            return following
        if isinstance(node, RevocableNode):
            desk, meter = self._desk(node, following), self._meter(node)
            return RevocableOperator(node.by, self._shared.revoking.stages[node], desk, meter, following)
        return self._operator(node, following)

    def _desk(self, node: Node, following: Step) -> Desk:
        """Return where a stage brings what it fails on; that leaves by its port if somebody follows it."""
        desk = self._shared.desks[node]
        failed = following.sides.get(FAILED) if isinstance(following, Fork) else None
        return desk if failed is None else desk.sending_to(failed.push)

    def _operator(self, node: Node, following: Step) -> Step:
        desk, meter = self._desk(node, following), self._meter(node)
        match node:
            case MapNode() | FilterNode() | FlatMapNode() | BatchMapNode() if node.manner.on == "process":
                return process_step(node, self._hands(node, desk, meter), desk, meter, following)
            case WindowNode() | IntervalNode():
                return self._keeping(node, desk, meter, following)
            case LookupNode():
                if node in self._shared.remembered:
                    following = Remembering(self._shared.remembered[node], following)
                return LookupOperator(node.key, self._shared.lookups[node], node.put, desk, meter, following)
            case LimitNode():
                return self._limit(node, desk, meter, following)
            case BatchNode() | GatherNode() | BatchMapNode() | RouteNode() | TableJoinNode():
                return shape_step(node, self._shared, desk, meter, following)
            case MapNode() | FilterNode() | FlatMapNode():
                function = self._shared.guards.around(node, node.function)
                return _OPERATORS[type(node)](function, desk, meter, following)
        raise TypeError(node)

    def _limit(self, node: LimitNode, desk: Desk, meter: Meter, following: Step) -> Step:
        limiter = self._limiter(node, desk, meter, following)
        if node in self._shared.scopes.endable:
            limiter.scope = self._shared.scopes.of[node]
        return limiter

    def _limiter(self, node: LimitNode, desk: Desk, meter: Meter, following: Step) -> Limiter:
        shared = self._shared
        if node.by is None:
            return LimitOperator(shared.rates[node], shared.clock, shared.halt, meter, following)
        waited_for = shared.windows.names or shared.transactions is not None
        longest = _HELD_SECONDS if waited_for else math.inf
        return KeyLimitOperator(
            node.by,
            shared.rates_by_key[node],
            Bounds(node.held, longest, node.rate.interval),
            shared.clock,
            shared.halt,
            desk,
            meter,
            following,
        )

    def _meter(self, node: Node) -> Meter:
        return self._shared.new_meter(node, self._lane.watch)

    def _keeping(self, node: WindowNode | IntervalNode, desk: Desk, meter: Meter, following: Step) -> Step:
        """Return a stage whose state is in checkpoints; it goes on with what it had."""
        clock, keep = self._shared.clock, self._shared.scopes.keeping(node, self._shared.keeps_windows)
        operator: WindowOperator | IntervalOperator
        if isinstance(node, IntervalNode):
            operator = IntervalOperator(node.plan, clock, desk, meter, following, keep)
            if node in self._shared.paces.of_joins:
                operator.pace_with(self._shared.paces.of_joins[node], self._lane.number)
        else:
            beside = None if node.beside is None else self._opened(node.beside)
            operator = WindowOperator(node.plan, clock, desk, meter, following, beside, keep)
        if self._shared.budget is not None:
            kind: Kind = "joins" if isinstance(node, IntervalNode) else "windows"
            operator.count_in(self._shared.budget.kept.holding(kind))
        self._shared.windows.add(window_name(self._layout, node, self._lane.number), operator)
        if isinstance(operator, WindowOperator):
            names = {self._layout.names[source] for source in sources_before(node)}
            operator.heed(self._shared.arrivals, names)
        return operator

    def _writer(self, node: SinkNode) -> Writer[Any]:
        transactions = self._shared.transactions
        if transactions is not None and transactions.node is node:
            return transactions.writer
        writer = self._timed(node, node.manner.timeout) if node.manner.timeout else self._opened(node.sink)
        if node.breaker is None:
            return writer
        halt = self._shared.scopes.halt_of(node)
        return GuardedWriter(writer, self._shared.circuits[node], node.breaker, halt)

    def _timed(self, node: SinkNode, timeout: float) -> Writer[Any]:
        shared = self._shared
        name, look = shared.layout.names[node], shared.guards.look
        writer = TimedWriter(name, node.sink, timeout, shared.clock, shared.listener, look)
        self._lane.open.append(writer)
        return shared.scopes.held_writer(node, writer)

    def _opened(self, sink: Sink[Any]) -> Writer[Any]:
        """Return a sink that is written to by the worker, and closed when that ends."""
        writer = sink.open()
        self._lane.open.append(writer)
        return writer

    def _hands(self, node: ProcessNode, desk: Desk, meter: Meter) -> Hands:
        """Return a process that is ready, closed when the worker ends."""
        shared = self._shared
        hands = Hands(
            function_of(node), node.manner.timeout, desk, meter, shared.restarts, shared.halt, shared.clock
        )
        hands.hand = shared.scopes.hand()
        self._lane.open.append(hands)
        hands.open()
        return hands
