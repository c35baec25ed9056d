"""What comparing two versions costs, against what merely reading them costs.

Makes two Parquet files of ten columns (0.1 % of rows changed, 0.02 % missing), then measures in this order,
alternating, each in a fresh process:

- read: DuckDB decodes every column of both files (hashes of all values are summed)
- compare: ``compare_dataset`` with a tolerance, a total, samples and the file of discrepancies
- equal: the same with equal digests, which must not open a file

Usage: python benchmarks/compare.py [--rows 10000000] [--rounds 3]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import duckdb

ROWS_CHANGED = 1_000
"""One row in this many is changed, in one of three columns; in one of them only by rounding noise."""

BASE = """
SELECT i AS id, CAST(hash(i) % 1000000 AS BIGINT) AS customer,
  round(hash(i + 1) % 1000000 / 100.0, 2) AS amount, hash(i + 2) % 100000 / 7.0 AS score,
  CAST(hash(i + 3) % 100 AS INTEGER) AS quantity, 'region-' || hash(i + 4) % 12 AS region,
  'sku-' || hash(i + 5) % 50000 AS sku, TIMESTAMP '2025-01-01' + to_seconds(i % 86400) AS seen_at,
  hash(i + 6) % 2 = 0 AS paid, CAST(hash(i + 7) % 1000000 / 100.0 AS DECIMAL(10, 2)) AS tax
FROM range({rows}) t(i)
"""
CANDIDATE = f"""
SELECT * EXCLUDE (lot) REPLACE (
  CASE WHEN lot = 0 THEN amount + 1 ELSE amount END AS amount,
  CASE WHEN lot = 1 THEN score * (1 + 1e-9) ELSE score END AS score,
  CASE WHEN lot = 2 THEN quantity + 1 ELSE quantity END AS quantity)
FROM (SELECT *, hash(id + 99) % {3 * ROWS_CHANGED} AS lot FROM ({BASE})) WHERE hash(id + 98) % 5000 <> 0
"""


def make(folder: Path, rows: int) -> None:
    with duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        for name, query in (("base", BASE), ("candidate", CANDIDATE)):
            target = folder / f"{name}.parquet"
            connection.execute(
                f"COPY ({query.format(rows=rows)}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
            )


def read(folder: Path) -> dict[str, float]:
    connection = duckdb.connect(config={"preserve_insertion_order": "false"})
    started = time.perf_counter()
    for name in ("base", "candidate"):
        connection.execute(f"SELECT sum(hash(COLUMNS(*))) FROM '{folder / name}.parquet'").fetchall()
    return {"seconds": time.perf_counter() - started}


def compare(folder: Path, *, equal: bool) -> dict[str, float]:
    from sidestage.checks import same_total, tolerance
    from sidestage.checks.compare import Pair, Side, compare_dataset
    from sidestage.data.version import Digest

    sides: list[Side] = []
    for name in ("base", "base" if equal else "candidate"):
        path = folder / f"{name}.parquet"
        rows = duckdb.execute(f"SELECT count(*) FROM '{path}'").fetchall()[0][0]
        sides.append(Side(f"version {len(sides)}", str(path), Digest("benchmark", rows, name, ()), rows))
    started = time.perf_counter()
    result = compare_dataset(
        "benchmark",
        [Pair("all", *sides)],
        ("id",),
        [] if equal else [tolerance("score", relative=1e-6), same_total("amount", within=0.001)],
        temp_dir=folder / "spill",
        discrepancies=folder / "discrepancies.parquet",
    )
    found = {"changed": result.changed, "tolerated": result.within_tolerance, "missing": result.missing}
    return {"seconds": time.perf_counter() - started, "bytes_read": result.bytes_read, **found}


def measure(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", what, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(folder: Path, rows: int, rounds: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"machine: {os.cpu_count()} processors, {memory:.0f} GiB, {platform.platform()}")
    print(f"python {platform.python_version()}, duckdb {version('duckdb')}; command: {' '.join(sys.argv)}")
    make(folder, rows)
    sizes = [(folder / f"{name}.parquet").stat().st_size / 2**20 for name in ("base", "candidate")]
    print(f"{rows:,} rows x 10 columns, {sizes[0]:.0f} and {sizes[1]:.0f} MiB, {rounds} rounds, medians")
    measured = [{what: measure(what, folder) for what in ("read", "compare", "equal")} for _ in range(rounds)]
    middle = {
        what: {key: statistics.median(one[what][key] for one in measured) for key in measured[0][what]}
        for what in measured[0]
    }
    ratio = statistics.median(one["compare"]["seconds"] / one["read"]["seconds"] for one in measured)
    for what, times in (("read", "1.00"), ("compare", f"{ratio:.2f}"), ("equal", "")):
        one = middle[what]
        print(f"{what:8} {one['seconds']:10.4f} s {times:>6} x   peak RSS {one['rss']:,.0f} MiB")
    found = middle["compare"]
    print(f"found: {found['changed']:.0f} changed, {found['tolerated']:.0f} tolerated rows,", end=" ")
    print(f"{found['missing']:.0f} missing; bytes read of equal digests: {middle['equal']['bytes_read']:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of comparing two versions, against reading them.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["read", "compare", "equal"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is None:
        with tempfile.TemporaryDirectory() as folder:
            report(Path(folder), options.rows, options.rounds)
        return
    folder = options.folder
    found = read(folder) if options.only == "read" else compare(folder, equal=options.only == "equal")
    found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
