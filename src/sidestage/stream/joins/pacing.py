"""A side of a join that is far ahead in time waits for the other: its sources are not read meanwhile.

Only sources wait, as for memory. They do so only where nothing else can depend on them: where no source gives
items to both sides, and where what comes of them meets no other join, and no windows for which a source that
is not read would seem to be idle. Whoever is idle, or at its end, is not waited for.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sidestage.stream.joins.interval_sides import Standing
from sidestage.stream.layout import Layout
from sidestage.stream.nodes import Node, SourceNode, WindowNode, sources_before
from sidestage.stream.shape_nodes import IntervalNode

_LEFT, _RIGHT = 0, 1
_LOOK_SECONDS = 0.05
"""How often a source that waits looks whether it may go on, should nobody have woken it."""


class Pacing:
    """Which side of one join is to wait: one more than ``ahead`` seconds ahead of the other. For all threads.

    ``workers`` tell how far they have come; the sources of both sides, when they have ended.
    """

    def __init__(self, ahead: float, workers: int, sources: tuple[int, int]) -> None:
        self._ahead = ahead
        self._workers = workers
        self._changed = threading.Condition()
        self._standings: dict[int, Standing] = {}
        self._left = list(sources)
        self._waits = (False, False)
        self._is_over = False

    def release(self) -> None:
        """Have nobody wait any more: the join was cancelled, and does not come any further."""
        with self._changed:
            self._is_over = True
            self._look()

    def tell(self, worker: int, standing: Standing) -> None:
        """Note how far a worker has come."""
        with self._changed:
            self._standings[worker] = standing
            self._look()

    def has_ended(self, side: int) -> None:
        """Note that one source of a side will give nothing more."""
        with self._changed:
            self._left[side] -= 1
            self._look()

    @property
    def waits(self) -> tuple[bool, bool]:
        """Whether left and right are to wait."""
        return self._waits

    def wait(self, side: int, seconds: float) -> None:
        """Wait until a side may go on, but not longer."""
        with self._changed:
            if self._waits[side]:
                self._changed.wait(min(seconds, _LOOK_SECONDS))

    def _look(self) -> None:
        waits = (self._is_ahead(_LEFT), self._is_ahead(_RIGHT))
        if waits != self._waits:
            self._waits = waits
            self._changed.notify_all()

    def _is_ahead(self, side: int) -> bool:
        """Whether a side is far ahead of the other, of which something can still come."""
        other, known = 1 - side, self._standings.values()
        if (
            self._is_over
            or not self._left[other]
            or len(known) < self._workers
            or all(each.idle[other] for each in known)
        ):
            return False
        mine, theirs = (max(each.reached[which] for each in known) for which in (side, other))
        return mine - theirs > self._ahead


class Pace(NamedTuple):
    """What one source has to do with the pacing of a join."""

    pacing: Pacing
    side: int

    @property
    def is_held(self) -> bool:
        """Whether the source is not to be read now."""
        return self.pacing.waits[self.side]

    def wait(self, seconds: float) -> None:
        """Wait until it may be read, but not longer."""
        self.pacing.wait(self.side, seconds)

    def end(self) -> None:
        """Note that it will give nothing more."""
        self.pacing.has_ended(self.side)


class Paces:
    """The pacing of all joins of a run that declare some, and what it means for each source."""

    def __init__(self, layout: Layout) -> None:
        self.of_joins: dict[Node, Pacing] = {}
        self.of_sources: dict[Node, Pace] = {}
        for node in layout.nodes:
            if not isinstance(node, IntervalNode) or node.plan.waiting.ahead is None or why_not(layout, node):
                continue
            sides = sources_of(node)
            workers = layout.segment_of[node].threads
            pacing = Pacing(node.plan.waiting.ahead, workers, (len(sides[_LEFT]), len(sides[_RIGHT])))
            self.of_joins[node] = pacing
            for side, sources in enumerate(sides):
                self.of_sources.update(dict.fromkeys(sources, Pace(pacing, side)))


def why_not(layout: Layout, join: IntervalNode) -> str:
    """Return why no side of a join can wait for the other, or nothing if one can."""
    left, right = sources_of(join)
    both = [layout.names[node] for node in left if node in right]
    if both:
        return f"both sides read {both[0]}"
    reached = _after(layout.after, [*left, *right])
    for node in reached:
        if isinstance(node, IntervalNode) and node is not join:
            return f"{layout.names[node]} has the same sources"
        if isinstance(node, WindowNode) and node.plan.time.idle is not None:
            return f"{layout.names[node]} would take them for idle"
    return ""


def sources_of(join: IntervalNode) -> tuple[list[SourceNode], list[SourceNode]]:
    """Return the sources of the left and of the right."""
    last: Node = join
    while len(last.before) == 1:  # the sides come together in a merge, perhaps with keys after it
        last = last.before[0]
    left, right = last.before
    return sources_before(left), sources_before(right)


def _after(after: Mapping[Node, Sequence[Node]], nodes: Sequence[Node]) -> list[Node]:
    """Return all that comes of what some stages give."""
    found: dict[Node, None] = {}
    stack = list(nodes)
    while stack:
        for each in after[stack.pop()]:
            if each not in found:
                found[each] = None
                stack.append(each)
    return list(found)
