"""What aiostream costs: its ``map`` over asynchronous iterators, on one event loop.

aiostream is under the GPL. It is measured here, in a process and an environment of its own, and is neither
imported by Sidestage nor needed or distributed with it.

Run through ``benchmarks.stream.program``.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiostream import pipe, stream
from benchmarks.stream.program import FOUR, INTERVAL, Total, Waits, main, same

Function = Callable[[Any], Any]


async def moments(count: int) -> AsyncIterator[float]:
    begun = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(begun + number * INTERVAL - time.perf_counter())
        yield time.perf_counter()


async def flow(source: Any, functions: Sequence[Function], sink: Function) -> None:
    for function in functions:
        source |= pipe.map(function)
    async with source.stream() as items:
        async for item in items:
            sink(item)


def add_up(items: int) -> int:
    total = Total()
    asyncio.run(flow(stream.range(items), FOUR, total.add))
    return total.value


def wait(items: int) -> list[float]:
    waits = Waits()
    asyncio.run(flow(stream.iterate(moments(items)), (same,) * 4, waits.note))
    return waits.seconds


if __name__ == "__main__":
    main(plumbing={"map": add_up}, latency={"map": wait})
