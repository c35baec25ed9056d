"""Whether a stream stays within its memory budget: 50 million items, and a million keys in a window.

Each case is a process of its own, whose resident memory is read from the system; what it had before the
stream began is taken off.

- items: a source, ``map``, ``by_key`` and ``map`` by two workers, and a sink that is slower than all of them.
  Mailboxes are not bounded by items, so that the budget is all that holds the source back. Memory is told
  after 1, 10 and 50 million items.
- held: the same, but with batches that would never fit.
- keys: a million keys in one window, all given out at its end, within a budget that they fit into.
- refused: the same within one that they do not fit into; the stream has to end, and to say why.

Usage: python -m benchmarks.stream.budget [--quick] [--only items,keys]
"""

import argparse
import gc
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

from sidestage.errors import StreamFailed
from sidestage.policy.limits import size_of
from sidestage.stream import Called, EventTime, Settings, Stream, WindowPlan, count, tumbling

MILLION = 1_000_000
MARKS = (1, 10, 50)
QUICK_MARKS = (0.5, 1, 2)
BUDGETS = {"items": "64 MiB", "held": "64 MiB", "keys": "480 MB", "refused": "128 MiB"}
TOLERANCE = 1.1
UNBOUNDED = 1 << 40
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def highest() -> int:
    """Return the most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Marks:
    """A sink that adds up, and notes the memory after so many items."""

    def __init__(self, marks: Sequence[float]) -> None:
        self.left = [int(mark * MILLION) for mark in marks]
        self.found: dict[int, int] = {}
        self.items = 0

    def take(self, items: Sequence[Any]) -> None:
        """Take items, slowly."""
        self.items += sum(len(item) if type(item) is list else 1 for item in items)
        time.sleep(len(items) * 2e-7)
        if self.left and self.items >= self.left[0]:
            self.found[self.left.pop(0)] = resident()


def numbers(items: int) -> Iterator[int]:
    """Yield so many numbers, none of which Python has made already."""
    yield from itertools.islice(itertools.count(10**9), items)


def paired(number: int) -> tuple[int, float]:
    return number % 1000, number * 0.5


def doubled(pair: tuple[int, float]) -> tuple[int, float]:
    return pair[0], pair[1] * 2


def flow_of_items(marks: Sequence[float], memory: str, *, held: bool) -> dict[str, Any]:
    """Send items through three stages; return memory by number of items."""
    sink = Marks(marks)
    total = int(marks[-1] * MILLION)
    stream = Stream(numbers(total)).map(paired).by_key(lambda pair: pair[0], into=16)
    done: Stream[Any] = stream.map(doubled, workers=2)
    if held:
        done = done.batch(10**9)
    flow = done.to(Called(sink.take), workers=1)
    settings = Settings(memory=memory, buffer=UNBOUNDED)
    print(flow.explain(settings), file=sys.stderr)
    ended = flow.run(settings=settings)
    assert sink.items == total, f"{sink.items:,} of {total:,} items came through"
    assert ended.memory is not None
    return {"marks": sink.found, "counted": ended.memory.peak, "seconds": ended.seconds}


def window_of_keys(keys: int, memory: str) -> dict[str, Any]:
    """Count many keys in one window."""
    given = Marks([])
    plan = WindowPlan(
        windows=tumbling(60),
        aggregate=count(),
        key=lambda number: f"customer {number}",
        time=EventTime(at=lambda _: 30.0),
    )
    flow = Stream(numbers(keys)).window(plan).to(Called(given.take))
    try:
        ended = flow.run(settings=Settings(memory=memory))
    except StreamFailed as error:
        return {"refused": str(error), "seconds": 0.0}
    assert given.items == keys, f"{given.items:,} of {keys:,} keys were given out"
    assert ended.memory is not None
    return {"counted": ended.memory.peak, "seconds": ended.seconds}


def measure(case: str, *, quick: bool) -> dict[str, Any]:
    """Do a case in this process; return what it took, in bytes above what there was before."""
    marks = QUICK_MARKS if quick else MARKS
    memory = BUDGETS[case]
    flow_of_items([0.005], memory, held=False)
    gc.collect()
    before = resident()
    if case in {"items", "held"}:
        found = flow_of_items(marks, memory, held=case == "held")
    else:
        found = window_of_keys(MILLION, memory)
    found["marks"] = {items: size - before for items, size in found.get("marks", {}).items()}
    return found | {"peak": highest() - before}


def told(case: str, found: dict[str, Any]) -> str:
    """Return what was found as a line, and whether it is within the budget."""
    budget = size_of(BUDGETS[case], case)
    flat = "".join(f"  {int(n) / MILLION:g} M: {size / 1e6:.0f} MB" for n, size in found["marks"].items())
    end = f"  refused: {found['refused']}" if "refused" in found else f"  in {found['seconds']:.0f} s"
    counted = f", counted {found['counted'] / 1e6:.0f} MB" if "counted" in found else ""
    verdict = "within" if found["peak"] <= budget * TOLERANCE else "ABOVE"
    return (
        f"{case:8} budget {budget / 1e6:.0f} MB, peak {found['peak'] / 1e6:.0f} MB: {verdict}"
        f" it (+10 %){counted};{flat}{end}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Streams within a budget of memory.")
    parser.add_argument("--quick", action="store_true", help="2 million items in place of 50")
    parser.add_argument("--only", default=",".join(BUDGETS), help="cases, with commas between them")
    parser.add_argument("--case", choices=list(BUDGETS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, quick=options.quick)))
        return 0
    describe("sidestage", "msgspec")
    wrong = False
    for case in options.only.split(","):
        command = [sys.executable, "-m", "benchmarks.stream.budget", "--case", case]
        command += ["--quick"] if options.quick else []
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        line = told(case, json.loads(out))
        wrong |= "ABOVE" in line or ("refused:" in line) != (case == "refused")
        print(line, flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
