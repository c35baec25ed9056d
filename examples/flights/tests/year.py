"""The whole year, by calling the tasks as the plain functions they are: ``python tests/year.py``.

Prints, as JSON, which days the audit of flights/clean refuses or warns of, and the year's totals.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

PROJECT = Path(__file__).resolve().parent.parent
QUERY = PROJECT / "src" / "flights" / "sql" / "delays.sql"
if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT / "src"))

from flights import pipeline  # noqa: E402  # a script finds the project's code only after the line above
from flights.datasets import clean, days  # noqa: E402

from sidestage import Partition  # noqa: E402
from sidestage.data.version import ColumnDigest, Digest  # noqa: E402

COUNTS = ("flights", "cancelled", "diverted", "delayed", "after_midnight", "delay_minutes", "block_minutes")


def clean_of(day: str) -> pl.DataFrame:
    """Return flights/clean of a day, such as 2013-03-10."""
    at = days.parse(day)
    return pipeline.denormalise(
        at,
        pipeline.extract(at),
        pipeline.read_planes(at),
        pipeline.read_airports(at),
        pipeline.read_weather(at),
    )


def flight(day: str, carrier: str, number: int) -> dict[str, Any]:
    """Return one flight of flights/clean. Raises if that is not exactly one."""
    which = (pl.col("carrier") == carrier) & (pl.col("flight") == number)
    return clean_of(day).row(by_predicate=which, named=True)


def delays_of(day: Partition, rows: pl.DataFrame, duck: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return flights/delays of a day; ``rows`` is its flights/clean."""
    duck.register("clean", rows)
    bound = {"partition": day.key, "end": day.end}
    delays: pl.DataFrame = duck.sql(QUERY.read_text(encoding="utf-8"), params=bound).pl()
    return delays


def failed_checks(rows: pl.DataFrame, duck: duckdb.DuckDBPyConnection) -> dict[bool, list[str]]:
    """Return the names of the checks of flights/clean that ``rows`` fails, the blocking ones under True."""
    nulls = rows.null_count().row(0, named=True)
    columns = tuple(ColumnDigest(name, str(rows[name].dtype), nulls[name], "") for name in rows.columns)
    digest = Digest("none", rows.height, "", columns)
    duck.register("data", rows)
    failed: dict[bool, list[str]] = {True: [], False: []}
    for check in clean.checks:
        finding = check.from_digest(digest)
        if finding is None:
            wanted = ", ".join(check.aggregates())
            finding = check.judge(duck.sql(f"SELECT {wanted} FROM data").fetchall()[0])
        if not finding.passed:
            failed[finding.blocking].append(check.name)
    return failed


def survey() -> dict[str, Any]:
    """Return the days refused and warned of, each with the checks that failed, and the year's totals."""
    refused: dict[str, list[str]] = {}
    warned: dict[str, list[str]] = {}
    routes: list[pl.DataFrame] = []
    planes, airports = pipeline.read_planes(Partition("all")), pipeline.read_airports(Partition("all"))
    with duckdb.connect() as duck:
        for day in days.closed(datetime(2014, 1, 2, tzinfo=UTC)):
            rows = pipeline.denormalise(
                day, pipeline.extract(day), planes, airports, pipeline.read_weather(day)
            )
            failed = failed_checks(rows, duck)
            refused.update({day.key: failed[True]} if failed[True] else {})
            warned.update({day.key: failed[False]} if failed[False] else {})
            routes.append(delays_of(day, rows, duck))
    totals = pl.concat(routes).select(pl.col(*COUNTS).sum()).row(0, named=True)
    return {"refused": refused, "warned": warned, "totals": totals}


if __name__ == "__main__":
    print(json.dumps(survey()))
