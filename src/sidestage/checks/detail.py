"""Look at the suspects' rows: pair them, and decide on values what differs.

The result is the table ``detail`` with one line per differing row: p, kind, trouble, the key's columns,
in_b and in_c (on which sides it exists), b0, c0, d0, b1, c1, d1, ... where b is production's value, c the
candidate's, and d 0 if they are equal, 1 if within tolerance, 2 beyond.
"""

import duckdb

from sidestage.checks.sides import Stage


def build_detail(stage: Stage) -> None:
    """Create the table ``detail`` from the table ``suspects``.

    Rows whose key is unique on both sides are paired by it. Rows with a duplicated or NULL key, and all
    rows if there is no key, cannot be paired: they are compared as whole rows, as often as they occur,
    and tolerances do not apply to them.
    """
    keys = stage.layout.keys
    null_key = " OR ".join(f"{key} IS NULL" for key in keys)
    simple = f"nb <= 1 AND nc <= 1 AND NOT ({null_key})" if stage.layout.key else "FALSE"
    loose, nulls = stage.one(
        f"SELECT count(*) FILTER (WHERE NOT ({simple})), count(*) FILTER (WHERE {null_key}) FROM suspects"  # noqa: S608
    )
    if loose:
        _assemble(stage, simple, "TABLE", nulls=bool(nulls), loose=True)
        return
    try:
        _assemble(stage, simple, "VIEW", nulls=False, loose=False)
    except duckdb.OutOfMemoryException:
        # One query is several times faster, but holds all its hash tables at once; two steps need less.
        stage.connection.execute("DROP VIEW base_rows; DROP VIEW candidate_rows")
        _assemble(stage, simple, "TABLE", nulls=False, loose=False)


def _assemble(stage: Stage, simple: str, kind: str, *, nulls: bool, loose: bool) -> None:
    """Create ``detail`` by way of the suspects' rows of each side, as views or as temporary tables."""
    for side in ("base", "candidate"):
        rows = _rows(stage, side, simple, nulls=nulls, loose=loose)
        stage.connection.execute(f"CREATE TEMP {kind} {side}_rows AS {rows}")
    _pair(stage, nulls=nulls)
    stage.connection.execute(f"DROP {kind} base_rows; DROP {kind} candidate_rows")


def _rows(stage: Stage, side: str, simple: str, *, nulls: bool, loose: bool) -> str:
    """Return the query of one side's suspects; ``slot`` and ``mark`` tell rows of one loose key apart."""
    keys = ", ".join(f"r.{key}" for key in stage.layout.keys)
    mark = slot = "0"
    if loose:
        whole = stage.layout.hash("r.")
        mark = f"CASE WHEN s.simple THEN 0 ELSE {whole} END"
        slot = f"row_number() OVER (PARTITION BY r.p, {keys}, {whole})"
    return (
        f"SELECT r.*, s.simple, s.many, {mark} AS mark, {slot} AS slot FROM {side}_side r "  # noqa: S608
        f"JOIN (SELECT *, {simple} AS simple, nb > 1 OR nc > 1 AS many FROM suspects) s "
        f"ON {stage.same('r', 's', nulls=nulls)}"
    )


def _pair(stage: Stage, *, nulls: bool) -> None:
    layout = stage.layout
    keys = ", ".join(f"coalesce(b.{key}, c.{key}) AS {key}" for key in layout.keys)
    null_key = " OR ".join(f"{key} IS NULL" for key in layout.keys)
    columns = ""
    for number, (field, value) in enumerate(zip(layout.compared, layout.values, strict=True)):
        degree = field.degree(f"b.{value}", f"c.{value}")
        both = f"CASE WHEN b.p IS NOT NULL AND c.p IS NOT NULL THEN {degree} END"
        columns += f", b.{value} AS b{number}, c.{value} AS c{number}, {both} AS d{number}"
    worst = ", ".join(f"d{number}" for number in range(len(layout.compared)))
    worst = f"greatest({worst})" if worst else "0"
    trouble = f"CASE WHEN {null_key} THEN 'null key' WHEN many THEN 'duplicate key' ELSE '' END"
    if not layout.key:
        trouble = "''"
    kind = (
        f"CASE WHEN NOT in_c THEN 'missing' WHEN NOT in_b THEN 'extra' "
        f"WHEN {worst} = 2 THEN 'changed' ELSE 'within tolerance' END"
    )
    stage.connection.execute(
        f"CREATE TEMP TABLE detail AS SELECT {kind} AS kind, {trouble} AS trouble, * EXCLUDE (simple, many) "  # noqa: S608
        f"FROM (SELECT coalesce(b.p, c.p) AS p, {keys}, b.p IS NOT NULL AS in_b, c.p IS NOT NULL AS in_c, "
        f"coalesce(b.simple, c.simple) AS simple, coalesce(b.many, c.many) AS many{columns} "
        f"FROM base_rows b FULL JOIN candidate_rows c "
        f"ON {stage.same('b', 'c', nulls=nulls)} AND b.mark = c.mark AND b.slot = c.slot) "
        f"WHERE NOT (in_b AND in_c) OR (simple AND {worst} > 0)"
    )
