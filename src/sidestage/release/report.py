"""A comparison as people read it: in the terminal, as one self-contained page, and as JSON."""

from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sidestage.checks.result import (
    ColumnComparison,
    Comparison,
    DatasetComparison,
    PartitionComparison,
    Sample,
    Verdict,
)

_SIGNS: dict[Verdict, tuple[str, str]] = {
    "identical": ("=", "bold green"),
    "within tolerance": ("≈", "bold green"),
    "different": ("≠", "bold yellow"),
    "broken": ("✕", "bold red"),
}
_MEANINGS: dict[Verdict, str] = {
    "identical": "Every row is the same on both sides.",
    "within tolerance": "All differences are within their tolerances.",
    "different": "There are differences; no rule is broken. People decide.",
    "broken": "A rule is broken, or the candidate's keys are. It must not be promoted as it is.",
}
_HEAT = (0.0, 0.0001, 0.001, 0.01, 0.1)
_CELLS_PER_LINE = 62
_BYTES = 1024


def to_json(comparison: Comparison) -> bytes:
    """Return the comparison as JSON."""
    return msgspec.json.encode(comparison)


def render_html(comparison: Comparison, title: str, details: Mapping[str, str]) -> str:
    """Return a page that needs nothing but itself: no script, no picture, no network.

    ``details`` are further facts about the comparison, such as the command and when it ran.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "bytes": _bytes,
        "count": _count,
        "fact": _fact,
        "percent": _percent,
        "seconds": _seconds,
        "signed": _signed,
    }
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        comparison=comparison,
        title=title,
        details=dict(details),
        signs={verdict: sign for verdict, (sign, _) in _SIGNS.items()},
        meanings=_MEANINGS,
        strips={one.dataset: _strip(one.partitions) for one in comparison.datasets},
        classes={one.dataset: _by_class(one.samples) for one in comparison.datasets},
        reused=_saved(comparison),
    )


def render_text(comparison: Comparison) -> RenderableType:
    """Return the comparison for a terminal: verdict first, then what differs, dataset by dataset."""
    sign, style = _SIGNS[comparison.verdict]
    head = Text(f"{sign} {comparison.verdict}", style=style)
    head.append(f"  {_MEANINGS[comparison.verdict]}", style="default not bold")
    sides = " against ".join(
        f"{_plain(side.environment)} ({_plain(side.code) or 'no code name'})"
        for side in (comparison.environment, comparison.base)
    )
    cost = f"{_seconds(comparison.seconds)}, {_bytes(comparison.bytes_read)} read"
    parts: list[RenderableType] = [
        Panel(head, subtitle=Text(sides), subtitle_align="left"),
        _overview(comparison),
    ]
    parts += [
        Padding(_dataset_text(one), (1, 0, 0, 0)) for one in comparison.datasets if one.verdict != "identical"
    ]
    return Group(*parts, Text(cost, style="dim"))


def _overview(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("dataset")
    table.add_column("verdict")
    for name in ("rows", "changed", "tolerated", "missing", "extra", "unread parts"):
        table.add_column(name, justify="right")
    for one in comparison.datasets:
        sign, style = _SIGNS[one.verdict]
        numbers = (one.rows_candidate, one.changed, one.within_tolerance, one.missing, one.extra)
        table.add_row(
            Text(_plain(one.dataset)),
            Text(f"{sign} {one.verdict}", style=style),
            *(Text(_count(number)) for number in numbers),
            Text(f"{one.unread:,} of {len(one.partitions):,}"),
        )
    return table


def _dataset_text(one: DatasetComparison) -> RenderableType:
    parts: list[RenderableType] = [Text(_plain(one.dataset), style="bold underline")]
    for rule in one.rules:
        mark = "kept  " if rule.passed else "BROKEN"
        parts.append(
            Text(f"{mark} {_plain(rule.rule)}: {_plain(rule.observed)}", style="" if rule.passed else "red")
        )
    if one.keys.broken:
        problem = one.keys.problem or f"{one.keys.new:,} duplicate or NULL keys that production does not have"
        parts.append(Text(f"BROKEN keys: {_plain(problem)}", style="red"))
    differing = [column for column in one.columns if column.differs or column.within_tolerance]
    if differing:
        parts.append(_columns_text(differing))
    for segment in one.segments:
        value = "NULL" if segment.value is None else _plain(segment.value)
        parts.append(
            Text(
                f"concentrated in {_plain(segment.column)} = {value}: {segment.differing:,} of "
                f"{segment.rows:,} rows ({_percent(segment.rate)}, {segment.lift:.1f} times the average)"
            )
        )
    parts += [Text(_plain(note), style="dim") for note in one.notes]
    if one.discrepancies is not None:
        parts.append(Text(f"all differences: {_plain(one.discrepancies.path)}", style="dim"))
    return Group(*parts)


def _columns_text(columns: Sequence[ColumnComparison]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("column")
    table.add_column("what")
    for name in (
        "changed",
        "rate",
        "tolerated",
        "to NULL",
        "from NULL",
        "largest error",
        "sum of differences",
    ):
        table.add_column(name, justify="right")
    for one in columns:
        if one.role != "compared":
            table.add_row(Text(_plain(one.name)), Text(_fact(one)))
            continue
        table.add_row(
            Text(_plain(one.name)),
            Text(_plain(_fact(one))),
            _count(one.changed),
            _percent(one.rate),
            _count(one.within_tolerance),
            _count(one.became_null),
            _count(one.became_value),
            "" if one.max_absolute is None else f"{one.max_absolute:.6g}",
            _signed(one.difference),
        )
    return table


def _plain(value: str) -> str:
    """Return text that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)


