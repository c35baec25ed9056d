"""A description drawn as text: which stages share a worker, and what waits where."""

from collections.abc import Iterator

from sidestage.policy.limits import size_text
from sidestage.stream.joins.pacing import why_not
from sidestage.stream.keys.spill import Spill
from sidestage.stream.layout import Layout, Segment
from sidestage.stream.memory.budget import PIECES
from sidestage.stream.nodes import BatchNode, KeyNode, LimitNode, Node, SinkNode, SourceNode
from sidestage.stream.settings import Settings
from sidestage.stream.shape_nodes import GatherNode, IntervalNode, RouteNode, TableJoinNode


def explained(layout: Layout, settings: Settings) -> str:
    """Return one line for each group of stages that share workers, with what leads to it."""
    most = sum(
        settings.first_buffer * segment.rooms + settings.chunk * segment.hands for segment in layout.segments
    )
    most += sum(
        node.held * layout.segment_of[node].threads
        for node in layout.nodes
        if isinstance(node, LimitNode) and node.by is not None
    )
    lines = [_line(layout, segment, settings) for segment in layout.segments]
    threads = sum(segment.threads for segment in layout.segments)
    spills = any(isinstance(node, KeyNode) and node.spill is not None for node in layout.nodes)
    held = ["batches", "windows"]
    held += ["joins"] if any(isinstance(node, IntervalNode) for node in layout.nodes) else []
    held += ["tables"] if any(isinstance(node, TableJoinNode) for node in layout.nodes) else []
    held += ["spills"] if spills else []
    named = f"{', '.join(held[:-1])} and {held[-1]}"
    lines.append(f"{threads} threads; at most {most:,} items under way, and what {named} hold")
    memory = settings.memory_bytes
    if memory is not None:
        lines.append(
            f"{size_text(memory)} of memory for all that, a chunk about {size_text(memory / PIECES)}"
        )
    return "\n".join(lines)


def _line(layout: Layout, segment: Segment, settings: Settings) -> str:
    stages = " + ".join(_named(layout, stage) for stage in segment.stages)
    if isinstance(segment.head, SourceNode):
        return f"{stages}  ({_who(segment)})"
    before = " and ".join(dict.fromkeys(_reached(layout, segment)))
    if segment.lines:
        waits = f"{segment.lines} lines, {_room(settings, segment.threads)}"
    else:
        waits = (f"{segment.rooms} x " if segment.rooms > 1 else "") + _room(settings)
    return f"{before} --[{waits}]--> {stages}  ({_who(segment)})"


def _reached(layout: Layout, segment: Segment) -> Iterator[str]:
    for before in segment.head.before:
        yield layout.names[before]


def _named(layout: Layout, node: Node) -> str:
    name = layout.names[node]
    if isinstance(node, SinkNode):
        return f"> {name}"
    details = _details(node)
    if isinstance(node, IntervalNode) and node.plan.waiting.ahead is not None:
        reason = why_not(layout, node)
        waits = f"a side {node.plan.waiting.ahead:g} s ahead waits"
        details += f", {f'no side waits: {reason}' if reason else waits}"
    return f"{name} [{details}]" if details else name


def _details(node: Node) -> str:
    """Return what makes a stage one of its kind; nothing if its name says it all."""
    details = ""
    match node:
        case LimitNode():
            by = "" if node.by is None else f", by key, up to {node.held:,} held"
            details = f"{node.rate.items:g} in {node.rate.seconds:g} s{by}"
        case BatchNode():
            details = f"{node.size:,}" + ("" if node.within is None else f" within {node.within:g} s")
        case GatherNode():
            details = _gathered(node)
        case RouteNode():
            details = " or ".join(node.names)
        case TableJoinNode():
            every = node.table.every
            details = node.how + ("" if every is None else f", loaded every {every:g} s")
        case IntervalNode():
            details = f"{node.plan.how} within {node.plan.before:g} and {node.plan.after:g} s" + _waiting(
                node
            )
        case KeyNode():
            details = f"into {node.into}" + _spilled(node.spill)
    return details


def _waiting(node: IntervalNode) -> str:
    most = node.plan.waiting.bytes
    return "" if most is None else f", {most:,} bytes wait"


def _gathered(node: GatherNode) -> str:
    rows = "" if node.size is None else f"{node.size:,} rows"
    most = "" if node.most_bytes is None else f"{node.most_bytes:,} bytes"
    within = "" if node.within is None else f" within {node.within:g} s"
    return (" or ".join(filter(None, (rows, most))) or "as they come") + within


def _spilled(spill: Spill | None) -> str:
    if spill is None:
        return ""
    disk = "" if spill.path is None else f" and {spill.most:,} on disk"
    return f", spills {spill.memory:,} bytes in memory{disk}"


def _who(segment: Segment) -> str:
    if segment.is_async:
        return f"1 thread, up to {segment.workers} at once, {_order(segment)}"
    one, several = ("process", "processes") if segment.head.manner.on == "process" else ("thread", "threads")
    return f"1 {one}" if segment.workers == 1 else f"{segment.workers} {several}, {_order(segment)}"


def _order(segment: Segment) -> str:
    if segment.keyed is not None:
        return "in order by key"
    return "in order" if segment.ordered else "in any order"


def _room(settings: Settings, times: int = 1) -> str:
    return f"{settings.first_buffer * times:,} items{' at first' if settings.buffer == 'auto' else ''}"
