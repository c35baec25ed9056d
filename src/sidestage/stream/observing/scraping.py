"""Metrics of a stream that runs elsewhere, read back from the text that it serves."""

import re
from collections import defaultdict

import msgspec

from sidestage.errors import DataError
from sidestage.stream.memory.budget import MemoryCounts
from sidestage.stream.observing.exposition import (
    BUFFER,
    BUSY,
    CANCELLED,
    CPU,
    DURATION,
    ERRORS,
    KEPT,
    LAG,
    MEMORY,
    PENDING,
    PROCESSED,
    WORKERS,
)
from sidestage.stream.observing.metrics import BOUNDS, StageCounts

_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>.*)\} (?P<value>\S+)(?: -?\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Scraped(msgspec.Struct, frozen=True):
    """What a stream tells of itself: its stages, and by source the age of its oldest items in seconds.

    ``memory`` if it has a budget.
    """

    stages: tuple[StageCounts, ...]
    lags: dict[str, float]
    memory: MemoryCounts | None = None


def scraped(text: str) -> Scraped:
    """Return what a text says; stages stand in its order. Raises DataError if it is not that of a stream."""
    values: dict[tuple[str, str], float] = {}
    buckets: defaultdict[str, list[int]] = defaultdict(list)
    names: dict[str, None] = {}
    lags: dict[str, float] = {}
    memory: dict[str, int] = {}
    for line in text.split("\n"):  # names may hold other ends of lines
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        labels = {name: _ESCAPE.sub(_unescaped, value) for name, value in _LABEL.findall(match["labels"])}
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if match["name"] == LAG.name:
            lags[labels.get(LAG.label, "")] = value
        elif match["name"] in (MEMORY.name, KEPT.name):
            memory[labels.get(MEMORY.label, "")] = int(value)
        elif "stage" in labels:
            names[labels["stage"]] = None
            if match["name"] == f"{DURATION.name}_bucket":
                buckets[labels["stage"]].append(int(value))
            values[match["name"], labels["stage"]] = value
    stages = tuple(_stage(name, values, buckets[name]) for name in names if (PROCESSED.name, name) in values)
    if not stages:
        raise DataError(
            f"There is no {PROCESSED.name} in it: these are not the metrics of a stream.",
            hint="Is this the port that was given to: sidestage stream run --metrics?",
        )
    return Scraped(stages, lags, _memory(memory))


def _memory(found: dict[str, int]) -> MemoryCounts | None:
    known = {name: size for name, size in found.items() if name in MemoryCounts.__struct_fields__}
    return MemoryCounts(**known) if known.keys() >= {"budget", "used", "peak"} else None


def _stage(name: str, values: dict[tuple[str, str], float], seen: list[int]) -> StageCounts:
    counted = [upto - before for upto, before in zip(seen, [0, *seen], strict=False)]
    if len(counted) != len(BOUNDS) + 1:  # of another release: no duration is known then
        counted = [0] * (len(BOUNDS) + 1)
    return StageCounts(
        name,
        int(values.get((WORKERS.name, name), 1)) or 1,
        int(values.get((PENDING.name, name), 0)),
        int(values[PROCESSED.name, name]),
        int(values.get((ERRORS.name, name), 0)),
        values.get((f"{DURATION.name}_sum", name), 0.0),
        tuple(counted),
        cpu=values.get((CPU.name, name)),
        busy=values.get((BUSY.name, name), 0.0),
        buffer=int(values.get((BUFFER.name, name), 0)),
        cancelled=int(values.get((CANCELLED.name, name), 0)),
    )


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
