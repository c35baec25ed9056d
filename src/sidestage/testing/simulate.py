"""Run the simulation: ``python -m sidestage.testing.simulate --seeds 1000``."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from sidestage.testing.broken_stores import BROKEN
from sidestage.testing.chaos import Fault
from sidestage.testing.faulty_store import FaultyStore
from sidestage.testing.simulation import History, simulate

_SHOWN = 10


class Totals:
    """What came of all histories so far."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._began, self._began_cpu = time.perf_counter(), time.process_time()
        self._histories = 0
        self._faults: Counter[Fault] = Counter()
        self._seconds = self._recovery = 0.0
        self._published = self._rounds = 0
        self.violating = 0

    def add(self, history: History) -> None:
        """Count a history, and print what was wrong with the first few that broke a promise."""
        self._histories += 1
        self._faults.update(history.faults)
        self._seconds += history.seconds
        self._recovery = max(self._recovery, history.recovery)
        self._published += history.published
        self._rounds += history.rounds
        if history.violations:
            self.violating += 1
            if self.violating <= _SHOWN:
                _print_violations(history)

    def print(self) -> None:
        """Print the figures."""
        took, took_cpu = time.perf_counter() - self._began, time.process_time() - self._began_cpu
        histories, faults = self._histories, self._faults.total()
        _say(f"histories         {histories:>12,}   seeds {self._first} to {self._first + histories - 1}")
        _say(f"violating         {self.violating:>12,}")
        _say(f"publications      {self._published:>12,}")
        _say(f"worker rounds     {self._rounds:>12,}")
        _say(f"virtual hours     {self._seconds / 3600:>12,.1f}")
        _say(f"longest recovery  {self._recovery:>12,.1f}   virtual seconds until all runs had ended")
        _say(f"faults injected   {faults:>12,}   {faults / max(1, histories):.1f} a history")
        for fault, count in self._faults.most_common():
            _say(f"  {count:>12,}  {fault}")
        for what, span in (("second", took), ("CPU second", took_cpu)):
            _say(f"per {what:13} {histories / span:>12,.0f} histories, {faults / span:,.0f} faults")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play histories and print what came of them; return 1 if any promise was broken, else 0.

    An interruption ends it early: what was played until then is printed.
    """
    options = _options(arguments)
    store = BROKEN[options.broken] if options.broken else FaultyStore
    totals = Totals(options.first)
    with suppress(KeyboardInterrupt):
        for seed in range(options.first, options.first + options.seeds):
            totals.add(simulate(seed, store, tell=_say if options.tell else None))
    totals.print()
    return 1 if totals.violating else 0


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
