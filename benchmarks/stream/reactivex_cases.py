"""What reactivex costs: ``map`` on the thread that subscribes.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import reactivex
from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks
from reactivex import operators

Function = Callable[[Any], Any]


def flow(source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    stages = [operators.map(function) for function in functions]
    reactivex.from_iterable(source).pipe(*stages).subscribe(sink)


def add_up(items: int) -> int:
    total = Total()
    flow(range(items), FOUR, total.add)
    return total.value


def wait(items: int) -> list[float]:
    waits = Waits()
    flow(ticks(items), (same,) * 4, waits.note)
    return waits.seconds


if __name__ == "__main__":
    main(plumbing={"map": add_up}, latency={"map": wait})
