"""Show differences: about twenty rows of each class for people, and all of them as a file."""

from pathlib import Path

from sidestage.checks.layout import Field, is_integer
from sidestage.checks.result import Discrepancies, Sample
from sidestage.checks.sides import Stage
from sidestage.checks.sql import text

_LONGEST_TEXT = 200
_WIDEST_ROW = 12
MOST_DISCREPANCIES = 1_000_000


def take_samples(stage: Stage, each: int) -> tuple[Sample, ...]:
    """Return up to ``each`` rows of every class, chosen by the hash of key and values.

    The choice is the same whenever the same rows differ. Changed rows show the values that differ;
    missing and extra ones their first twelve columns.
    """
    layout = stage.layout
    numbers = range(len(layout.compared))
    hashed = ", ".join([*layout.keys, *(f"b{number}, c{number}" for number in numbers)])
    chosen = f"SELECT unnest(arg_min(rowid, hash({hashed}), {each})) FROM detail GROUP BY kind, trouble"  # noqa: S608
    keys = "".join(f", {_shown(key)}" for key, _ in zip(layout.keys, layout.key, strict=False))
    values = "".join(f", d{n}, {_shown(f'b{n}')}, {_shown(f'c{n}')}" for n in numbers)
    rows = stage.all(
        f"SELECT kind, trouble, parts.name{keys}{values} FROM detail JOIN parts USING (p) "  # noqa: S608
        f"WHERE detail.rowid IN ({chosen}) ORDER BY kind, trouble, hash({hashed}), parts.name"
    )
    return tuple(_sample(stage, row) for row in rows)


def _shown(column: str) -> str:
    whole = f"CAST({column} AS VARCHAR)"
    cut = f"left({whole}, {_LONGEST_TEXT}) || '…'"
    return f"CASE WHEN length({whole}) > {_LONGEST_TEXT} THEN {cut} ELSE {whole} END"


def _sample(stage: Stage, row: tuple[object, ...]) -> Sample:
    kind, trouble, partition, *rest = row
    width = len(stage.layout.key)
    key = {field.name: _text(value) for field, value in zip(stage.layout.key, rest[:width], strict=True)}
    cells = rest[width:]
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    for number, field in enumerate(stage.layout.compared):
        degree, base, candidate = cells[3 * number : 3 * number + 3]
        if degree:
            before[field.name], after[field.name] = _text(base), _text(candidate)
        elif degree is None and number < _WIDEST_ROW:
            there = before if kind == "missing" else after
            there[field.name] = _text(base if kind == "missing" else candidate)
    # The columns' values come from the query that names exactly these classes.
    return Sample(kind, trouble, str(partition), key, before, after)  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def write_discrepancies(
    stage: Stage, dataset: str, path: Path, total: int, *, most: int = MOST_DISCREPANCIES
) -> Discrepancies:
    """Write every differing cell, missing row and extra row to a Parquet file, up to ``most`` lines.

    Columns: dataset, partition, key (JSON object), class, column, base, candidate (as text) and
    within_tolerance. Missing and extra rows have no column; their whole row is given as a JSON object.
    """
    layout = stage.layout
    pairs = zip(layout.key, layout.keys, strict=False)
    key = _json([(field, column) for field, column in pairs])
    head = f"{text(dataset)} AS dataset, parts.name AS partition, {key} AS key"
    source = "FROM detail JOIN parts USING (p)"
    selects = [
        f'SELECT {head}, kind AS class, {text(field.name)} AS "column", CAST(b{n} AS VARCHAR) AS base, '
        f"CAST(c{n} AS VARCHAR) AS candidate, d{n} = 1 AS within_tolerance {source} WHERE d{n} > 0"
        for n, field in enumerate(layout.compared)
    ]
    for kind, side, columns in (("missing", "b", "base"), ("extra", "c", "candidate")):
        whole = _json([(field, f"{side}{number}") for number, field in enumerate(layout.compared)])
        values = f"{whole}, NULL" if columns == "base" else f"NULL, {whole}"
        selects.append(f"SELECT {head}, kind, NULL, {values}, FALSE {source} WHERE kind = '{kind}'")
    query = f"SELECT * FROM ({' UNION ALL '.join(selects)}) LIMIT {most:d}"  # noqa: S608
    path.parent.mkdir(parents=True, exist_ok=True)
    stage.connection.execute(f"COPY ({query}) TO {text(str(path))} (FORMAT parquet, COMPRESSION zstd)")
    return Discrepancies(str(path), written=min(total, most), total=total)


def _json(columns: list[tuple[Field, str]]) -> str:
    """Return an expression: a JSON object of the columns; whole numbers and truths keep their type."""
    items = []
    for field, column in columns:
        value = (
            column if field.common == "BOOLEAN" or is_integer(field.common) else f"CAST({column} AS VARCHAR)"
        )
        items.append(f"{text(field.name)}, {value}")
    return f"CAST(json_object({', '.join(items)}) AS VARCHAR)"
