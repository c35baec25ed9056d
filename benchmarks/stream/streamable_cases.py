"""What streamable costs: its lazy ``map`` on one thread, bare and with ``catch`` behind each stage.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks
from streamable import stream

Function = Callable[[Any], Any]


def bare(source: Iterable[Any], functions: Sequence[Function]) -> Any:
    flow: Any = stream(source)
    for function in functions:
        flow = flow.map(function)
    return flow


def catching(source: Iterable[Any], functions: Sequence[Function]) -> Any:
    flow: Any = stream(source)
    for function in functions:
        flow = flow.map(function).catch(ValueError)
    return flow


Layout = Callable[[Iterable[Any], Sequence[Function]], Any]


def add_up(layout: Layout, items: int) -> int:
    total = Total()
    for number in layout(range(items), FOUR):
        total.add(number)
    return total.value


def wait(layout: Layout, items: int) -> list[float]:
    waits = Waits()
    for moment in layout(ticks(items), (same,) * 4):
        waits.note(moment)
    return waits.seconds


LAYOUTS = {"bare": bare, "catch": catching}

if __name__ == "__main__":
    main(
        plumbing={name: partial(add_up, layout) for name, layout in LAYOUTS.items()},
        latency={name: partial(wait, layout) for name, layout in LAYOUTS.items()},
    )
