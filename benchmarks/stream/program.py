"""What every measured program shares: the five functions, clocks around them, and one line of JSON.

A program is called as ``python -m benchmarks.stream.NAME_cases CASE VARIANT --size N``, in the environment of
its engine. So nothing is imported here but what Python brings. For each case it gives a function by variant:

- plumbing and memory: takes the number of items, sends 0, 1, 2 ... through ``FOUR`` and into a ``Total``,
  which is the fifth stage, and returns its sum;
- latency: takes the number of items, sends the moments of ``ticks`` through four times ``same`` and into
  ``Waits``, and returns these;
- enrichment: takes lines of JSON and 16 caches, returns encoded batches of up to ``BATCH`` lines;
- cores: takes the number of items, and returns the sum of ``work`` over 0, 1, 2 ..., done on two cores.
"""

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.stream.events import BATCH, CACHE, PARTITIONS, account_of, read_lines

INTERVAL = 0.01
"""Seconds between two items when latency is measured."""

Plumbing = Callable[[int], int]
Latency = Callable[[int], list[float]]
Cache = Callable[[str], int]
Enrichment = Callable[[Sequence[bytes], Sequence[Cache]], list[bytes]]


def first(number: int) -> int:
    """Return the next number; each stage has a function of its own."""
    return number + 1


def second(number: int) -> int:
    """Return the next number."""
    return number + 1


def third(number: int) -> int:
    """Return the next number."""
    return number + 1


def fourth(number: int) -> int:
    """Return the next number."""
    return number + 1


FOUR = (first, second, third, fourth)


class Total:
    """The fifth stage: a sink that adds up."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int) -> None:
        """Count one number in."""
        self.value += number


def loop(items: int) -> int:
    """Call the five functions and do nothing else: what is not plumbing."""
    total = Total()
    one, two, three, four, add = *FOUR, total.add
    for number in range(items):
        add(four(three(two(one(number)))))
    return total.value


def same(moment: float) -> float:
    """Return what was given: a stage that does nothing."""
    return moment


def ticks(count: int) -> Iterator[float]:
    """Give out the moment, as often as asked for, ``INTERVAL`` apart."""
    begun = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begun + number * INTERVAL - time.perf_counter()))
        yield time.perf_counter()


class Waits:
    """The fifth stage when latency is measured: notes how many seconds each item took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def note(self, moment: float) -> None:
        """Note the time since a moment."""
        self.seconds.append(time.perf_counter() - moment)


def work(number: int) -> int:
    """Keep a processor busy with plain Python for about a millisecond."""
    for _ in range(10_000):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return number


def work_alone(items: int) -> int:
    """Do all the work on one core."""
    return sum(map(work, range(items)))


def main(
    plumbing: Mapping[str, Plumbing] | None = None,
    latency: Mapping[str, Latency] | None = None,
    enrichment: Mapping[str, Enrichment] | None = None,
    cores: Mapping[str, Plumbing] | None = None,
) -> None:
    """Do the case that the command line names, and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["plumbing", "memory", "latency", "enrichment", "cores"])
    parser.add_argument("variant")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--events", type=Path, help="lines of JSON; the last SIZE of them are measured")
    options = parser.parse_args()
    variant, size = options.variant, options.size
    found: dict[str, Any]
    match options.case:
        case "plumbing":
            found = compared((plumbing or {})[variant], loop, size)
        case "cores":
            found = shared_out((cores or {})[variant], size)
        case "memory":
            found = {"total": (plumbing or {})[variant](size)}
        case "latency":
            run = (latency or {})[variant]
            run(3)
            found = {"waits": run(size)}
        case _:
            found = enriched((enrichment or {})[variant], options.events, size)
    print(json.dumps({"case": options.case, "variant": variant, "size": size, **found}))


def compared(run: Plumbing, alone: Plumbing, size: int) -> dict[str, float]:
    """Return the seconds and the processor seconds of a run, and of the plain way before and after it."""
    run(min(size, 500))
    before, _ = clocked(alone, size)
    spent, total = clocked(run, size)
    after, expected = clocked(alone, size)
    assert total == expected, f"the sum is {total}, not {expected}"
    return {
        "seconds": spent[0],
        "processor": spent[1],
        "plain_seconds": (before[0] + after[0]) / 2,
        "plain_processor": (before[1] + after[1]) / 2,
        "total": total,
    }


def shared_out(run: Plumbing, size: int) -> dict[str, float]:
    """Return what work on two cores takes, and on one, and what starting and ending alone takes.

    ``first_start`` is that of the first time, when nothing is there yet that helps to start processes.
    """
    (first, _), _ = clocked(run, 2)
    starts = [clocked(run, 2)[0][0] for _ in range(3)]
    return compared(run, work_alone, size) | {"first_start": first, "start": sorted(starts)[1]}


def clocked(run: Plumbing, size: int) -> tuple[tuple[float, float], int]:
    """Return the seconds and the processor seconds of a call, and what it returned."""
    gc.collect()
    begun, busy = time.perf_counter(), processor_seconds()
    total = run(size)
    return (time.perf_counter() - begun, processor_seconds() - busy), total


def processor_seconds() -> float:
    """Return what this process, and its children that have ended, used of the processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def enriched(run: Enrichment, events: Path, size: int) -> dict[str, float]:
    """Fill the caches, time the rest, and look at what came out."""
    lines = read_lines(events)
    caches = [lru_cache(maxsize=CACHE)(account_of) for _ in range(PARTITIONS)]
    run(lines[:-size], caches)
    hits = sum(cache.cache_info().hits for cache in caches)
    gc.collect()
    begun, busy = time.perf_counter(), processor_seconds()
    batches = run(lines[-size:], caches)
    seconds, busy = time.perf_counter() - begun, processor_seconds() - busy
    hits = sum(cache.cache_info().hits for cache in caches) - hits
    out = [line for batch in batches for line in batch.splitlines()]
    assert all(batch.count(b"\n") <= BATCH for batch in batches), "a batch is too large"
    return {
        "seconds": seconds,
        "processor": busy,
        "events": len(out),
        "hits": hits / size,
        "total": sum(json.loads(line)["account"] for line in out),
    }
