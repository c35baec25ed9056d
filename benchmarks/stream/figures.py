"""What the answers of programs say, whether they are right, and how several repeats become one figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stream.engines import CORES, ENRICHMENT, LATENCY, MEMORY, PLUMBING, REFERENCE, Engine
from msgspec import Struct

HOPS = 5
HIT_RATE = (0.94, 0.96)
"""What the share of users found in a cache may be for the shape to be the one that is meant."""


class Measurement(Struct, frozen=True):
    """What one run said. ``busy`` is what others used of the processors just before, in percent."""

    case: str
    engine: str
    size: int
    figures: dict[str, float]
    busy: float
    error: str = ""


class Row(Struct, frozen=True):
    """One line of a table: medians over the repeats, and the lowest and highest of what leads the table."""

    case: str
    engine: str
    title: str
    size: int
    repeats: int
    figures: dict[str, float]
    note: str


LEADING = {PLUMBING: "hop", LATENCY: "p50", ENRICHMENT: "rate", CORES: "speedup", MEMORY: "growth"}
"""The figure that a table is about."""


def per_hop(seconds: float, plain_seconds: float, items: int) -> float:
    """Return the nanoseconds of plumbing per item and hop: what is left without the calls themselves."""
    return (seconds - plain_seconds) / (items * HOPS) * 1e9


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def expected_total(items: int) -> int:
    """Return the sum of 0, 1, 2 ... after four stages that each add one."""
    return items * (items - 1) // 2 + 4 * items


def wrong(case: str, answer: Mapping[str, Any], size: int, events_total: int) -> str:
    """Say what is not right about an answer; nothing if all is."""
    if answer.get("case") != case or answer.get("size") != size:
        return "it answers another question"
    match case:
        case "plumbing" | "memory":
            pairs = [("sum", answer["total"], expected_total(size))]
        case "latency":
            pairs = [("number of items", len(answer["waits"]), size)]
        case "enrichment":
            pairs = [("number of events", answer["events"], size), ("sum", answer["total"], events_total)]
            low, high = HIT_RATE
            if not low <= answer["hits"] <= high:
                return f"{answer['hits']:.1%} of the users were found in a cache"
        case _:
            pairs = []  # the program itself compares with the work done alone
    told = [f"the {what} is {found}, not {right}" for what, found, right in pairs if found != right]
    return "; ".join(told)


def figures_of(case: str, answer: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an answer, in the units of the report."""
    if case == LATENCY:
        return {f"p{percent}": percentile(answer["waits"], percent) * 1e6 for percent in (50, 99)}
    size, seconds, processor = int(answer["size"]), answer["seconds"], answer["processor"]
    if case == PLUMBING:
        return {
            "hop": per_hop(seconds, answer["plain_seconds"], size),
            "processor": per_hop(processor, answer["plain_processor"], size),
            "rate": size / seconds,
            "plain": answer["plain_seconds"] / (size * HOPS) * 1e9,
        }
    if case == ENRICHMENT:
        return {"rate": size / seconds, "processor": processor / size * 1e6, "hits": answer["hits"] * 100}
    alone = answer["plain_seconds"]
    return {
        "speedup": alone / seconds,
        "alone": alone,
        "together": seconds,
        "start": answer["start"] * 1e3,
        "first_start": answer["first_start"] * 1e3,
    }


def summed_up(engines: Sequence[Engine], measurements: Sequence[Measurement], case: str) -> list[Row]:
    """Return the rows of a case; those that were measured come first, best first."""
    rows = []
    for engine in engines:
        found = [one for one in measurements if (one.case, one.engine) == (case, engine.name)]
        if found:
            rows.append(_row(engine, found))
    base = next((row.figures.get("hop") for row in rows if row.engine == REFERENCE), None)
    if case == PLUMBING and base:
        for row in rows:
            if row.figures:
                row.figures["ratio"] = row.figures["hop"] / base
    sign = -1 if case in {ENRICHMENT, CORES} else 1
    return sorted(rows, key=lambda row: sign * row.figures.get(LEADING[case], sign * math.inf))


def _row(engine: Engine, found: Sequence[Measurement]) -> Row:
    right = [one.figures for one in found if not one.error]
    figures = {key: statistics.median(each[key] for each in right) for key in (right[0] if right else ())}
    if right:
        leading = [each[LEADING[found[0].case]] for each in right]
        figures |= {"low": min(leading), "high": max(leading)}
    notes = [engine.note] if engine.note else []
    notes += [f"failed: {one.error}" for one in found if one.error][:1]
    size = found[0].size
    return Row(found[0].case, engine.name, engine.title, size, len(right), figures, "; ".join(notes))
