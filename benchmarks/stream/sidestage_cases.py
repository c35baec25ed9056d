"""What Sidestage's streams cost, fused and with a thread per stage, with every guarantee on.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks

from sidestage.stream.stream import Stream

Function = Callable[[Any], Any]


class Calls:
    """A sink that calls a function with each item."""

    name = "calls"

    def __init__(self, function: Function) -> None:
        self.function = function

    def open(self) -> "Calls":
        """Return itself: there is nothing to open."""
        return self

    def write(self, items: Sequence[Any]) -> None:
        """Call the function."""
        for item in items:
            self.function(item)

    def close(self) -> None:
        """Close nothing."""


def flow(workers: int | None, source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    stream: Stream[Any] = Stream(source)
    for function in functions:
        stream = stream.map(function, workers=workers)
    stream.to(Calls(sink), workers=workers).run()


def add_up(workers: int | None, items: int) -> int:
    total = Total()
    flow(workers, range(items), FOUR, total.add)
    return total.value


def wait(workers: int | None, items: int) -> list[float]:
    waits = Waits()
    flow(workers, ticks(items), (same,) * 4, waits.note)
    return waits.seconds


LAYOUTS = {"fused": None, "threads": 1}

if __name__ == "__main__":
    main(
        plumbing={name: partial(add_up, workers) for name, workers in LAYOUTS.items()},
        latency={name: partial(wait, workers) for name, workers in LAYOUTS.items()},
    )
