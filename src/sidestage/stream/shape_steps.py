"""Stages that change the shape of a stream, as one worker does them."""

from sidestage.stream.assembly import Assembly
from sidestage.stream.batching import BatchOperator
from sidestage.stream.columns.batch_maps import BatchMapOperator
from sidestage.stream.columns.gathering import GatherOperator
from sidestage.stream.failing import Desk
from sidestage.stream.joins.table_joins import TableJoinOperator
from sidestage.stream.nodes import BatchNode
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.routing import Fork, RouteOperator
from sidestage.stream.shape_nodes import BatchMapNode, GatherNode, RouteNode, TableJoinNode


def shape_step(
    node: BatchNode | GatherNode | BatchMapNode | RouteNode | TableJoinNode,
    shared: Assembly,
    desk: Desk,
    meter: Meter,
    following: Step,
) -> Step:
    """Return what does a stage in the thread of one worker."""
    match node:
        case BatchNode():
            return BatchOperator(node.size, node.within, shared.clock, meter, following)
        case GatherNode():
            return GatherOperator(node, shared.clock, desk, meter, following)
        case BatchMapNode():
            function = shared.guards.around(node, node.function)
            return BatchMapOperator(function, node.splittable, desk, meter, following)
        case RouteNode():
            fork = following if isinstance(following, Fork) else Fork(following, {})
            return RouteOperator(node.function, frozenset(node.names), desk, meter, fork)
        case TableJoinNode():
            return TableJoinOperator(node, shared.tables[node], desk, meter, following)
