"""The counts of a stream in the text format that Prometheus reads (exposition format 0.0.4)."""

from collections.abc import Iterable, Iterator, Sequence

from sidestage.stream.metrics import BOUNDS, StageCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(stages: Sequence[StageCounts]) -> str:
    """Return the metrics of all stages."""
    return "\n".join(_lines(stages)) + "\n"


def _lines(stages: Sequence[StageCounts]) -> Iterator[str]:
    yield from _family(
        "pipeline_stage_in_pending", "gauge", "Items that wait before a stage.",
        ((each.name, each.pending) for each in stages),
    )  # fmt: skip
    yield from _family(
        "pipeline_stage_processed_total", "counter", "Items that a stage has dealt with.",
        ((each.name, each.processed) for each in stages),
    )  # fmt: skip
    yield from _family(
        "pipeline_stage_errors_total", "counter", "Items that a stage failed on.",
        ((each.name, each.errors) for each in stages),
    )  # fmt: skip
    makeshift = [(each.name, each.makeshift) for each in stages if each.makeshift is not None]
    if makeshift:
        yield from _family(
            "pipeline_stage_makeshift_total", "counter", "Items that a lookup had a makeshift answer for.",
            makeshift,
        )  # fmt: skip
    name = "pipeline_stage_duration_seconds"
    yield f"# HELP {name} Time that a stage takes for an item, the mean of its chunk."
    yield f"# TYPE {name} histogram"
    for stage in stages:
        label = _escaped(stage.name)
        seen = 0
        for bound, count in zip(BOUNDS, stage.buckets[:-1], strict=True):
            seen += count
            yield f'{name}_bucket{{stage="{label}",le="{bound:.10g}"}} {seen}'
        yield f'{name}_bucket{{stage="{label}",le="+Inf"}} {seen + stage.buckets[-1]}'
        yield f'{name}_sum{{stage="{label}"}} {stage.seconds!r}'
        yield f'{name}_count{{stage="{label}"}} {seen + stage.buckets[-1]}'


def _family(name: str, kind: str, meaning: str, values: Iterable[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    for stage, value in values:
        yield f'{name}{{stage="{_escaped(stage)}"}} {value}'


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
