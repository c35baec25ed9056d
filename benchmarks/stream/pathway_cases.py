"""What pathway costs: four columns computed one from the other, and a subscriber that adds up.

``functions`` calls the five functions, as all others do. ``expressions`` adds inside pathway and calls only
the last one, so that subtracting all five flatters it. Items are committed every so many milliseconds.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pathway as pw
from benchmarks.stream.program import FOUR, Total, Waits, main, same, ticks
from pathway.internals.parse_graph import G  # the graph of the last run has to go

Function = Callable[[Any], Any]
COMMIT_MILLISECONDS = 1500
"""The default."""


class Number(pw.Schema):
    """A row of one number."""

    value: int


class Moment(pw.Schema):
    """A row of one moment."""

    value: float


class Source(pw.io.python.ConnectorSubject):
    """Rows of one value each."""

    def __init__(self, values: Iterable[Any]) -> None:
        super().__init__()
        self.values = values

    def run(self) -> None:
        """Send all values."""
        for value in self.values:
            self.next(value=value)


def flow(source: Iterable[Any], functions: Iterable[Any], sink: Function, row: Any, commit: int) -> None:
    G.clear()
    table = pw.io.python.read(Source(source), schema=row, autocommit_duration_ms=commit)
    for function in functions:
        table = table.select(value=function(pw.this.value))
    pw.io.subscribe(table, on_change=lambda key, row, time, is_addition: sink(row["value"]))  # noqa: ARG005
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


def add_up(items: int) -> int:
    total = Total()
    functions = [partial(pw.apply_with_type, function, int) for function in FOUR]
    flow(range(items), functions, total.add, Number, COMMIT_MILLISECONDS)
    return total.value


def add_up_expressions(items: int) -> int:
    total = Total()
    flow(range(items), [lambda column: column + 1] * 4, total.add, Number, COMMIT_MILLISECONDS)
    return total.value


def wait(commit: int, items: int) -> list[float]:
    waits = Waits()
    flow(ticks(items), [partial(pw.apply_with_type, same, float)] * 4, waits.note, Moment, commit)
    return waits.seconds


if __name__ == "__main__":
    main(
        plumbing={"functions": add_up, "expressions": add_up_expressions},
        latency={"functions": partial(wait, COMMIT_MILLISECONDS), "commit-10": partial(wait, 10)},
    )
