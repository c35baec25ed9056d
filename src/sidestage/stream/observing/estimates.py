"""What a flow will need at a rate, before it is run: workers, buffers, memory, what saturates first.

A simple model: each group of stages that share workers is busy for rate times seconds per item, and can do as
much as its workers have time for. Nothing is said of how long items wait.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.layout import Layout, Segment
from sidestage.stream.nodes import BatchNode, Node, SourceNode
from sidestage.stream.observing.advice import buffer_for
from sidestage.stream.observing.costs import as_table, shown_seconds
from sidestage.stream.observing.metrics import StageCounts
from sidestage.stream.observing.retuning import MOST_CHUNKS
from sidestage.stream.settings import AUTO_CHUNKS, Settings

COMFORT = 0.8
"""How busy workers are to be at most: above, queues grow long whenever a stage is a little slower."""


class StageNeed(msgspec.Struct, frozen=True):
    """A stage at that rate: items that reach it in a second, and seconds that each takes; None: not known."""

    name: str
    rate: float
    seconds: float | None


class GroupNeed(msgspec.Struct, frozen=True):
    """Stages that share workers.

    ``busy``: the share of its workers' time that they need; above 1 they cannot keep up. ``enough``: how many
    workers would be busy for ``COMFORT`` of their time at most. ``buffer``: how many items should be able to
    wait before each of them, by the rule of ``advice.buffer_for``; 0 for those that read.
    """

    stages: tuple[StageNeed, ...]
    workers: int
    busy: float
    enough: int
    buffer: int

    @property
    def name(self) -> str:
        """The names of its stages."""
        return " + ".join(each.name for each in self.stages)


class Estimate(msgspec.Struct, frozen=True):
    """What a flow needs when its sources give ``rate`` items in a second, all together. Its text is a table.

    ``items``: how many are under way at most; ``memory``: in bytes. ``cores``: processor time needed in
    each second, None if it was not measured; ``threads_cores``: the part of it that runs Python code in
    threads, which share one core. ``saturates``: which stages cannot keep up first, and at ``most_rate`` of
    the sources.
    """

    rate: float
    groups: tuple[GroupNeed, ...]
    items: int
    memory: int
    cores: float | None
    threads_cores: float | None
    saturates: str
    most_rate: float

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"At {self.rate:,.0f} items/s:"
        rows = [("stages", "items/s", "time/item", "workers", "busy", "enough", "buffer")]
        for group in self.groups:
            workers, buffer = f"{group.workers}", f"{group.buffer:,}" if group.buffer else ""
            shared = (workers, f"{group.busy:.0%}", f"{group.enough}", buffer)
            for number, each in enumerate(group.stages):
                seconds = "?" if each.seconds is None else shown_seconds(each.seconds)
                rest = shared if number == 0 else ("", "", "", "")
                name = each.name if number == 0 else f"+ {each.name}"
                rows.append((name, f"{each.rate:,.0f}", seconds, *rest))
        yield from as_table(rows, ">")
        if self.saturates:
            yield f"{self.saturates} saturates first, at {self.most_rate:,.0f} items/s."
        yield f"At most {self.items:,} items are under way: about {self.memory / 1e6:,.1f} MB."
        if self.cores is not None:
            yield f"Processors: {self.cores:.2f} cores."
        if self.threads_cores is not None and self.threads_cores > 1:
            yield (
                f"Python code in threads needs {self.threads_cores:.2f} cores, and they share one at a time: "
                'give the largest stage on="process".'
            )


class Known(msgspec.Struct, frozen=True):
    """What is known of stages: declared seconds per item by name, and counts of an earlier run."""

    seconds: Mapping[str, float]
    counts: Sequence[StageCounts] = ()
    item_bytes: int = 200


def estimate(layout: Layout, rate: float, known: Known, settings: Settings) -> Estimate:
    """Return what a flow needs at a rate. Raises DefinitionError."""
    _require_sound(layout, rate, known)
    counts = {each.name: each for each in known.counts}
    rates = _rates(layout, rate, counts)
    groups = tuple(_group(layout, segment, rates, known, counts, settings) for segment in layout.segments)
    working = [group for group in groups if group.busy > 0]
    fullest = max(working, key=lambda group: group.busy, default=None)
    items = _most_items(layout, settings)
    cpu = {
        node: rates[node] * each.cpu / each.processed
        for node in layout.nodes
        if (each := counts.get(layout.names[node])) is not None and each.cpu is not None and each.processed
    }
    in_threads = sum(used for node, used in cpu.items() if node.manner.on != "process")
    return Estimate(
        rate=rate,
        groups=groups,
        items=items,
        memory=items * known.item_bytes,
        cores=sum(cpu.values()) if cpu else None,
        threads_cores=in_threads if cpu else None,
        saturates="" if fullest is None else fullest.name,
        most_rate=math.inf if fullest is None else rate / fullest.busy,
    )


def _require_sound(layout: Layout, rate: float, known: Known) -> None:
    names = {layout.names[node] for node in layout.nodes if not isinstance(node, SourceNode)}
    strange = sorted(known.seconds.keys() - names)
    if strange:
        raise DefinitionError(
            f"There is no stage {', '.join(map(repr, strange))} in this flow.",
            hint=f"Its stages: {', '.join(sorted(names))}.",
        )
    numbers_hold = 0 < rate < math.inf and all(0 <= each < math.inf for each in known.seconds.values())
    if not (numbers_hold and known.item_bytes >= 0):
        raise DefinitionError(
            f"An estimate for {rate} items/s with {dict(known.seconds)} s and {known.item_bytes} bytes "
            "per item makes no sense.",
            hint="The rate is above 0; seconds and bytes are not negative.",
        )


def _rates(layout: Layout, rate: float, counts: Mapping[str, StageCounts]) -> dict[Node, float]:
    """Return how many items reach each stage in a second; the sources share the rate equally.

    Where nothing was measured, a stage is taken to make one item of each, and a batch to be full.
    """
    sources = sum(isinstance(node, SourceNode) for node in layout.nodes)
    done = {node: counts[name].processed for node, name in layout.names.items() if name in counts}
    rates: dict[Node, float] = {}
    for node in layout.nodes:
        if isinstance(node, SourceNode):
            rates[node] = rate / sources
            continue
        rates[node] = sum(_sent(before, node, rates, done) for before in node.before)
    return rates


def _sent(before: Node, to: Node, rates: Mapping[Node, float], done: Mapping[Node, int]) -> float:
    """Return how many items go from one stage to another in a second."""
    measured = before
    while not done.get(measured) and len(measured.before) == 1:
        measured = measured.before[0]
    if done.get(measured) and done.get(to) and len(to.before) == 1:
        return rates[measured] * done[to] / done[measured]
    return rates[before] / before.size if isinstance(before, BatchNode) else rates[before]


def _group(
    layout: Layout,
    segment: Segment,
    rates: Mapping[Node, float],
    known: Known,
    counts: Mapping[str, StageCounts],
    settings: Settings,
) -> GroupNeed:
    stages = []
    chunks = AUTO_CHUNKS
    for node in segment.stages:
        name = layout.names[node]
        count = counts.get(name)
        seconds = known.seconds.get(name)
        if count is not None and count.processed:
            seconds = count.seconds_per_item if seconds is None else seconds
            chunks = max(chunks, buffer_for(count))
        stages.append(StageNeed(name, rates[node], seconds))
    needed = sum(each.rate * each.seconds for each in stages if each.seconds is not None)
    reads = isinstance(segment.head, SourceNode)
    buffer = 0 if reads else min(chunks, MOST_CHUNKS) * settings.chunk
    enough = max(1, math.ceil(needed / COMFORT - 1e-9))
    return GroupNeed(tuple(stages), segment.workers, needed / segment.workers, enough, buffer)


def _most_items(layout: Layout, settings: Settings) -> int:
    """Return how many items are under way at most, beside what batches, windows and joins hold."""
    return sum(settings.first_buffer * each.rooms + settings.chunk * each.hands for each in layout.segments)