def _fact(column: ColumnComparison) -> str:
    """Say in a word what is special about a column."""
    if column.role in {"added", "removed", "ignored", "key"}:
        return column.role
    return f"{column.base_type} → {column.candidate_type}" if column.type_changed else ""


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(rate: float) -> str:
    if rate == 0:
        return "0 %"
    # Never round a difference to nothing, or nearly all to all.
    if rate < 0.0001:  # noqa: PLR2004
        return "< 0.01 %"
    return "> 99.99 %" if 0.9999 < rate < 1 else f"{100 * rate:.4g} %"  # noqa: PLR2004


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:+,.2f}" if abs(value) >= 1 else f"{value:+.3g}"


def _seconds(value: float) -> str:
    minutes, rest = divmod(value, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.3g} s"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _BYTES:
            return f"{size:.3g} {unit}"
        size /= _BYTES
    return f"{size:.3g} TiB"


def _strip(partitions: Sequence[PartitionComparison]) -> list[dict[str, object]]:
    """Place one cell per partition: its position, its heat class and what to say about it."""
    cells: list[dict[str, object]] = []
    for number, one in enumerate(partitions):
        line, place = divmod(number, _CELLS_PER_LINE)
        level = sum(one.mismatch > bound for bound in _HEAT)
        said = f"{one.partition}: {_percent(one.mismatch)} of rows differ"
        if one.how != "compared":
            said = f"{one.partition}: {one.how}, not read"
        heat = f"h{level}" if one.how == "compared" else "unread"
        cells.append({"x": place * 14, "y": line * 14, "heat": heat, "said": said})
    return cells


def _by_class(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    classes: dict[str, list[Sample]] = {}
    for sample in samples:
        name = f"{sample.kind} ({sample.trouble})" if sample.trouble else sample.kind
        classes.setdefault(name, []).append(sample)
    return classes


def _saved(comparison: Comparison) -> str:
    """Say which share of the environment's outputs did not have to be made again."""
    environment = comparison.environment
    all_of_them = environment.made + environment.reused
    return _percent(environment.reused / all_of_them) if all_of_them else ""
