"""Run the simulation: ``python -m sidestage.testing.simulate --seeds 1000``."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from sidestage.testing.broken_stores import BROKEN
from sidestage.testing.chaos import Fault
from sidestage.testing.faulty_store import FaultyStore
from sidestage.testing.simulation import History, simulate

_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Play histories and print what came of them; return 1 if any promise was broken, else 0."""
    options = _options(arguments)
    store = BROKEN[options.broken] if options.broken else FaultyStore
    began, began_cpu = time.perf_counter(), time.process_time()
    faults: Counter[Fault] = Counter()
    wrong: list[History] = []
    seconds, recovery, published, rounds = 0.0, 0.0, 0, 0
    for seed in range(options.first, options.first + options.seeds):
        history = simulate(seed, store, tell=_say if options.tell else None)
        faults.update(history.faults)
        seconds += history.seconds
        recovery = max(recovery, history.recovery)
        published += history.published
        rounds += history.rounds
        if history.violations:
            wrong.append(history)
            if len(wrong) <= _SHOWN:
                _print_violations(history)
    took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    _say(f"histories         {options.seeds:>12,}   seeds {options.first} to {seed}")
    _say(f"violating         {len(wrong):>12,}")
    _say(f"publications      {published:>12,}")
    _say(f"worker rounds     {rounds:>12,}")
    _say(f"virtual hours     {seconds / 3600:>12,.1f}")
    _say(f"longest recovery  {recovery:>12,.1f}   virtual seconds from the last fault to the end of all runs")
    _say(f"faults injected   {faults.total():>12,}   {faults.total() / options.seeds:.1f} a history")
    for fault, count in faults.most_common():
        _say(f"  {count:>12,}  {fault}")
    for what, span in (("second", took), ("CPU second", took_cpu)):
        _say(f"per {what:13} {options.seeds / span:>12,.0f} histories, {faults.total() / span:,.0f} faults")
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sidestage.testing.simulate", description=__doc__)
    parser.add_argument("--seeds", type=_count, default=1000, help="how many histories (default 1000)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--break", dest="broken", choices=sorted(BROKEN), help="break a promise, to see that it is noticed"
    )
    parser.add_argument("--tell", action="store_true", help="tell the histories line by line")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("there must be one at least")
    return count


def _print_violations(history: History) -> None:
    _say(f"seed {history.seed}:")
    for violation in history.violations[:_SHOWN]:
        _say(f"  {violation}")


def _say(line: str) -> None:
    print(line)  # noqa: T201  # this is a command


if __name__ == "__main__":
    sys.exit(main())
