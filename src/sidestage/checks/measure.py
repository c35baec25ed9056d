"""Count what differs: per column, per partition, and in which segments it concentrates."""

import math
from collections.abc import Iterable

from sidestage.checks.layout import Field, is_integer
from sidestage.checks.result import ColumnComparison, Keys, PartitionComparison, Segment
from sidestage.checks.sides import Stage

_COLUMNS_AT_ONCE = 20
_MOST_VALUES = 50
_MOST_SEGMENT_COLUMNS = 30
_TOP = 5
_LEAST_LIFT = 1.2
_MOST_PARTITIONS = 2


def measure_keys(stage: Stage) -> Keys:
    """Count duplicated and NULL keys on each side, from the suspects."""
    if not stage.layout.key:
        return Keys()
    null = "(" + " OR ".join(f"{key} IS NULL" for key in stage.layout.keys) + ")"
    counts = stage.one(
        f"SELECT count(*) FILTER (WHERE nb > 1 AND NOT {null}), count(*) FILTER (WHERE nc > 1 AND NOT {null}), "  # noqa: S608, E501
        f"coalesce(sum(nb) FILTER (WHERE {null}), 0), coalesce(sum(nc) FILTER (WHERE {null}), 0), "
        f"count(*) FILTER (WHERE nc > 1 AND nb <= 1 AND NOT {null}), "
        f"coalesce(sum(greatest(nc - nb, 0)) FILTER (WHERE {null}), 0) FROM suspects"
    )
    ours, theirs, nulls, their_nulls, new, new_nulls = (int(str(count)) for count in counts)
    return Keys(ours, theirs, nulls, their_nulls, new + new_nulls)


def measure_partitions(stage: Stage) -> list[PartitionComparison]:
    """Count rows per partition. Rows are trusted to be as many as their digests say."""
    kinds = ("changed", "within tolerance", "missing", "extra")
    counts = ", ".join(f"count(*) FILTER (WHERE kind = '{kind}')" for kind in kinds)
    found = {
        row[0]: [int(str(count)) for count in row[1:]]
        for row in stage.all(f"SELECT p, {counts} FROM detail GROUP BY p")  # noqa: S608
    }
    result = []
    for number, pair in enumerate(stage.pairs, 1):
        changed, tolerated, missing, extra = found.get(number, [0, 0, 0, 0])
        ours = pair.base.rows if pair.base else 0
        theirs = pair.candidate.rows if pair.candidate else 0
        result.append(
            PartitionComparison(
                pair.partition, "compared", ours, theirs, ours - missing, changed, tolerated, missing, extra
            )
        )
    return result


def measure_columns(stage: Stage, matched: int) -> tuple[ColumnComparison, ...]:
    """Measure every column of either side; ``matched`` is the number of rows that rates refer to."""
    layout = stage.layout
    measured: dict[str, ColumnComparison] = {}
    numbered = list(enumerate(layout.compared))
    for start in range(0, len(numbered), _COLUMNS_AT_ONCE):
        some = numbered[start : start + _COLUMNS_AT_ONCE]
        measured |= {one.name: one for one in _measure_some(stage, some, matched)}
    keys = {field.name for field in layout.key}
    names = [*layout.base, *(name for name in layout.candidate if name not in layout.base)]
    return tuple(
        measured.get(name)
        or unmeasured(name, layout.base.get(name), layout.candidate.get(name), keys, layout.ignored)
        for name in names
    )


def unmeasured(
    name: str, base: str | None, candidate: str | None, keys: Iterable[str], ignored: Iterable[str]
) -> ColumnComparison:
    """Return what is to be said of a column that was not compared; types are None where it is absent."""
    if name in ignored:
        return ColumnComparison(name, "ignored", base, candidate)
    if base is None or candidate is None:
        return ColumnComparison(name, "added" if base is None else "removed", base, candidate)
    return ColumnComparison(name, "key" if name in keys else "compared", base, candidate)


def _measure_some(stage: Stage, some: list[tuple[int, Field]], matched: int) -> Iterable[ColumnComparison]:
    expressions = [expression for number, field in some for expression in _aggregates(number, field)]
    values = iter(stage.one(f"SELECT {', '.join(expressions)} FROM detail"))  # noqa: S608
    for _, field in some:
        changed, tolerated, to_null, from_null = (int(str(next(values))) for _ in range(4))
        absolute, relative, difference, total = (_float(next(values)) for _ in range(4))
        yield ColumnComparison(
            name=field.name,
            role="compared",
            base_type=field.base_type,
            candidate_type=field.candidate_type,
            changed=changed,
            rate=changed / matched if matched else 0.0,
            within_tolerance=tolerated,
            became_null=to_null,
            became_value=from_null,
            max_absolute=absolute,
            max_relative=relative,
            difference=difference,
            total_difference=total,
        )


