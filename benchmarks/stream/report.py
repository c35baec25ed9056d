"""The figures as Markdown tables, and all that was measured as JSON."""

import contextlib
import io
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from benchmarks import machine
from benchmarks.stream.engines import CASES, CORES, ENRICHMENT, LATENCY, MEMORY, PLUMBING, REFERENCE, Engine
from benchmarks.stream.figures import Measurement, Row, summed_up

TITLES = {
    PLUMBING: "Plumbing: five trivial stages, nanoseconds per item and hop",
    LATENCY: "Latency at 100 items per second through five stages, microseconds",
    ENRICHMENT: "Log enrichment: decode, by user into 16, look up, batch, encode; events per second",
    CORES: "A stage that keeps processors busy, on two cores",
    MEMORY: "Memory while items pass, MiB",
}
COLUMNS = {
    PLUMBING: {
        "hop": "ns per hop",
        "low": "lowest",
        "high": "highest",
        "processor": "processor ns per hop",
        "ratio": f"x {REFERENCE}",
        "rate": "items/s",
        "plain": "ns per call",
    },
    LATENCY: {"p50": "p50", "p99": "p99", "low": "lowest p50", "high": "highest p50"},
    ENRICHMENT: {
        "rate": "events/s",
        "low": "lowest",
        "high": "highest",
        "processor": "processor us per event",
        "hits": "found in cache, %",
    },
    CORES: {
        "speedup": "speed-up",
        "alone": "one core, s",
        "together": "two cores, s",
        "start": "start, ms",
        "first_start": "first start, ms",
    },
    MEMORY: {"growth": "late above early, %", "early": "early", "late": "late", "peak": "peak"},
}
EXPLANATIONS = {
    PLUMBING: """\
(time - plain loop that calls the same five functions) / (items x 5), by wall clock and, beside it, by time of
all processors; *ns per call* is the plain loop's time per function. Starting an engine counts. Every sum was
checked. Calls on one thread are not concurrent hops: compare engines that do the same.""",
    LATENCY: "Medians over the repeats of each run's 50th and 99th percentile.",
    ENRICHMENT: """\
Caches are full when the clock starts. What came out was decoded and its sum checked. A user who is not in the
cache costs one call of a local function.""",
    CORES: """\
The speed-up counts starting and ending the processes, which is also shown: with two items, and the first
time. The sum was compared with that of one core.""",
    MEMORY: "Medians of the memory (PSS, all processes) in the second and in the last fifth of the time.",
}


def surroundings(versions: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """Return lines that say where this was measured, with what, and by which commands."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        machine.describe("msgspec", "psutil")
    lines = [line for line in printed.getvalue().splitlines() if not line.startswith("command:")]
    return [
        *lines,
        f"engines: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"command: python -m benchmarks.stream {shlex.join(sys.argv[1:])}".rstrip(),
        f"each program: {shlex.join(command)}",
    ]


def markdown(engines: Sequence[Engine], found: Sequence[Measurement], about: Sequence[str]) -> str:
    """Return one table for each case, and what has to be known to read it."""
    busy = [one.busy for one in found] or [0.0]
    quietness = f"{statistics.median(busy):.0f} % (at most {max(busy):.0f} %)"
    lines = [f"- {line}" for line in about]
    lines.append(f"- others' use of the processors just before a figure was taken: {quietness}")
    for case in CASES:
        if rows := summed_up(engines, found, case):
            lines += ["", f"### {TITLES[case]}", "", EXPLANATIONS[case], "", *_table(case, rows)]
    return "\n".join(lines)


def write_json(
    path: Path, engines: Sequence[Engine], found: Sequence[Measurement], about: Sequence[str]
) -> None:
    """Write the rows of all tables, and every single measurement."""
    rows = [row for case in CASES for row in summed_up(engines, found, case)]
    everything = {"about": about, "rows": rows, "measurements": found}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")


def _table(case: str, rows: Sequence[Row]) -> list[str]:
    columns = COLUMNS[case]
    titles = ["engine", *columns.values(), "items", "repeats", "note"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        cells = [_figure(row.figures[key]) if key in row.figures else "-" for key in columns]
        lines.append(_line([row.title, *cells, f"{row.size:,}", str(row.repeats), row.note]))
    return lines


def _figure(value: float) -> str:
    """Return three digits that count, and no exponent."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
