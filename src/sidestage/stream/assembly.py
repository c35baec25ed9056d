"""What the workers of one run share: mailboxes, desks, meters, circuits, what is remembered."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Listener
from sidestage.policy.breaker import Circuit
from sidestage.policy.rate import Bucket, Buckets
from sidestage.policy.surge import Surge
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import (
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
from sidestage.stream.guarding.guards import Guards
from sidestage.stream.guarding.surges import StageSurge, WatchedMeter
from sidestage.stream.joins.intervals import IntervalState
from sidestage.stream.joins.metrics import of_joins
from sidestage.stream.joins.pacing import Paces
from sidestage.stream.joins.side_tables import LoadedTable
from sidestage.stream.keys.lines import LineInlet, Lines
from sidestage.stream.keys.spill import Store
from sidestage.stream.keys.spreading import spread
from sidestage.stream.layout import Layout, Segment
from sidestage.stream.letters.post import Letters
from sidestage.stream.life.restarting import ToldRestarts
from sidestage.stream.life.revoking import Revoking
from sidestage.stream.lookups.cache import Lookup
from sidestage.stream.lookups.remembering import Remembered
from sidestage.stream.mailbox import Bounded, Inlet, Mailbox
from sidestage.stream.memory.budget import Budget, MemoryCounts
from sidestage.stream.memory.pools import Holding
from sidestage.stream.memory.weighing import hops
from sidestage.stream.nodes import (
    KeyNode,
    LimitNode,
    LookupNode,
    Node,
    RevocableNode,
    SinkNode,
    SourceNode,
    WindowNode,
    key_before,
)
from sidestage.stream.observing.logs import Logged
from sidestage.stream.observing.metrics import Meter, StageCounts, add_up, estimated_cpu
from sidestage.stream.observing.recent import Recent
from sidestage.stream.observing.retuning import Retuner, Tuned
from sidestage.stream.observing.spans import Spans
from sidestage.stream.observing.watch import Watch
from sidestage.stream.outlets import Turns
from sidestage.stream.scopes.scopes import Scopes
from sidestage.stream.settings import Settings
from sidestage.stream.shape_nodes import FAILED, IntervalNode, SideNode, TableJoinNode
from sidestage.stream.transactions import transactions_of
from sidestage.stream.walking import heeding
from sidestage.stream.windows.arrivals import Arrivals
from sidestage.stream.windows.metrics import of_windows
from sidestage.stream.windows.stage import Windows
from sidestage.stream.windows.state import WindowState
from sidestage.stream.workers.process_steps import ProcessNode
from sidestage.stream.workers.processes import require_picklable

S = TypeVar("S", WindowState, IntervalState)


class Assembly:
    """Everything that the workers of one run share.

    Raises DefinitionError if items are to be set aside and there is no place for them.
    """

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        clock: Clock,
        *,
        fail: FailMode,
        post: Post | None,
        listener: Listener | None,
    ) -> None:
        self.layout = layout
        self.spans = Spans(settings.trace, clock) if settings.trace else None
        self.recent = Recent(clock.monotonic)
        self.listener = listener = Logged(listener)
        self.halt = Halt()
        self._settings = settings
        self.clock = clock
        memory = settings.memory_bytes
        self.budget = None if memory is None else Budget(memory)
        self.hops = hops(layout)
        self._meters: defaultdict[Node, list[Meter]] = defaultdict(list)
        self.letters = Letters(post)
        self.transactions = transactions_of(layout)
        self.windows = Windows(_window_names(layout))
        self.arrivals = Arrivals()
        # Where windows stay, a key must find its worker again in the next process.
        self.spread: Callable[[Any], int] = spread if self.windows.names else hash
        self.keeps_windows = threading.Event()
        """Whether windows stay open at the end, because somebody goes on with them."""
        self.restarts = ToldRestarts(settings.restart, random.random, clock, listener)
        self.circuits = {
            node: Circuit(layout.names[node], node.breaker, clock, listener)
            for node in layout.nodes
            if isinstance(node, SinkNode) and node.breaker is not None
        }
        self.scopes = Scopes(layout, clock, self.halt, listener)
        self.guards = Guards(layout, clock, self.halt, listener, self.scopes)
        self.lookups: dict[Node, Lookup[Any, Any]] = {
            node: _lookup(node, layout.names[node], self.guards, self.halt, clock, listener)
            for node in layout.nodes
            if isinstance(node, LookupNode)
        }
        limits = [node for node in layout.nodes if isinstance(node, LimitNode)]
        self.rates = {node: Bucket(node.rate, clock) for node in limits if node.by is None}
        self.rates_by_key: dict[Node, Buckets[Hashable]] = {
            node: Buckets(node.rate, clock) for node in limits if node.by is not None
        }
        self.tables = {
            node: LoadedTable(layout.names[node], node.table, clock, listener, holding=self._table_holding())
            for node in layout.nodes
            if isinstance(node, TableJoinNode)
        }
        self.remembered = {
            node: Remembered(self.budget.caches.holding("lookups"), lookup)
            for node, lookup in self.lookups.items()
            if self.budget is not None
        }
        for node in layout.nodes:
            if isinstance(node, ProcessNode) and node.manner.on == "process":
                require_picklable(node.function, layout.names[node])
        usual: OnError = SetAside() if fail == "soft" else Raise()
        self.desks = {node: self._desk(node, usual) for node in layout.nodes}
        self._surges = _surges(self.desks, layout, settings.surge, self.halt, clock, listener)
        self.paces = Paces(layout)
        self.revoking = Revoking(layout, self.desks, clock, listener)
        self.inlets = {
            segment: self._mailboxes(segment)
            for segment in layout.segments
            if not (segment.lines or isinstance(segment.head, SourceNode))
        }
        self.lines = {segment: self._lines(segment) for segment in layout.segments if segment.lines}
        self.line_inlets = {
            segment: tuple(LineInlet(lines) for _ in range(segment.threads))
            for segment, lines in self.lines.items()
        }
        self.stores = {
            node: Store(node.spill)
            for node in layout.nodes
            if isinstance(node, KeyNode) and node.spill is not None
        }
        self.turns = {
            segment: Turns(segment.workers, self.halt)
            for segment in layout.segments
            if segment.threads > 1 and segment.ordered and segment.keyed is None
        }

    def _table_holding(self) -> Holding | None:
        return None if self.budget is None else self.budget.tables.holding("tables")

    def rest_after(self, death: BaseException) -> None:
        """Pause before a worker that died goes on as a new one. Raises StreamDied, Stopped."""
        pause = self.restarts.next_pause(self.clock.monotonic())
        if pause is None:
            raise StreamDied(f"Its workers keep dying: {death!r}") from death
        if self.halt.wait(pause):
            raise Stopped

    def counts(self) -> tuple[StageCounts, ...]:
        """Return what each stage did so far, in the order of the description."""
        stages = (self._counts(node) for node in self.layout.nodes if not isinstance(node, SourceNode))
        return self.recent.note(tuple(stages))

    def kept_metrics(self) -> str:
        """Return the metrics of what is kept between items: windows, and rows that wait in joins."""
        return of_windows(self._states(WindowNode, WindowState)) + of_joins(
            self._states(IntervalNode, IntervalState)
        )

    def _states(self, stage: type[Node], kind: type[S]) -> dict[str, list[S]]:
        """Return what each stage of a kind keeps, by its name: the states of all its workers that began."""
        found: dict[str, list[S]] = {}
        for node in self.layout.nodes:
            if isinstance(node, stage):
                names = (
                    window_name(self.layout, node, number)
                    for number in range(self.layout.segment_of[node].threads)
                )
                states = map(self.windows.state, names)
                found[self.layout.names[node]] = [state for state in states if isinstance(state, kind)]
        return found

    def memory(self) -> MemoryCounts | None:
        """Return what is held by now, if a budget was declared."""
        return None if self.budget is None else self.budget.counts()

    def is_still(self) -> bool:
        """Whether no chunk waits anywhere."""
        return not any(map(self._pending, self.layout.segments))

    def is_at_rest(self) -> bool:
        """Whether everybody but sources waits for chunks. Coroutines are never known to rest."""
        return all(map(self._rests, self.layout.segments))  # in this order, or one could slip through

    def _rests(self, segment: Segment) -> bool:
        if segment.is_async:
            return False
        if segment.lines:
            return self.lines[segment].rests(segment.threads)
        takers = 1 if segment.keyed is not None else segment.threads
        return all(mailbox.rests(takers) for mailbox in self.inlets.get(segment, ()))

    def cpu_elsewhere(self) -> float:
        """Return the processor time, in seconds, that loops of coroutines and processes used for stages."""
        return sum(meter.cpu for meters in self._meters.values() for meter in meters if meter.is_elsewhere)

    def retuner(self) -> Retuner | None:
        """Return what sets the bounds of mailboxes while the stream runs, if anything is to."""
        if self._settings.buffer != "auto":
            return None
        tuned = [
            Tuned(
                self.layout.names[segment.head],
                self._bounded(segment),
                tuple(self.layout.names[each] for each in segment.stages),
            )
            for segment in self.layout.segments
            if not isinstance(segment.head, SourceNode)
        ]
        return Retuner(tuned, self._settings.chunk, self.counts, self.clock, self.listener)

    def _counts(self, node: Node) -> StageCounts:
        total = add_up(self._meters[node])
        lookup = self.lookups.get(node)
        segment = self.layout.segment_of[node]
        is_head = segment.head is node
        return StageCounts(
            self.layout.names[node],
            segment.workers,
            self._pending(segment) if is_head else 0,
            total.processed,
            sum(self.desks[node].errors.values()),
            total.seconds,
            tuple(total.buckets),
            makeshift=None if lookup is None else lookup.snapshot().makeshift,
            cpu=estimated_cpu(total),
            buffer=sum(each.most_items for each in self._bounded(segment)) if is_head else 0,
            cancelled=self.scopes.of[node].count + self.desks[node].errors["cancelled"],
        )

    def _desk(self, node: Node, usual: OnError) -> Desk:
        diverted = any(isinstance(each, SideNode) and each.port == FAILED for each in self.layout.after[node])
        on_error = node.manner.on_error or (SetAside() if diverted else usual)
        name = self.layout.names[node]
        # What is cleaned up after an item that was taken back is nothing that leaves the stage.
        leaves = diverted and not (isinstance(node, RevocableNode) and node.clean_up is not None)
        if isinstance(on_error, SetAside) and not leaves and not self.letters.have_a_place:
            raise DefinitionError(
                f"The stage {name!r} sets items aside, and there is no place for them.",
                hint="Name one: run(dead_letters=letters.append), LetterFile(path), or --dead-letters FILE.",
            )
        desk = Desk(
            name,
            on_error,
            node.manner.retry,
            self.letters.post,
            self.halt,
            random.random,
            self.rest_after,
            key_before(node),
        )
        desk.scope = self.scopes.of[node]
        return desk

    def shut(self, node: Node, drop: Callable[[Chunk], None]) -> int:
        """Have what waits before a stage, and what comes, dropped; return how many items waited."""
        segment = self.layout.segment_of[node]
        if segment.head is not node:
            return 0
        dropped = 0

        def counted(chunk: Chunk) -> None:
            nonlocal dropped
            dropped += len(chunk.items)
            drop(chunk)

        rooms = (self.lines[segment],) if segment.lines else self.inlets.get(segment, ())
        for room in rooms:
            room.shut(counted)
        return dropped

    def inlet(self, segment: Segment, number: int) -> Inlet:
        """Return what a worker takes its chunks from."""
        if segment.lines:
            return self.line_inlets[segment][number]
        inlets = self.inlets[segment]
        return inlets[number % len(inlets)]

    def _pending(self, segment: Segment) -> int:
        if segment.lines:
            return self.lines[segment].pending
        return sum(each.pending for each in self.inlets.get(segment, ()))

    def _bounded(self, segment: Segment) -> tuple[Bounded, ...]:
        """Return what holds back items for each worker; lines are for all of them."""
        if segment.lines:
            return (self.lines[segment],) * segment.threads
        return self.inlets.get(segment, ())

    def _lines(self, segment: Segment) -> Lines:
        senders = self.layout.senders(segment.head)
        most = self._settings.first_buffer
        return Lines(segment.lines, most, self.halt, senders=senders, workers=segment.threads)

    def _mailboxes(self, segment: Segment) -> tuple[Mailbox, ...]:
        senders = self.layout.senders(segment.head)
        count = segment.threads if segment.keyed is not None else 1
        return tuple(Mailbox(self._settings.first_buffer, self.halt, senders=senders) for _ in range(count))

    def new_meter(self, node: Node, watch: Watch | None = None) -> Meter:
        """Return counts of a stage for one worker more."""
        surge, name = self._surges.get(node), self.layout.names[node]
        meter = Meter(name, watch) if surge is None else WatchedMeter(surge, name, watch)
        self._meters[node].append(meter)
        return meter


def _lookup(
    node: LookupNode, name: str, guards: Guards, halt: Halt, clock: Clock, listener: Listener | None
) -> Lookup[Any, Any]:
    function, circuit = heeding(guards.within(node, node.function), halt), guards.circuit_of(node)
    if node.many:
        return Lookup(name, function, node.cache, clock, many=True, circuit=circuit, listener=listener)
    return Lookup(name, function, node.cache, clock, circuit=circuit, listener=listener)


def _surges(
    desks: Mapping[Node, Desk],
    layout: Layout,
    usual: Surge | None,
    halt: Halt,
    clock: Clock,
    listener: Listener | None,
) -> dict[Node, StageSurge]:
    """Return what watches the errors of each stage, of those that are watched."""
    return {
        node: StageSurge(layout.names[node], surge, desk.failures, halt, clock, listener)
        for node, desk in desks.items()
        if (surge := node.manner.surge or usual) is not None
    }


def _window_names(layout: Layout) -> frozenset[str]:
    return frozenset(
        window_name(layout, node, number)
        for node in layout.nodes
        if isinstance(node, WindowNode | IntervalNode)
        for number in range(layout.segment_of[node].threads)
    )


def window_name(layout: Layout, node: Node, number: int) -> str:
    """Return under which name a worker's windows are kept."""
    return f"{layout.names[node]} {number + 1} of {layout.segment_of[node].threads}"
