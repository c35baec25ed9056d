"""The limits: what Python's own iterators, queues and processes cost, with nothing built on them.

Run through ``benchmarks.stream.program``. The programs of log enrichment also need orjson and msgspec.
"""

import asyncio
import multiprocessing
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from threading import Thread
from typing import Any

from benchmarks.stream.events import BATCH, PARTITIONS
from benchmarks.stream.program import FOUR, INTERVAL, Cache, Total, Waits, main, same, ticks, work

Function = Callable[[Any], Any]
Queues = Callable[[], Any]
END = object()


def generators(source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    """One generator function per stage, on one thread."""

    def stage(function: Function, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield function(item)

    items = source
    for function in functions:
        items = stage(function, items)
    for item in items:
        sink(item)


def maps(source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    """The builtin ``map`` over itself, on one thread."""
    items = source
    for function in functions:
        items = map(function, items)
    for item in items:
        sink(item)


def threads(make: Queues, source: Iterable[Any], functions: Sequence[Function], sink: Function) -> None:
    """A thread per stage, one more for the source, and a queue before each stage."""
    queues = [make() for _ in range(len(functions) + 1)]

    def feed() -> None:
        for item in source:
            queues[0].put(item)
        queues[0].put(END)

    def stage(function: Function, before: Any, after: Any) -> None:
        while (item := before.get()) is not END:
            after.put(function(item))
        after.put(END)

    started = [Thread(target=feed)]
    for number, function in enumerate(functions):
        started.append(Thread(target=stage, args=(function, queues[number], queues[number + 1])))
    for thread in started:
        thread.start()
    while (item := queues[-1].get()) is not END:
        sink(item)
    for thread in started:
        thread.join()


async def tasks(source: AsyncIterator[Any], functions: Sequence[Function], sink: Function) -> None:
    """One task of asyncio per stage, one more for the source, and a queue of 16 before each stage."""
    queues: list[asyncio.Queue[Any]] = [asyncio.Queue(16) for _ in range(len(functions) + 1)]

    async def feed() -> None:
        async for item in source:
            await queues[0].put(item)
        await queues[0].put(END)

    async def stage(function: Function, before: asyncio.Queue[Any], after: asyncio.Queue[Any]) -> None:
        while (item := await before.get()) is not END:
            await after.put(function(item))
        await after.put(END)

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        for number, function in enumerate(functions):
            group.create_task(stage(function, queues[number], queues[number + 1]))
        while (item := await queues[-1].get()) is not END:
            sink(item)


async def numbers(items: int) -> AsyncIterator[int]:
    for number in range(items):
        yield number


async def moments(count: int) -> AsyncIterator[float]:
    begun = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(begun + number * INTERVAL - time.perf_counter())
        yield time.perf_counter()


def add_up(layout: Callable[..., None], items: int) -> int:
    total = Total()
    layout(range(items), FOUR, total.add)
    return total.value


def wait(layout: Callable[..., None], items: int) -> list[float]:
    waits = Waits()
    layout(ticks(items), (same,) * 4, waits.note)
    return waits.seconds


def add_up_in_tasks(items: int) -> int:
    total = Total()
    asyncio.run(tasks(numbers(items), FOUR, total.add))
    return total.value


def wait_in_tasks(items: int) -> list[float]:
    waits = Waits()
    asyncio.run(tasks(moments(items), (same,) * 4, waits.note))
    return waits.seconds


def pool(items: int) -> int:
    """Work in two forked processes, 16 items at a time."""
    with multiprocessing.get_context("fork").Pool(2) as both:
        total = sum(both.imap_unordered(work, range(items), chunksize=16))
        both.close()
        both.join()  # or their processor time would not be counted
        return total


def executor(items: int) -> int:
    """Work in the standard library's executor with two processes, 16 items at a time."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as both:
        return sum(both.map(work, range(items), chunksize=16))


def enrich_dictionaries(lines: Sequence[bytes], caches: Sequence[Cache]) -> list[bytes]:
    """Decode item by item into dictionaries, with orjson; encode batches."""
    import orjson

    batches, batch = [], []
    for line in lines:
        event = orjson.loads(line)
        user = event["user"]
        event["account"] = caches[hash(user) % PARTITIONS](user)
        batch.append(orjson.dumps(event))
        if len(batch) == BATCH:
            batches.append(b"\n".join(batch))
            batch = []
    return [*batches, b"\n".join(batch)]


def enrich_structs(lines: Sequence[bytes], caches: Sequence[Cache]) -> list[bytes]:
    """Decode item by item into a typed Struct, with msgspec; encode batches."""
    import msgspec
    from benchmarks.stream.typed_events import Event

    decode, encode_lines = msgspec.json.Decoder(Event).decode, msgspec.json.Encoder().encode_lines
    batches, batch = [], []
    for line in lines:
        event = decode(line)
        event.account = caches[hash(event.user) % PARTITIONS](event.user)
        batch.append(event)
        if len(batch) == BATCH:
            batches.append(encode_lines(batch))
            batch = []
    return [*batches, encode_lines(batch)]


def enrich_blocks(lines: Sequence[bytes], caches: Sequence[Cache]) -> list[bytes]:
    """Decode and encode whole blocks of lines, with msgspec."""
    import msgspec
    from benchmarks.stream.typed_events import Event

    decode_lines = msgspec.json.Decoder(Event).decode_lines
    encode_lines = msgspec.json.Encoder().encode_lines
    batches = []
    for start in range(0, len(lines), BATCH):
        events = decode_lines(b"\n".join(lines[start : start + BATCH]))
        for event in events:
            event.account = caches[hash(event.user) % PARTITIONS](event.user)
        batches.append(encode_lines(events))
    return batches


LAYOUTS: dict[str, Callable[..., None]] = {
    "map": maps,
    "generators": generators,
    "queue-16": partial(threads, partial(queue.Queue, 16)),
    "queue-1024": partial(threads, partial(queue.Queue, 1024)),
    "simple-queue": partial(threads, queue.SimpleQueue),
}

if __name__ == "__main__":
    main(
        plumbing={name: partial(add_up, layout) for name, layout in LAYOUTS.items()}
        | {"asyncio-16": add_up_in_tasks},
        latency={name: partial(wait, layout) for name, layout in LAYOUTS.items()}
        | {"asyncio-16": wait_in_tasks},
        enrichment={"orjson": enrich_dictionaries, "msgspec": enrich_structs, "blocks": enrich_blocks},
        cores={"pool": pool, "executor": executor},
    )