def _aggregates(number: int, field: Field) -> list[str]:
    b, c, d = f"b{number}", f"c{number}", f"d{number}"
    counts = [
        f"count(*) FILTER (WHERE {d} = 2)",
        f"count(*) FILTER (WHERE {d} = 1)",
        f"count(*) FILTER (WHERE {d} = 2 AND {c} IS NULL)",
        f"count(*) FILTER (WHERE {d} = 2 AND {b} IS NULL)",
    ]
    if not (field.numeric or field.temporal):
        return [*counts, "NULL", "NULL", "NULL", "NULL"]
    nb, nc = field.number(b), field.number(c)
    finite = f"{d} > 0 AND isfinite({nb}) AND isfinite({nc})"
    errors = [
        f"max(abs({nc} - {nb})) FILTER (WHERE {finite})",
        f"max(abs({nc} - {nb}) / abs({nb})) FILTER (WHERE {finite} AND {nb} <> 0)",
    ]
    if not field.numeric:
        return [*counts, *errors, "NULL", "NULL"]
    sums = [
        f"fsum({nc} - {nb}) FILTER (WHERE {finite})",
        " - ".join(f"coalesce(fsum({one}) FILTER (WHERE isfinite({one})), 0)" for one in (nc, nb)),
    ]
    return [*counts, *errors, *sums]


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))


def base_total(stage: Stage, column: str, files: str) -> float:
    """Return production's sum of a column over a relation of Parquet files; only that column is read."""
    query = f"SELECT fsum(x) FROM (SELECT CAST({column} AS DOUBLE) AS x FROM {files}) WHERE isfinite(x)"  # noqa: S608
    return _float(stage.one(query)[0]) or 0.0


def measure_segments(stage: Stage, partitions: list[PartitionComparison]) -> tuple[Segment, ...]:
    """Return up to five values among whose rows most more differ than if differences were spread evenly.

    Looked at are the partition and columns with few values (at most 50) that are no floats and no times
    of day. Only these columns of production's files are read again.
    """
    rows = sum(one.rows_base for one in partitions)
    differing = sum(one.changed + one.missing for one in partitions)
    if not differing:
        return ()
    overall = differing / rows
    parts = [("partition", one.partition, one.changed + one.missing, one.rows_base) for one in partitions]
    # All rows of the only partition are no more unusual than all rows.
    unusual = [*_unusual(parts, overall)[:_MOST_PARTITIONS], *_unusual(_columns_counted(stage), overall)]
    return tuple(segment for _, segment in sorted(unusual, key=_first)[:_TOP])


_Weighted = tuple[float, Segment]


def _first(one: _Weighted) -> tuple[float, str, str]:
    """Order segments by their excess of differing rows, largest first."""
    return -one[0], one[1].column, one[1].value or ""


def _unusual(counted: Iterable[tuple[str, str | None, int, int]], overall: float) -> list[_Weighted]:
    """Return the segments that differ more than chance would make them, with their excess, by rank."""
    found = []
    for column, value, hits, size in counted:
        expected = size * overall
        # Three standard deviations of chance, so that evenly spread differences name no segment.
        if hits - expected > 3 * math.sqrt(expected) and hits > _LEAST_LIFT * expected:
            found.append((hits - expected, Segment(column, value, hits, size, hits / size, hits / expected)))
    return sorted(found, key=_first)


def _columns_counted(stage: Stage) -> Iterable[tuple[str, str | None, int, int]]:
    """Yield (column, value, differing rows, rows) of the columns that have few values."""
    layout = stage.layout
    fields = [(field, key, key) for field, key in zip(layout.key, layout.keys, strict=False)]
    numbers = range(len(layout.compared))
    fields += [(layout.compared[number], f"b{number}", f"v{number}") for number in numbers]
    fields = [one for one in fields if _discrete(one[0].common)]
    hit = "kind IN ('changed', 'missing')"
    few = _few(stage, [(one, one[1]) for one in fields], f"detail WHERE {hit}")
    few = _few(stage, [(one, one[2]) for one in few[:_MOST_SEGMENT_COLUMNS]], "base_side")
    for field, ours, source in few:
        query = f"SELECT CAST({ours} AS VARCHAR), count(*) FROM detail WHERE {hit} GROUP BY {ours}"  # noqa: S608
        hits = {value: count for value, count in stage.all(query)}  # noqa: C416 -- types are known this way
        counts = stage.all(
            f"SELECT CAST({source} AS VARCHAR), count(*) FROM base_side GROUP BY {source}"  # noqa: S608
        )
        for value, size in counts:
            shown = None if value is None else str(value)
            yield field.name, shown, int(str(hits.get(value, 0))), int(str(size))


def _discrete(kind: str) -> bool:
    return is_integer(kind) or kind in {"VARCHAR", "BOOLEAN", "DATE"} or kind.startswith("ENUM")


def _few(
    stage: Stage, fields: list[tuple[tuple[Field, str, str], str]], relation: str
) -> list[tuple[Field, str, str]]:
    if not fields:
        return []
    counts = ", ".join(f"approx_count_distinct({column})" for _, column in fields)
    row = stage.one(f"SELECT {counts} FROM {relation}")  # noqa: S608
    few = zip(fields, row, strict=True)
    return [one for (one, _), count in few if int(str(count)) <= _MOST_VALUES]
