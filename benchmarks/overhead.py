"""What the platform costs per step, in a run of the whole example: a year of flights, about 1,500 steps.

Two workers run on two cores. The time that tasks spend in their own code is measured in the workers, around
the call and around drawing its output (a SQL task's query reads its inputs meanwhile; the inputs of functions
are read before and do not count). Everything else is the platform: loading libraries, claiming, handing over,
reading inputs, writing, digest, checks, publishing, waiting for one another.

- wall: seconds of the run, from the first claim to the record of its end (``RunSummary.seconds``)
- user: seconds in tasks' own code, over all workers (``RunSummary.user_seconds``)
- overhead per step: (wall - user / workers) / steps, what a run takes longer than its code would need alone
- slot time per step: (wall x workers - user) / steps, stricter: how long a worker is kept from user code

The verb as a whole also loads the code, starts workers and plans: given apart, as it is paid once. The
processor time of all processes together hardly depends on who else uses the machine; the rest does.

Usage: python benchmarks/overhead.py [--rounds 1] [--workers 2] [--quick]
"""

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from machine import describe
from sidestage import Project, Selection
from sidestage.run.summary import RunSummary

EXAMPLE = Path(__file__).parents[1] / "examples" / "flights"
LEFT_OUT = shutil.ignore_patterns(".sidestage", ".git", "__pycache__", ".pytest_cache")
QUICK_DAYS = "2013-01-01:2013-01-02"


class Measured(msgspec.Struct, frozen=True):
    """One run, in seconds; ``verb`` is the whole call, ``processor`` what it used, over all processes."""

    steps: int
    wall: float
    user: float
    verb: float
    processor: float
    workers: int

    @property
    def overhead(self) -> float:
        """Seconds that a step takes longer than user code alone, spread over all workers."""
        return (self.wall - self.user / self.workers) / self.steps

    @property
    def slot(self) -> float:
        """Seconds that a worker is kept from user code, per step."""
        return (self.wall * self.workers - self.user) / self.steps


def run(days: str | None, workers: int) -> Measured:
    """Run the example in a folder of its own, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "flights"
        shutil.copytree(EXAMPLE, root, ignore=LEFT_OUT)
        with Project.open(root) as project:
            started, used = time.perf_counter(), processor_seconds()
            summary = project.run(Selection("flights", days), workers=workers)
            verb, used = time.perf_counter() - started, processor_seconds() - used
    assert isinstance(summary, RunSummary)
    assert summary.state == "done", summary
    return Measured(summary.published, summary.seconds, summary.user_seconds, verb, used, workers)


def processor_seconds() -> float:
    """Return the processor time of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the platform per step.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two days instead of a year")
    options = parser.parse_args()
    describe("sidestage", "polars", "duckdb", "pyarrow", "sqlalchemy")
    days = QUICK_DAYS if options.quick else None
    measured = [run(days, options.workers) for _ in range(options.rounds)]
    for one in measured:
        print(
            f"{one.steps:,} steps on {one.workers} workers: wall {one.wall:.2f} s, user {one.user:.2f} s"
            f" ({one.user / one.steps * 1000:.2f} ms per step), the whole verb {one.verb:.2f} s,"
            f" processor time {one.processor:.2f} s ({one.processor / one.steps * 1000:.2f} ms per step)"
        )
    overhead = statistics.median(one.overhead for one in measured) * 1000
    slot = statistics.median(one.slot for one in measured) * 1000
    times = statistics.median(one.wall / (one.user / one.workers) for one in measured)
    print(f"overhead per step: {overhead:.2f} ms (goal: at most 10 ms); slot time per step: {slot:.2f} ms")
    if options.quick:
        print("(so short a run is mostly the start of its workers: no measure of a step)")
    print(f"ratio wall to user code spread over the workers: {times:.2f}")


if __name__ == "__main__":
    main()
