"""Counts per minute and region: event time, watermark, five minutes of lateness, one late item in a thousand.

Items are dicts with a time and a region (20 of them), about 1,000 per second of event time, up to two seconds
out of order; one in a thousand is an hour old and must end among the late ones. Cases:

- bare: a loop over items that counts into one dict, with a running watermark: no keys of windows to give out,
  no results, no errors, no lateness. The least that could be exact.
- count, total: ``WindowState.add``, item by item, chunks of 1,024
- late updates: one item in fifty is a minute late, and its window is given out again
- together, sliding, session: the more general ways
- columns: ``add_columns`` from Arrow, without making the columns, by size of chunk
- one key with 1,000 times the items of all others; a stream so thin that each item ends a window

Time is processor time of the one thread; the machine may be busy with other things.

Usage: python -m benchmarks.stream.windows [--items 1000000] [--rounds 3] [--quick]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import pyarrow as pa
from benchmarks.machine import describe

from sidestage.stream.windows.aggregate import Aggregate
from sidestage.stream.windows.aggregates import count, together, total
from sidestage.stream.windows.plan import WindowPlan, Windows, session, sliding, tumbling
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import EventTime, Moment

REGIONS = [f"region-{number:02}" for number in range(20)]
START = 1_700_000_000.0
MINUTE, HOUR, LATENESS, DISORDER, CHUNK = 60, 3600, 300, 5, 1024
NOW = Moment(START, 0.0)

Item = dict[str, Any]


class Case(msgspec.Struct, frozen=True):
    """One way of counting: takes all items, returns how many were counted, late and given out."""

    name: str
    run: Callable[[], tuple[int, int, int]]


def items_of(
    number: int, *, late: int = 1000, behind: float = HOUR, skew: float = 0.0, pace: float = 1000
) -> list[Item]:
    """Return ``pace`` items per second of event time.

    One of ``late`` lies ``behind`` seconds back; ``skew`` is the share of the first region.
    """
    chance = random.Random(7)
    found: list[Item] = []
    for place in range(number):
        at = START + place / pace - chance.random() * 2 - (behind if place % late == late - 1 else 0)
        region = REGIONS[0] if chance.random() < skew else chance.choice(REGIONS)
        found.append({"time": at, "region": region, "bytes": place % 1500, "path": "/"})
    return found


def chunks_of(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[begin : begin + size]) for begin in range(0, len(items), size)]


def plan_of(windows: Windows, aggregate: Aggregate) -> WindowPlan:
    return WindowPlan(
        windows=windows,
        aggregate=aggregate,
        key=itemgetter("region"),
        time=EventTime(at=itemgetter("time"), disorder=DISORDER),
        lateness=LATENESS,
    )


def bare(items: Sequence[Item]) -> tuple[int, int, int]:
    counts: dict[tuple[float, str], int] = {}
    top, late = 0.0, 0
    for item in items:
        at = item["time"]
        top = max(top, at)
        minute = at // MINUTE
        if (minute + 1) * MINUTE + LATENESS <= top - DISORDER:
            late += 1
            continue
        cell = (minute, item["region"])
        counts[cell] = counts.get(cell, 0) + 1
    return sum(counts.values()), late, len(counts)


def counted(plan: WindowPlan, chunks: Iterable[list[Item]]) -> tuple[int, int, int]:
    state = WindowState(plan)
    for chunk in chunks:
        state.add(chunk, NOW)
    return summary(state)


def in_columns(plan: WindowPlan, chunks: Iterable[tuple[Any, Any, Any]]) -> tuple[int, int, int]:
    state = WindowState(plan)
    for times, keys, values in chunks:
        state.add_columns(times, keys, values, NOW)
    return summary(state)


def summary(state: WindowState) -> tuple[int, int, int]:
    state.drain(NOW)
    counts = state.counts
    assert not counts.failed
    return counts.items - counts.late, counts.late, counts.emitted


def columns_of(items: Sequence[Item], size: int) -> list[tuple[Any, Any, Any]]:
    return [
        tuple(pa.array([item[name] for item in chunk]) for name in ("time", "region", "bytes"))
        for chunk in chunks_of(items, size)
    ]


def cases(number: int) -> list[Case]:
    items = items_of(number)
    chunks = chunks_of(items, CHUNK)
    often = chunks_of(items_of(number, late=50, behind=MINUTE), CHUNK)
    sparse = chunks_of(items_of(number, pace=1 / 30), CHUNK)
    skewed = chunks_of(items_of(number, skew=0.999), CHUNK)
    counts = plan_of(tumbling(MINUTE), count())
    totals = plan_of(tumbling(MINUTE), total(itemgetter("bytes")))
    both = plan_of(tumbling(MINUTE), together(items=count(), bytes=total(itemgetter("bytes"))))
    slides = plan_of(sliding(MINUTE, every=20), count())
    sessions = plan_of(session(gap=30), count())
    found = [
        Case("bare loop and dict", lambda: bare(items)),
        Case("count, chunks of 1,024", lambda: counted(counts, chunks)),
        Case("count, one key has 99.9 %", lambda: counted(counts, skewed)),
        Case("count, 2 items a minute", lambda: counted(counts, sparse)),
        Case("total, chunks of 1,024", lambda: counted(totals, chunks)),
        Case("count, 2 % late updates", lambda: counted(counts, often)),
        Case("count and total together", lambda: counted(both, chunks)),
        Case("count, sliding, 3 windows", lambda: counted(slides, chunks)),
        Case("count, session", lambda: counted(sessions, chunks)),
    ]
    for size in (1024, 8192, 65536):
        table = columns_of(items, size)
        for name, plan in (("count", counts), ("total", totals)):
            found.append(
                Case(f"{name}, columns of {size:,}", lambda plan=plan, table=table: in_columns(plan, table))  # type: ignore[misc]
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Events per second through windows.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20,000 items, once")
    options = parser.parse_args()
    number, rounds = (20_000, 1) if options.quick else (options.items, options.rounds)
    describe("sidestage", "msgspec", "numpy", "pyarrow")
    print(f"{number:,} items, median of {rounds}; goal: 1,000,000 items/s of processor time for counts")
    measured = cases(number)
    seconds: dict[str, list[float]] = {case.name: [] for case in measured}
    results: dict[str, tuple[int, int, int]] = {}
    for _ in range(rounds):
        for case in measured:
            begun = time.process_time()
            results[case.name] = case.run()
            seconds[case.name].append(time.process_time() - begun)
    for name, times in seconds.items():
        taken = statistics.median(times)
        kept, late, given = results[name]
        print(
            f"{name:28} {number / taken:12,.0f} items/s  {taken / number * 1e9:7.0f} ns/item"
            f"  {kept:,} counted, {late:,} late, {given:,} results"
        )


if __name__ == "__main__":
    main()
