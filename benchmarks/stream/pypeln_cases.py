"""What pypeln costs: a thread per stage, with queues of 16 between them.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pypeln
from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks

Function = Callable[[Any], Any]


def flow(source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    items: Any = source
    for function in functions:
        items = pypeln.thread.map(function, items, workers=1, maxsize=16)
    for item in items:
        sink(item)


def add_up(items: int) -> int:
    total = Total()
    flow(range(items), FOUR, total.add)
    return total.value


def wait(items: int) -> list[float]:
    waits = Waits()
    flow(ticks(items), (same,) * 4, waits.note)
    return waits.seconds


if __name__ == "__main__":
    main(plumbing={"thread": add_up}, latency={"thread": wait})
