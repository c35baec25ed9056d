"""The figures as Markdown tables, and all that was measured as JSON."""

import contextlib
import io
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from benchmarks import machine
from benchmarks.orchestrators.measurement import (
    METRICS,
    UNITS,
    Measurement,
    Row,
    full_size,
    metrics_of,
    summed_up,
    tasks,
)
from benchmarks.orchestrators.peers import Peer

EXPLANATION = """\
Median of the repeats; *x bare* is the ratio to the bare limit on the same database (SQLite where there is
none), *x Sidestage* the ratio to Sidestage on SQLite, both measured in this run, in turns. More than 1 is
slower, or larger. [E]: extrapolated in proportion from the smaller size in the note. PostgreSQL's own memory
is not counted."""


def surroundings(versions: dict[str, str]) -> list[str]:
    """Return lines that say where this was measured, with what, and by which command."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        machine.describe("msgspec", "psutil")
    lines = [line for line in printed.getvalue().splitlines() if not line.startswith("command:")]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        *lines,
        f"tools: {named}",
        f"command: python -m benchmarks.orchestrators {shlex.join(sys.argv[1:])}",
    ]


def markdown(
    peers: Sequence[Peer], cases: Sequence[str], measurements: Sequence[Measurement], about: Sequence[str]
) -> str:
    """Return one table for each thing measured, and what has to be known to read them."""
    lines = [f"- {line}" for line in [*about, *_quietness(measurements)]]
    lines += ["", EXPLANATION]
    for metric in [metric for case in cases for metric in metrics_of(case)]:
        rows = summed_up(peers, measurements, metric)
        title = METRICS[metric].format(size=f"{full_size(metric):,}")
        lines += ["", f"### {title[0].upper()}{title[1:]}", ""]
        lines += _table(metric, rows)
    return "\n".join(lines)


def write_json(
    path: Path, peers: Sequence[Peer], measurements: Sequence[Measurement], about: Sequence[str]
) -> None:
    """Write the rows of all tables, and every single measurement."""
    metrics = [metric for metric in METRICS if any(one.metric == metric for one in measurements)]
    rows = [row for metric in metrics for row in summed_up(peers, measurements, metric)]
    everything = {"about": about, "rows": rows, "measurements": measurements}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")


def _quietness(measurements: Sequence[Measurement]) -> list[str]:
    if not measurements:
        return []
    busy = [one.busy for one in measurements]
    middle, most = statistics.median(busy), max(busy)
    return [
        f"others' use of the processors just before a figure was taken: {middle:.0f} % (at most {most:.0f} %)"
    ]


def _table(metric: str, rows: Sequence[Row]) -> list[str]:
    unit = UNITS.get(metric, "s")
    many = tasks(metric)
    titles = [
        "tool",
        unit,
        *(["per task, ms"] if many else []),
        "x bare",
        "x Sidestage",
        "durability",
        "repeats",
        "note",
    ]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        value = "-" if row.value is None else _figure(row.value) + (" [E]" if row.extrapolated else "")
        each = ["-" if row.value is None else _figure(row.value / many * 1000)] if many else []
        ratios = ["-" if ratio is None else _figure(ratio) for ratio in (row.to_limit, row.to_sidestage)]
        lines.append(_line([row.title, value, *each, *ratios, row.durability, str(row.repeats), row.note]))
    return lines


def _figure(value: float) -> str:
    """Return three digits that count, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
