"""What bytewax costs: ``map`` in one worker, with a source that hands over 256 items at a time, or one.

Log enrichment keys by partition and keeps the caches outside of its state, so that nothing is snapshot.

Run through ``benchmarks.stream.program``.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

import bytewax.operators as op
from benchmarks.stream.events import BATCH, PARTITIONS
from benchmarks.stream.program import FOUR, INTERVAL, Cache, Total, Waits, main, same
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

Function = Callable[[Any], Any]


class Batches(StatelessSourcePartition[Any]):
    """Hands over so many items at a time."""

    def __init__(self, items: Iterable[Any], size: int) -> None:
        self.items = iter(items)
        self.size = size

    def next_batch(self) -> list[Any]:
        """Return the next items, or end."""
        batch = list(islice(self.items, self.size))
        if not batch:
            raise StopIteration
        return batch


class Moments(StatelessSourcePartition[Any]):
    """Hands over the moment, so many times, and asks to be woken for the next."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.due = datetime.now(UTC)

    def next_batch(self) -> list[float]:
        """Return the moment, or end."""
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.due += timedelta(seconds=INTERVAL)
        return [time.perf_counter()]

    def next_awake(self) -> datetime:
        """Return when the next item is due."""
        return self.due


class Source(DynamicSource[Any]):
    """One part, whatever the worker."""

    def __init__(self, part: StatelessSourcePartition[Any]) -> None:
        self.part = part

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[Any]:
        """Return the part."""
        del step_id, worker_index, worker_count
        return self.part


class Sink(DynamicSink[Any], StatelessSinkPartition[Any]):
    """Calls a function with each item."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        """Return itself."""
        del step_id, worker_index, worker_count
        return self

    def write_batch(self, items: list[Any]) -> None:
        """Call the function."""
        for item in items:
            self.function(item)


class Lookup(op.StatefulLogic[Any, Any, None]):
    """Adds the account to the events of one partition."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.caches = caches

    def on_item(self, value: dict[str, Any]) -> tuple[Iterable[dict[str, Any]], bool]:
        """Add the account."""
        user = value["user"]
        value["account"] = self.caches[hash(user) % PARTITIONS](user)
        return [value], False

    def snapshot(self) -> None:
        """Keep nothing: a cache may be lost."""


def run(part: StatelessSourcePartition[Any], functions: Sequence[Function], sink: Function) -> None:
    flow = Dataflow("five")
    last = op.input("in", flow, Source(part))
    for number, function in enumerate(functions):
        last = op.map(f"stage-{number}", last, function)
    op.output("out", last, Sink(sink))
    run_main(flow)


def add_up(size: int, items: int) -> int:
    total = Total()
    run(Batches(range(items), size), FOUR, total.add)
    return total.value


def wait(items: int) -> list[float]:
    waits = Waits()
    run(Moments(items), (same,) * 4, waits.note)
    return waits.seconds


def enrich(lines: Sequence[bytes], caches: Sequence[Cache]) -> list[bytes]:
    """Decode, key into 16, look up with state by key, collect batches, encode."""
    import orjson

    batches: list[bytes] = []
    keys = [str(number) for number in range(PARTITIONS)]
    flow = Dataflow("enrich")
    events = op.map("decode", op.input("in", flow, Source(Batches(lines, 256))), orjson.loads)
    keyed = op.key_on("partition", events, lambda event: keys[hash(event["user"]) % PARTITIONS])
    found = op.stateful("look-up", keyed, lambda _: Lookup(caches))  # it is not told its key
    batched = op.collect("batch", found, timedelta(seconds=5), BATCH)
    encoded = op.map("encode", batched, lambda pair: b"\n".join(map(orjson.dumps, pair[1])))
    op.output("out", encoded, Sink(batches.append))
    run_main(flow)
    return batches


if __name__ == "__main__":
    main(
        plumbing={"256": partial(add_up, 256), "item": partial(add_up, 1)},
        latency={"item": wait},
        enrichment={"orjson": enrich},
    )
