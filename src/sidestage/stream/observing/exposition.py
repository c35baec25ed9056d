"""The counts of a stream in the text format that Prometheus reads (exposition format 0.0.4)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sidestage.stream.memory.budget import MemoryCounts
from sidestage.stream.observing.metrics import BOUNDS, StageCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric: ``label`` is what its values are told apart by."""

    name: str
    kind: str
    meaning: str
    label: str = "stage"


PENDING = Family("pipeline_stage_in_pending", "gauge", "Items that wait before a stage.")
PROCESSED = Family("pipeline_stage_processed_total", "counter", "Items that a stage has dealt with.")
ERRORS = Family("pipeline_stage_errors_total", "counter", "Items that a stage failed on.")
CANCELLED = Family(
    "pipeline_stage_cancelled_total",
    "counter",
    "Items that were given up since a worker or a stage was cancelled.",
)
MAKESHIFT = Family(
    "pipeline_stage_makeshift_total", "counter", "Items that a lookup had a makeshift answer for."
)
WORKERS = Family("pipeline_stage_workers", "gauge", "Workers of a stage.")
BUSY = Family(
    "pipeline_stage_utilisation_ratio", "gauge", "Share of its workers' time that a stage was busy of late."
)
BUFFER = Family("pipeline_stage_buffer_items", "gauge", "Items that may wait before a stage.")
CPU = Family("pipeline_stage_cpu_seconds_total", "counter", "Processor time that a stage took, estimated.")
DURATION = Family(
    "pipeline_stage_duration_seconds",
    "histogram",
    "Time that a stage takes for an item, the mean of its chunk.",
)
LAG = Family("pipeline_source_lag_seconds", "gauge", "Age of the oldest items under way.", "source")

MEMORY = Family(
    "pipeline_memory_bytes", "gauge", "Memory that a stream holds, held at most, and may hold.", "kind"
)

KEPT = Family(
    "pipeline_memory_kept_bytes",
    "gauge",
    "The part of that which windows, joins, tables, lookups keep.",
    "kind",
)

FAMILIES = (PENDING, PROCESSED, ERRORS, CANCELLED, MAKESHIFT, WORKERS, BUSY, BUFFER, CPU, DURATION, LAG)

_VALUES: tuple[tuple[Family, Callable[[StageCounts], float | None]], ...] = (
    (PENDING, lambda each: each.pending),
    (PROCESSED, lambda each: each.processed),
    (ERRORS, lambda each: each.errors),
    (CANCELLED, lambda each: each.cancelled),
    (MAKESHIFT, lambda each: each.makeshift),
    (WORKERS, lambda each: each.workers),
    (BUSY, lambda each: each.busy),
    (BUFFER, lambda each: each.buffer or None),
    (CPU, lambda each: each.cpu),
)


def metrics_view(stages: Sequence[str], sources: Sequence[str], more: Iterable[Family] = ()) -> str:
    """Return which metrics a stream with these stages and sources has: a line for each, with its labels."""
    lines = []
    for family in (*FAMILIES, *more):
        lines.append(f"{family.name} ({family.kind}): {family.meaning}")
        names = sources if family.label == "source" else stages
        lines += [f'    {{{family.label}="{escaped(name)}"}}' for name in names]
    return "\n".join(lines)


def exposition(
    stages: Sequence[StageCounts],
    lags: Mapping[str, float] | None = None,
    memory: MemoryCounts | None = None,
) -> str:
    """Return the metrics of all stages, and of the sources, whose ``lags`` are seconds by name.

    Also those of the ``memory``, if that is counted.
    """
    return "\n".join(_lines(stages, lags or {}, memory)) + "\n"


def lines_of(family: Family, values: Iterable[tuple[str, float | None]]) -> str:
    """Return the lines of one metric; what is not known is left out."""
    return "".join(f"{line}\n" for line in _family(family, values))


def of_sinks(sinks: Iterable[object]) -> str:
    """Return what sinks have to say: those with a method ``exposition``, which returns lines as these are."""
    told = (getattr(sink, "exposition", None) for sink in sinks)
    return "".join(say() for say in told if callable(say))


def _lines(
    stages: Sequence[StageCounts], lags: Mapping[str, float], memory: MemoryCounts | None
) -> Iterator[str]:
    for family, value in _VALUES:
        yield from _family(family, ((each.name, value(each)) for each in stages))
    yield from _family(LAG, lags.items())
    if memory is not None:
        kinds = {"used": memory.used, "peak": memory.peak, "budget": memory.budget}
        yield from _family(MEMORY, kinds.items())
        yield from _family(KEPT, memory.kept.items())
    name = DURATION.name
    yield from _head(DURATION)
    for stage in stages:
        label = escaped(stage.name)
        seen = 0
        for bound, count in zip(BOUNDS, stage.buckets[:-1], strict=True):
            seen += count
            yield f'{name}_bucket{{stage="{label}",le="{bound:.10g}"}} {seen}'
        yield f'{name}_bucket{{stage="{label}",le="+Inf"}} {seen + stage.buckets[-1]}'
        yield f'{name}_sum{{stage="{label}"}} {stage.seconds!r}'
        yield f'{name}_count{{stage="{label}"}} {seen + stage.buckets[-1]}'


def _head(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.meaning}"
    yield f"# TYPE {family.name} {family.kind}"


def _family(family: Family, values: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    """Yield the lines of a metric; what is not known is left out."""
    yield from _head(family)
    for label, value in values:
        if value is not None:
            yield f'{family.name}{{{family.label}="{escaped(label)}"}} {value!r}'


def escaped(label: str) -> str:
    """Return the value of a label as it is written."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
