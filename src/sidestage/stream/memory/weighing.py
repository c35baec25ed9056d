"""Where chunks are weighed on their way: before each stage, if the stream has a budget."""

from sidestage.stream.chunk import Chunk
from sidestage.stream.layout import Layout
from sidestage.stream.memory.budget import Budget, Hop
from sidestage.stream.nodes import Node, SinkNode, WindowNode
from sidestage.stream.operators import Step


class Weighed:
    """A stage, or the mailbox before it: chunks are weighed before it takes them."""

    def __init__(self, budget: Budget, hop: Hop, following: Step) -> None:
        self._note = budget.note
        self._hop = hop
        self._next = following
        self.due = following.due
        self.tick = following.tick
        self.flush = following.flush
        self.finish = following.finish

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self._note(self._hop, chunk)
        self._next.push(chunk)


def hops(layout: Layout) -> dict[Node, Hop]:
    """Return where chunks are weighed: before each stage.

    Stages from which the same sinks are reached are on one way. The way of all that a source gives is no
    branch, whatever becomes of it further on.
    """
    reached: dict[Node, frozenset[Node]] = {}
    for node in reversed(layout.nodes):
        after = (reached[each] for each in layout.after[node])
        reached[node] = frozenset({node}) if isinstance(node, SinkNode) else frozenset().union(*after)
    given: dict[Node, frozenset[Node]] = {}
    counted: dict[Node, bool] = {}
    for node in layout.nodes:
        given[node] = (
            frozenset().union(*(given[each] for each in node.before)) if node.before else reached[node]
        )
        counted[node] = any(counted[each] or isinstance(each, WindowNode) for each in node.before)
    branches = {sinks: number for number, sinks in enumerate(dict.fromkeys(reached.values()))}
    return {
        node: Hop(
            number, None if reached[node] == given[node] else branches[reached[node]], not counted[node]
        )
        for number, node in enumerate(layout.nodes)
    }
