"""What a key with 1,000 times the items of any other costs the others, if its stage is slow.

Four workers share 201 keys; each item has them wait for a millisecond, as for a service. All keys but one
get as many items each; that one gets 1,000 times as many, and one worker at a time can be with it. Counted is
how many items of the others are done within some seconds. Cases:

- alone: without the key, by all four workers, and by three, since one is always with the key otherwise
- the key beside them, while what waits for it is put aside: in memory, or on disk
- the same without anywhere to put it: the stream has to wait for it

Usage: python -m benchmarks.stream.skew [--seconds 4] [--quick]
"""

import argparse
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.machine import describe

from sidestage.stream.keys.spill import Spill
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream

KEYS, SKEW, WORKERS, LINES = 200, 1000, 4, 16
WAIT = 0.001
ROUNDS = 3

Item = tuple[int, int]


class Case(msgspec.Struct, frozen=True):
    """One way of running it."""

    name: str
    workers: int = WORKERS
    hot: bool = True
    spill: Spill | None = None


class Others:
    """A sink that counts the items of all keys but 0, and of that."""

    name = "others"

    def __init__(self) -> None:
        self.done = 0
        self.hot = 0
        self._lock = threading.Lock()

    def open(self) -> "Others":
        """Return itself: there is nothing to open."""
        return self

    def write(self, items: Sequence[Any]) -> None:
        """Count."""
        others = sum(key != 0 for key, _ in items)
        with self._lock:
            self.done += others
            self.hot += len(items) - others

    def close(self) -> None:
        """Close nothing."""


def items(*, hot: bool) -> Iterator[Item]:
    """Give out items without end; the key 0 has ``SKEW`` times as many as any other."""
    chance = random.Random(7)
    share = SKEW / (SKEW + KEYS) if hot else 0.0
    for number in itertools.count():
        yield 0 if chance.random() < share else chance.randrange(1, KEYS + 1), number


def wait(item: Item) -> Item:
    """Take as long as a call of some service."""
    time.sleep(WAIT)
    return item


def measure(case: Case, seconds: float) -> tuple[float, float]:
    """Return how many items of other keys, and of the one, were done per second."""
    sink = Others()
    stream = Stream(items(hot=case.hot)).by_key(lambda item: item[0], into=LINES, spill=case.spill)
    engine = stream.map(wait, workers=case.workers).to(sink).engine(settings=Settings(chunk=256))
    engine.start()
    time.sleep(seconds / 4)  # until lines are as full as they will be
    began, before, hot_before = time.perf_counter(), sink.done, sink.hot
    time.sleep(seconds)
    took = time.perf_counter() - began
    rates = (sink.done - before) / took, (sink.hot - hot_before) / took
    engine.cancel()
    engine.wait()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each case is counted")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (ROUNDS, options.seconds)
    describe()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        cases = [
            Case("alone, 4 workers", hot=False),
            Case("alone, 3 workers", workers=3, hot=False),
            Case("hot key, put aside in memory", spill=Spill(memory=1024**3)),
            Case("hot key, put aside on disk", spill=Spill(Path(scratch), memory=0, most=4 * 1024**3)),
            Case("hot key, no room for it"),
        ]
        found: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
        for _ in range(rounds):
            for case in cases:
                found[case.name].append(measure(case, seconds))
    print(f"{'case':32} {'others/s':>9} {'of 3 alone':>11} {'hot/s':>7}")
    base = statistics.median(rate for rate, _ in found["alone, 3 workers"])
    for name, rates in found.items():
        others, hot = (statistics.median(each) for each in zip(*rates, strict=True))
        print(f"{name:32} {others:9,.0f} {others / base:11.0%} {hot:7,.0f}")


if __name__ == "__main__":
    main()
