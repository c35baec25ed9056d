"""What Sidestage's streams cost, fused and with a thread per stage, with every guarantee on.

Run through ``benchmarks.stream.program``.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from benchmarks.stream.events import BATCH, PARTITIONS
from benchmarks.stream.program import FOUR, Cache, Total, Waits, main, same, ticks, work
from benchmarks.stream.typed_events import Event

from sidestage.stream.places.sinks import Collected
from sidestage.stream.settings import Settings
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


def by_key(lines: Sequence[bytes], caches: Sequence[Cache]) -> list[bytes]:
    """Decode, share out by user, look the account up, put together, encode: one stage after another."""

    def enrich(event: Event) -> Event:
        event.account = caches[hash(event.user) % PARTITIONS](event.user)
        return event

    decode = msgspec.json.Decoder(Event).decode
    encode_lines = msgspec.json.Encoder().encode_lines
    sink: Collected[bytes] = Collected()
    events = Stream(lines).map(decode).by_key(lambda event: event.user, into=PARTITIONS)
    events.map(enrich).batch(BATCH).map(encode_lines).to(sink).run()
    return sink.items


def processes(items: int) -> int:
    """Work in two processes, 16 items at a time."""
    total = Total()
    stream = Stream(range(items)).map(work, workers=2, on="process", ordered=False)
    stream.to(Calls(total.add)).run(settings=Settings(chunk=16, buffer=64))
    return total.value


LAYOUTS = {"fused": None, "threads": 1}

if __name__ == "__main__":
    main(
        plumbing={name: partial(add_up, workers) for name, workers in LAYOUTS.items()},
        latency={name: partial(wait, workers) for name, workers in LAYOUTS.items()},
        enrichment={"by-key": by_key},
        cores={"processes": processes},
    )
