"""Which stages end with one that is cancelled: what only it feeds, and what works for nothing else."""

from collections.abc import Collection
from typing import NamedTuple

from sidestage.errors import DefinitionError
from sidestage.stream.contract import TransactionalSink
from sidestage.stream.layout import Layout
from sidestage.stream.nodes import KeyNode, MergeNode, Node, SinkNode, SourceNode
from sidestage.stream.shape_nodes import IntervalNode


class Branch(NamedTuple):
    """The stages of a branch, in the order of the description."""

    nodes: tuple[Node, ...]

    def names(self, layout: Layout) -> tuple[str, ...]:
        """Return what they are called."""
        return tuple(layout.names[node] for node in self.nodes)

    def sinks(self, layout: Layout) -> tuple[str, ...]:
        """Return what its sinks are called."""
        return tuple(layout.names[node] for node in self.nodes if isinstance(node, SinkNode))


def branch_of(layout: Layout, node: Node, ended: Collection[Node] = ()) -> Branch:
    """Return what ends with a stage, if those of ``ended`` did before. Raises DefinitionError.

    That is the stage, what is fed by nothing but it, and what feeds nothing else. It must not come to a
    source, whose items would then all be lost, nor to a sink with transactions, nor to one side of a join.
    """
    found = {node}
    for each in layout.nodes:
        if each.before and all(before in found or before in ended for before in each.before):
            found.add(each)
    for each in reversed(layout.nodes):
        after = layout.after[each]
        if after and all(one in found or one in ended for one in after):
            found.add(each)
    found -= set(ended)
    name = layout.names[node]
    _require_rest(layout, name, found)
    return Branch(tuple(each for each in layout.nodes if each in found))


def _require_rest(layout: Layout, name: str, found: Collection[Node]) -> None:
    """Raise DefinitionError if something would go on that must not go on without the branch."""
    for each in found:
        if isinstance(each, SourceNode):
            raise DefinitionError(
                f"{name!r} cannot be cancelled by itself: all that {layout.names[each]!r} gives goes there,"
                " and would be acknowledged without being written.",
                hint="End the whole stream instead: engine.drain() finishes what is under way, "
                "engine.cancel() leaves it for the next run.",
            )
        if isinstance(each, SinkNode) and isinstance(each.sink, TransactionalSink):
            raise DefinitionError(
                f"{name!r} cannot be cancelled by itself: the transactions of {layout.names[each]!r} keep how"
                " far the whole stream has come.",
                hint="End the whole stream instead: engine.cancel() or engine.drain().",
            )
        for after in layout.after[each]:
            if after not in found and _joins(layout, after):
                raise DefinitionError(
                    f"{name!r} cannot be cancelled by itself: a join would wait for its side for ever.",
                    hint="Cancel the stage after the join, or end the whole stream: engine.cancel().",
                )


def _joins(layout: Layout, node: Node) -> bool:
    """Whether two sides that come together in a stage are joined there."""
    if isinstance(node, MergeNode | KeyNode):
        return any(_joins(layout, after) for after in layout.after[node])
    return isinstance(node, IntervalNode)


def endable(layout: Layout) -> frozenset[Node]:
    """Return the stages that can be cancelled without the rest."""
    found: set[Node] = set()
    if all(len(after) <= 1 for after in layout.after.values()):
        return frozenset()
    for node in layout.nodes:
        try:
            branch_of(layout, node)
        except DefinitionError:
            continue
        found.add(node)
    return frozenset(found)
