"""Find the keys whose rows are not simply the same on both sides, reading each file once.

The result is the table ``suspects``: p, key, nb and nc (rows of that key in production and candidate).
It holds every key that is missing, extra, duplicated or (partly) NULL, and every key whose rows have
different hashes. Equal 64-bit hashes are taken as proof that two rows are equal; whether rows with
different hashes really differ is decided later, on their values.
"""

from sidestage.checks.sides import Stage

SMALL = 200_000
"""Up to this many rows grouping is always chosen: it is fast enough and needs no precautions."""

_SAMPLE_ROWS = 100_000


def find_suspects(stage: Stage, *, small: int = SMALL) -> None:
    """Create the table ``suspects``.

    A hash join is the fastest way as long as keys are unique; it is left for grouping, which is exact
    whatever the keys, as soon as the arithmetic of its rows shows that they are not.
    """
    if stage.layout.key and stage.rows > small and not _repeats(stage) and _by_join(stage):
        return
    _by_group(stage)


def _keys(stage: Stage, prefix: str = "") -> str:
    return ", ".join(prefix + key for key in stage.layout.keys)


def _null_key(stage: Stage) -> str:
    return " OR ".join(f"{key} IS NULL" for key in stage.layout.keys)


def _repeats(stage: Stage) -> bool:
    """Whether a sample of the candidate's keys, of which only these columns are read, holds one twice.

    Then keys are not unique and a join would be in vain, or worse: a key that a million rows share on both
    sides makes 10^12 pairs. A key that a thousand rows share is found almost surely.
    """
    percent = min(100.0, 100.0 * _SAMPLE_ROWS / stage.rows)
    keys = f"p, {_keys(stage)}"
    sample = f"SELECT {keys} FROM candidate_side USING SAMPLE {percent} PERCENT (bernoulli, 1)"  # noqa: S608
    counts = f"SELECT count(*) AS n FROM ({sample}) WHERE NOT ({_null_key(stage)}) GROUP BY {keys}"  # noqa: S608
    most = stage.one(f"SELECT max(n) FROM ({counts})")[0]  # noqa: S608
    return most is not None and int(str(most)) > 1


def _by_join(stage: Stage) -> bool:
    """Join both sides on the key; return False, leaving no table, if keys turn out not to be unique.

    Equal pairs (state 0) collapse into one group per partition, whose size is what the arithmetic needs:
    only if no key occurs twice, each side's rows appear in the join exactly once. State 1 is a pair that
    differs, 2 a row of production alone, 3 one of the candidate alone.
    """
    keys = stage.layout.keys
    side = f"SELECT p, {_keys(stage)}, {stage.layout.hash()} AS h FROM"
    found = ", ".join(f"coalesce(b.{key}, c.{key}) AS {key}" for key in keys)
    kept = ", ".join(f"CASE WHEN state > 0 THEN {key} END AS {key}" for key in keys)
    state = "CASE WHEN c.h IS NULL THEN 2 WHEN b.h IS NULL THEN 3 WHEN b.h <> c.h THEN 1 ELSE 0 END"
    stage.connection.execute(
        f"CREATE TEMP TABLE joined AS SELECT p, state, {kept}, count(*) AS n "  # noqa: S608
        f"FROM (SELECT coalesce(b.p, c.p) AS p, {found}, CAST({state} AS TINYINT) AS state "
        f"FROM ({side} base_side) b FULL JOIN ({side} candidate_side) c ON {stage.same('b', 'c')}) "
        f"GROUP BY ALL"
    )
    repeated = f"SELECT count(*) FROM joined WHERE state > 0 AND n > 1 AND NOT ({_null_key(stage)})"  # noqa: S608
    sums = "sum(n) FILTER (WHERE state <> 3) AS nb, sum(n) FILTER (WHERE state <> 2) AS nc"
    uneven = (
        f"SELECT count(*) FROM parts LEFT JOIN (SELECT p, {sums} FROM joined GROUP BY p) j ON parts.p = j.p "  # noqa: S608
        "WHERE coalesce(nb, 0) <> rows_base OR coalesce(nc, 0) <> rows_candidate"
    )
    unique = stage.one(repeated)[0] == 0 and stage.one(uneven)[0] == 0
    if unique:
        stage.connection.execute(
            f"CREATE TEMP TABLE suspects AS SELECT p, {_keys(stage)}, "  # noqa: S608
            f"CAST(coalesce(nb, 0) AS BIGINT) AS nb, CAST(coalesce(nc, 0) AS BIGINT) AS nc FROM "
            f"(SELECT p, {_keys(stage)}, {sums} FROM joined WHERE state > 0 GROUP BY p, {_keys(stage)})"
        )
    stage.connection.execute("DROP TABLE joined")
    return unique


def _by_group(stage: Stage) -> None:
    """Group both sides by key: one pass, exact for every kind of key.

    The XOR of two rows' hashes is zero if they are equal; for keys with other counts it is not consulted.
    """
    keys = _keys(stage)
    hashed = stage.layout.hash() if stage.layout.key else "k0"
    side = f"SELECT p, {keys}, {hashed} AS h"
    odd = f"nb <> 1 OR n <> 2 OR x <> 0 OR {_null_key(stage)}" if stage.layout.key else "nb <> n - nb"
    stage.connection.execute(
        f"CREATE TEMP TABLE suspects AS SELECT p, {keys}, nb, n - nb AS nc FROM ("  # noqa: S608
        f"SELECT p, {keys}, count(*) AS n, count(*) FILTER (WHERE base) AS nb, bit_xor(h) AS x FROM ("
        f"{side}, TRUE AS base FROM base_side UNION ALL {side}, FALSE FROM candidate_side) "
        f"GROUP BY p, {keys}) WHERE {odd}"
    )
