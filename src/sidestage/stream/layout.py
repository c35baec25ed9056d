"""Which stages share a worker: neighbours are fused, and what is between two workers is a mailbox.

A stage begins a segment of its own if it says how many workers it has, if it waits (coroutines, rate limits),
if several streams come together in it, or if it keeps something back while the stage before has several
workers. All others are done by whoever does the stage before.
"""

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sidestage.errors import DefinitionError
from sidestage.stream.keys.fan_outs import FanOut, fan_outs
from sidestage.stream.nodes import (
    BatchNode,
    FilterNode,
    FlatMapNode,
    KeyNode,
    LimitNode,
    MapNode,
    MergeNode,
    Node,
    SinkNode,
    SourceNode,
    WindowNode,
)
from sidestage.stream.shape_nodes import BatchMapNode, GatherNode, IntervalNode


@dataclass(eq=False)
class Segment:
    """Stages, from ``head`` on, that the same workers do.

    They share the keys of ``keyed``: through ``lines``, or if there are none each has some for itself.
    """

    head: Node
    workers: int
    ordered: bool
    keyed: KeyNode | None
    lines: int = 0
    stages: list[Node] = field(default_factory=list)

    @property
    def is_async(self) -> bool:
        """Whether it is a single stage of coroutines, whose workers are items in flight."""
        return _is_async(self.head)

    @property
    def threads(self) -> int:
        """How many threads take chunks for it."""
        return 1 if self.is_async else self.workers

    @property
    def rooms(self) -> int:
        """How many times there is room before it for as many items as the settings say: twice with lines.

        Keys that are given lines of their own have as much room again, all together.
        """
        if isinstance(self.head, SourceNode):
            return 0
        return self.threads * (2 if self.lines else 1) if self.keyed is not None else 1

    @property
    def hands(self) -> int:
        """How many chunks are at work at most; coroutines without keys count by items."""
        return self.workers if self.lines else self.threads


@dataclass(frozen=True)
class Layout:
    """A description, ready to be built: what follows each stage, and who does it."""

    nodes: tuple[Node, ...]
    after: dict[Node, tuple[Node, ...]]
    segments: tuple[Segment, ...]
    segment_of: dict[Node, Segment]
    names: dict[Node, str]

    def begins_segment(self, node: Node) -> bool:
        """Whether other workers do it than the stage before."""
        return self.segment_of[node].head is node

    def senders(self, node: Node) -> int:
        """Return how many workers push into each mailbox of a stage that begins a segment."""
        segment = self.segment_of[node]
        if segment.keyed is not None and not segment.lines and segment.keyed not in node.before:
            return 1  # each worker has the same keys as one of the stage before
        return sum(self.segment_of[before].threads for before in node.before)


def lay_out(sinks: Sequence[SinkNode]) -> Layout:
    """Return the layout of all that leads to these sinks. Raises DefinitionError."""
    nodes = tuple(_in_order(sinks))
    after: defaultdict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        for before in node.before:
            after[before].append(node)
    _require_plain(nodes)
    key_of = _keys(nodes)
    fans = fan_outs(nodes, key_of)
    segment_of: dict[Node, Segment] = {}
    for node in nodes:
        before_it = segment_of[node.before[0]] if node.before else None
        keyed = key_of[node]
        fan_out = None if keyed is None else fans.get(keyed)
        if before_it is None or _is_apart(node, before_it, fan_out):
            segment_of[node] = _segment(node, before_it, keyed, fan_out)
        else:
            segment_of[node] = before_it
        segment_of[node].stages.append(node)
    _require_keys(nodes, segment_of)
    segments = tuple(dict.fromkeys(segment_of.values()))
    return Layout(nodes, {node: tuple(after[node]) for node in nodes}, segments, segment_of, _names(nodes))


def _keys(nodes: Iterable[Node]) -> dict[Node, KeyNode | None]:
    """Return by which key each stage gets its items, if they have one still."""
    key_of: dict[Node, KeyNode | None] = {}
    for node in nodes:
        if isinstance(node, SourceNode | MergeNode | BatchNode | GatherNode):
            key_of[node] = None
        else:
            key_of[node] = node if isinstance(node, KeyNode) else key_of[node.before[0]]
            _require_order(node, key_of[node])
    return key_of


