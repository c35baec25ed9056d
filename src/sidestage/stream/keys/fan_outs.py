"""How workers share keys: through lines that any of them may take from, or with a worker for each key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidestage.errors import DefinitionError
from sidestage.stream.nodes import (
    FilterNode,
    FlatMapNode,
    KeyNode,
    LimitNode,
    LookupNode,
    MapNode,
    Node,
    RevocableNode,
    SinkNode,
)
from sidestage.stream.shape_nodes import RouteNode, SideNode, TableJoinNode

_LINES_PER_COROUTINE = 4
"""How many lines there are for each coroutine that may run: few keys that could run then share one."""

_FORGETFUL = (
    MapNode,
    FilterNode,
    FlatMapNode,
    LookupNode,
    RevocableNode,
    RouteNode,
    SideNode,
    TableJoinNode,
    SinkNode,
)
"""Stages that hold nothing between two chunks, so that any worker may do the next one of a key."""


@dataclass(frozen=True)
class FanOut:
    """How keys are shared. ``firsts`` are the stages at which that begins, ``members`` all that have a part.

    ``lines`` is 0 if each key belongs to one of ``workers``: windows, and limits by key, stay where they are.
    """

    lines: int
    workers: int
    firsts: frozenset[Node]
    members: frozenset[Node]


def fan_outs(nodes: Sequence[Node], key_of: Mapping[Node, KeyNode | None]) -> dict[KeyNode, FanOut]:
    """Return how each ``by_key`` is shared, if several workers do so. Raises DefinitionError."""
    found = {}
    for keyed in nodes:
        if isinstance(keyed, KeyNode):
            scope = [node for node in nodes if key_of[node] is keyed and node is not keyed]
            fan_out = _fan_out(keyed, scope)
            if fan_out is not None:
                found[keyed] = fan_out
            if keyed.spill is not None and (fan_out is None or not fan_out.lines):
                why = "some stage keeps them" if fan_out else "no stage has several workers"
                raise DefinitionError(
                    f"{keyed.name!r} cannot spill: {why}.",
                    hint="Spilling is for keys that several workers share, without windows and limits by key;"
                    " merge() before those gives up the keys.",
                )
    return found


def _fan_out(keyed: KeyNode, scope: Sequence[Node]) -> FanOut | None:
    sharing = [node for node in scope if (node.manner.workers or 1) > 1]
    if not sharing:
        return None
    for node in sharing:
        if not _is_async(node) and (node.manner.workers or 1) > keyed.into:
            raise DefinitionError(
                f"{node.name!r} has {node.manner.workers} workers, but its keys are shared among"
                f" {keyed.into} at most.",
                hint=f"Give by_key(into={node.manner.workers}), or fewer workers.",
            )
    before = _untouched(keyed, scope)
    keepers = [node for node in scope if node not in before and not isinstance(node, _FORGETFUL)]
    threads = max((node.manner.workers or 1 for node in sharing if not _is_async(node)), default=1)
    if keepers:
        return _fixed(keyed, scope, keepers[0], threads)
    most_at_once = max((node.manner.workers or 1 for node in sharing if _is_async(node)), default=0)
    firsts = {node for node in scope if node not in before and node.before[0] in {keyed, *before}}
    members = set(sharing)
    for node in reversed(scope):
        if node in members and node not in firsts:
            members.add(node.before[0])
    lines = max(keyed.into, most_at_once * _LINES_PER_COROUTINE)
    return FanOut(lines, threads, frozenset(firsts & members), frozenset(members))


def _untouched(keyed: KeyNode, scope: Iterable[Node]) -> set[Node]:
    """Return the stages right after ``by_key`` that one worker does, and after which items are as before."""
    found: set[Node] = set()
    for node in scope:
        is_plain = isinstance(node, FilterNode | LimitNode | RevocableNode) and node.manner.workers is None
        if is_plain and node.before[0] in {keyed, *found}:
            found.add(node)
    return found


def _fixed(keyed: KeyNode, scope: Sequence[Node], keeper: Node, workers: int) -> FanOut | None:
    """Return how keys are shared where each stays with its worker. Raises DefinitionError."""
    for node in scope:
        mine = node.manner.workers
        if _is_async(node) and (mine or 1) > 1:
            raise DefinitionError(
                f"{node.name!r} does several items at once, which would bring the keys to {keeper.name!r} in"
                " another order.",
                hint="merge() before that gives up the keys; or do it before by_key.",
            )
        is_first = node.before[0] is keyed
        if mine is not None and mine != workers and (mine > 1 or is_first):
            raise DefinitionError(
                f"{node.name!r} has {mine} workers, but the keys are shared among {workers} because"
                f" {keeper.name!r} keeps them.",
                hint="Give it as many, or call by_key again before it, or merge() to give up the keys.",
            )
    return FanOut(0, workers, frozenset(node for node in scope if node.before[0] is keyed), frozenset())


def _is_async(node: Node) -> bool:
    return isinstance(node, MapNode) and node.is_async
