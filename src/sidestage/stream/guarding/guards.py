"""The guards of a run: circuits and bulkheads between its stages and what they call."""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Listener
from sidestage.policy.breaker import Circuit
from sidestage.policy.bulkhead import Bulkhead, TaskBulkhead, ThreadBulkhead
from sidestage.stream.contract import TransactionalSink
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.guarding.calls import GuardedCall, GuardedCoroutine, Outage
from sidestage.stream.guarding.guard import Guard
from sidestage.stream.layout import Layout
from sidestage.stream.nodes import (
    FilterNode,
    FlatMapNode,
    LookupNode,
    MapNode,
    MergeNode,
    Node,
    SinkNode,
    SourceNode,
)
from sidestage.stream.scopes.scopes import Scopes
from sidestage.stream.shape_nodes import BatchMapNode, SideNode


class _Place(NamedTuple):
    """What the stages share whose guards have one name."""

    circuit: Circuit | None
    threads: ThreadBulkhead | None


class Guards:
    """All guards of one run. To be closed in the end. Raises DefinitionError for what cannot be guarded."""

    def __init__(
        self, layout: Layout, clock: Clock, halt: Halt, listener: Listener | None, scopes: Scopes
    ) -> None:
        self._layout = layout
        self._scopes = scopes
        self._clock = clock
        self._halt = halt
        self._listener = listener
        self._places: dict[Node, _Place] = {}
        self._shared: dict[str, _Place] = {}
        self._timeouts: dict[Node, ThreadBulkhead] = {}
        self._tasks: dict[Node, list[TaskBulkhead]] = {}
        self._open: list[ThreadBulkhead] = []
        _require_guardable(layout)
        for node in layout.nodes:
            guard, timeout = node.manner.guard, node.manner.timeout
            if guard is not None:
                self._guard(node, guard)
            if timeout is not None and not isinstance(node, SinkNode) and node.manner.on == "thread":
                self._time(node, timeout)

    def circuit_of(self, node: Node) -> Circuit | None:
        """Return the circuit that a stage calls through, if there is one."""
        place = self._places.get(node)
        return None if place is None else place.circuit

    def within(self, node: Node, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a plain function that is called in the threads of the stage's bulkhead, if it has one."""
        threads = self._timeouts.get(node)
        if node in self._places:
            threads = self._places[node].threads or threads
        if threads is None:
            return function
        call = threads.call

        def within(item: Any) -> Any:
            return call(function, item)

        return self._scopes.held(node, within) if threads.ends_calls else within

    def around(self, node: Node, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a function that is called through all guards of the stage: itself if it has none."""
        guard, circuit = node.manner.guard, self.circuit_of(node)
        outage = None
        if guard is not None and guard.breaker is not None and circuit is not None:
            outage = Outage(circuit, guard.breaker, guard.patience, self._clock)
        if _is_async(node):
            tasks = self._tasks.get(node, [])
            return function if outage is None and not tasks else GuardedCoroutine(function, tasks, outage)
        call = self.within(node, function)
        return call if outage is None else GuardedCall(call, outage, self._scopes.halt_of(node))

    def look(self) -> None:
        """Raise Stopped, or Cancelled, if whoever waits for an answer is not to wait any longer."""
        if self._halt.is_set:
            raise Stopped
        self._scopes.look()

    def close(self) -> None:
        """End the threads that wait for calls."""
        for threads in self._open:
            threads.close()

    def _guard(self, node: Node, guard: Guard) -> None:
        if guard.name in self._shared:
            self._places[node] = self._shared[guard.name]
            return
        name = guard.name or self._layout.names[node]
        circuit = None
        if guard.breaker is not None:
            circuit = Circuit(name, guard.breaker, self._clock, self._listener)
        threads = None
        if guard.bulkhead is not None and _is_async(node):
            self._tasks[node] = [TaskBulkhead(name, guard.bulkhead)]
        elif guard.bulkhead is not None:
            threads = self._threads(name, guard.bulkhead)
        self._places[node] = _Place(circuit, threads)
        if guard.name:
            self._shared[guard.name] = self._places[node]

    def _time(self, node: Node, timeout: float) -> None:
        """Let no call of a stage take longer than that; a coroutine without a guard is timed by its stage."""
        name, workers = self._layout.names[node], self._layout.segment_of[node].workers
        own = Bulkhead(calls=workers, timeout=timeout)
        if not _is_async(node):
            self._timeouts[node] = self._threads(name, own)
        elif node.manner.guard is not None:
            self._tasks[node] = [TaskBulkhead(name, own)]

    def _threads(self, name: str, bulkhead: Bulkhead) -> ThreadBulkhead:
        threads = ThreadBulkhead(name, bulkhead, self._clock, self._listener, self.look)
        self._open.append(threads)
        return threads


def _is_async(node: Node) -> bool:
    return isinstance(node, MapNode) and node.is_async


def _require_guardable(layout: Layout) -> None:
    """Raise DefinitionError for guards and timeouts that nobody could keep to, or that contradict others."""
    given: dict[str, Guard] = {}
    users = Counter(node.manner.guard.name for node in layout.nodes if node.manner.guard is not None)
    for node in layout.nodes:
        guard, name = node.manner.guard, layout.names[node]
        _require_endable(node, name)
        if node.manner.surge is not None and isinstance(node, SourceNode | MergeNode | SideNode):
            raise DefinitionError(
                f"{name!r} fails on no item, so there are no surges to watch for.",
                hint="Call guarded(surge=...) after the stage that fails.",
            )
        if guard is None:
            continue
        _require_called(node, name)
        if guard.bulkhead is not None and node.manner.timeout is not None:
            raise DefinitionError(
                f"{name!r} has a timeout, and a bulkhead, which says how long calls may take.",
                hint="Say it in the bulkhead alone: Bulkhead(timeout=...).",
            )
        if not guard.name:
            continue
        if given.setdefault(guard.name, guard) != guard:
            raise DefinitionError(
                f"{name!r} and a stage before it have guards of the name {guard.name!r} that differ.",
                hint="Make one Guard and give it to both, or give them different names.",
            )
        if guard.bulkhead is not None and _is_async(node) and users[guard.name] > 1:
            raise DefinitionError(
                f"{name!r} is a coroutine function and shares the bulkhead {guard.name!r} with others.",
                hint="Give it a bulkhead of its own: an event loop cannot wait for threads to make room.",
            )


def _require_endable(node: Node, name: str) -> None:
    """Raise DefinitionError for a timeout that nobody could keep to."""
    if node.manner.timeout is None:
        return
    if isinstance(node, SinkNode) and isinstance(node.sink, TransactionalSink):
        raise DefinitionError(
            f"{name!r} has a timeout, but what a transaction holds cannot be written anew halfway.",
            hint="Give the client of the sink a timeout of its own.",
        )
    several = isinstance(node, FlatMapNode | BatchMapNode) and inspect.isgeneratorfunction(node.function)
    if several and node.manner.on == "thread":
        raise DefinitionError(
            f"{name!r} is a generator, whose work is done after the call: no timeout ends it in a thread.",
            hint='Return a list, or do it on="process".',
        )


def _require_called(node: Node, name: str) -> None:
    """Raise DefinitionError unless a stage calls something here that can be guarded."""
    if not isinstance(node, MapNode | FilterNode | FlatMapNode | LookupNode | BatchMapNode):
        raise DefinitionError(
            f"{name!r} calls nothing that a guard could stand before.",
            hint="Guard a map, filter, flat_map, map_batches or look_up; a sink has to(breaker=, timeout=).",
        )
    if node.manner.on == "process":
        raise DefinitionError(
            f"{name!r} is done by processes, which share no guard.",
            hint='Leave out on="process": whoever calls a system outside mostly waits, and threads can wait.',
        )
    if isinstance(node, FlatMapNode | BatchMapNode) and inspect.isgeneratorfunction(node.function):
        raise DefinitionError(
            f"{name!r} is a generator, whose work is done after it was called: nothing can stand before it.",
            hint="Do the calls in a map() before, or return a list.",
        )
