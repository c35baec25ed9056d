"""The parts that a join of two streams is made of."""

from collections.abc import Callable, Hashable
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeVar

from sidestage.stream.joins.interval_plan import IntervalPlan, Keyed, Waiting, keyed
from sidestage.stream.nodes import KeyNode, Manner, MapNode, MergeNode, Node
from sidestage.stream.shape_nodes import How, IntervalNode
from sidestage.stream.windows.watermarks import EventTime

T = TypeVar("T")

At = Callable[[T], float | datetime]
"""Returns the time of an item: seconds since the epoch, or an aware datetime."""


def joined(
    sides: tuple[Node, Node],
    on: tuple[Callable[[Any], Hashable], Callable[[Any], Hashable]],
    within: tuple[float, float],
    time: tuple[EventTime | At[Any], EventTime | At[Any]],
    how: How,
    waiting: Waiting,
    manner: Manner,
    name: str,
) -> Node:
    """Return the last part of a join: both sides get keys and times, come together, and are spread by key.

    Raises DefinitionError.
    """
    times = tuple(each if isinstance(each, EventTime) else EventTime(at=each) for each in time)
    before, after = within
    plan = IntervalPlan(before, after, (times[0], times[1]), how, waiting)
    calm = Manner(on_error=manner.on_error)
    called = name or "join"
    prepared = []
    for number, side in enumerate(sides):
        at = times[number].at
        assert at is not None, "IntervalPlan wants it"
        function = keyed(number, on[number], at)
        prepared.append(MapNode(f"{called} {('left', 'right')[number]}", (side,), calm, function=function))
    last: Node = MergeNode("merge", tuple(prepared))
    if (manner.workers or 1) > 1:
        key = itemgetter(Keyed._fields.index("key"))
        last = KeyNode("by_key", (last,), calm, key=key, into=manner.workers or 1)
    return IntervalNode(called, (last,), manner, plan=plan)
