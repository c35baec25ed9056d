"""What streamz costs: ``map`` and ``sink``, each item emitted from a loop.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks
from streamz import Stream

Function = Callable[[Any], Any]


def flow(source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    begin = last = Stream()
    for function in functions:
        last = last.map(function)
    last.sink(sink)
    for item in source:
        begin.emit(item)


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