def _require_order(node: Node, keyed: KeyNode | None) -> None:
    """Raise DefinitionError for a limit by key that would let items of another key overtake each other."""
    if not isinstance(node, LimitNode) or node.by is None or keyed is None or node.by is keyed.key:
        return
    raise DefinitionError(
        f"{node.name!r} limits by another function than {keyed.name!r} orders by: items of one key of"
        " by_key would overtake each other.",
        hint="Give both the same function, or limit before by_key, or merge() to give up the keys.",
    )


def _require_keys(nodes: Iterable[Node], segment_of: Mapping[Node, Segment]) -> None:
    """Raise DefinitionError for windows of all items that several workers would have a part of each."""
    for node in nodes:
        if isinstance(node, WindowNode) and node.plan.key is None and segment_of[node].threads > 1:
            raise DefinitionError(
                f"{node.name!r} counts all items together, but {segment_of[node].threads} workers share them:"
                " each would give out windows of its own.",
                hint="Give its plan a key that tells apart what by_key does, or merge() before it.",
            )


def _require_plain(nodes: Iterable[Node]) -> None:
    """Raise DefinitionError for coroutine functions and processes where nobody would wait for them."""
    for node in nodes:
        given = [getattr(node, name, None) for name in ("function", "key", "put")]
        if not isinstance(node, MapNode) and any(map(inspect.iscoroutinefunction, given)):
            raise DefinitionError(
                f"{node.name!r} is given a coroutine function, which only map() waits for.",
                hint="Do it in a map() before.",
            )
        if isinstance(node, MapNode) and node.is_async and node.manner.on == "process":
            raise DefinitionError(
                f"{node.name!r} is a coroutine function: no process runs it.", hint='Leave out on="process".'
            )
        if node.manner.on == "process" and not isinstance(
            node, MapNode | FilterNode | FlatMapNode | BatchMapNode
        ):
            raise DefinitionError(
                f"{node.name!r} cannot be done by processes.",
                hint='Leave out on="process", or do what keeps a processor busy in a map() before.',
            )


def _is_async(node: Node) -> bool:
    return isinstance(node, MapNode) and node.is_async


def _is_apart(node: Node, before: Segment, fan_out: FanOut | None) -> bool:
    """Whether a stage is done by other workers than the one before."""
    if (
        node.manner.workers is not None
        or node.manner.on == "process"
        or before.is_async
        or _is_async(node)
        or isinstance(node, MergeNode)
    ):
        return True
    if fan_out is not None and node in fan_out.firsts:
        return True
    if isinstance(node, LimitNode):
        return before.keyed is None
    if isinstance(node, WindowNode | IntervalNode):
        return before.threads > 1 and before.keyed is None
    holds_back = isinstance(node, GatherNode) and node.holds_back
    return before.threads > 1 and (holds_back or isinstance(node, BatchNode | SinkNode | KeyNode))


def _segment(node: Node, before: Segment | None, keyed: KeyNode | None, fan_out: FanOut | None) -> Segment:
    """Return the segment that begins with a stage. Raises DefinitionError."""
    workers = node.manner.workers or 1
    if keyed is None or fan_out is None or isinstance(node, KeyNode):
        return Segment(node, workers, node.manner.ordered or keyed is not None, None)
    if node in fan_out.members:
        usual = fan_out.workers if node in fan_out.firsts and not _is_async(node) else 1
        return Segment(node, node.manner.workers or usual, ordered=True, keyed=keyed, lines=fan_out.lines)
    if node in fan_out.firsts or (before is not None and before.keyed is keyed and workers > 1):
        return Segment(node, fan_out.workers, ordered=True, keyed=keyed)
    if workers > 1:
        raise DefinitionError(
            f"{node.name!r} has {workers} workers, but the stage before it has brought all keys together.",
            hint="Call by_key again before it, or merge() to give up the keys.",
        )
    return Segment(node, 1, ordered=True, keyed=None)


def _in_order(sinks: Iterable[Node]) -> Iterator[Node]:
    """Yield each node once, after those it is made from."""
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(sink, False) for sink in reversed(list(sinks))]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready:
            done.add(node)
            yield node
        else:
            stack.append((node, True))
            stack += [(before, False) for before in reversed(node.before)]


def _names(nodes: Iterable[Node]) -> dict[Node, str]:
    """Return a name for each node; those that would have the same are numbered from the second on."""
    seen: defaultdict[str, int] = defaultdict(int)
    names = {}
    for node in nodes:
        seen[node.name] += 1
        names[node] = node.name if seen[node.name] == 1 else f"{node.name}-{seen[node.name]}"
    return names
