"""Sources that are asynchronous iterators: each is read in an event loop and by a thread of its own."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from sidestage.stream.contract import Positions
from sidestage.stream.places.iterables import PATIENCE_SECONDS, IterableReader, count_of, too_short

_CLOSE_SECONDS = 5.0
"""How long an iterator may take to clean up, before its thread is left behind."""


class AsyncIterableSource:
    """Items that an asynchronous iterator makes. Positions count them, as for other iterators.

    It runs in a loop that belongs to the stream: what it uses must not belong to another one. It is cancelled
    when the stream is, and closed in the end.
    """

    def __init__(self, items: AsyncIterable[Any], name: str) -> None:
        self._items = items
        self.name = name

    def open(self, resume: Positions) -> "AsyncIterableReader":
        """Begin to read."""
        return AsyncIterableReader(aiter(self._items), count_of(resume, self.name), self.name)


class _Bell:
    """Wakes the loop when there is room again. A thread rings, the loop waits."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: asyncio.Event | None = None

    def set(self) -> None:
        """Wake whoever waits, if anybody does."""
        rung, loop = self._rung, self._loop
        if rung is not None and loop is not None:
            self._rung = None
            call_in(loop, rung.set)

    async def wait(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Wait until it is rung, or for so long: it may have been rung before anybody waited."""
        self._loop, self._rung = loop, asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            pass


class AsyncIterableReader(IterableReader):
    """Reads an asynchronous iterator ahead, by a bounded number of items."""

    def __init__(self, items: AsyncIterator[Any], at: int, name: str) -> None:
        self._async_items = items
        self._passed_over = at
        self._room = _Bell()
        self._reading: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(iter(()), at, name)

    def stop(self) -> None:
        """Take nothing more. What it is at it may finish within a second; then it is cancelled."""
        super().stop()
        if self._loop is not None:
            call_in(self._loop, self._cancel_soon)

    def close(self) -> None:
        """Cancel it, have it clean up, and wait some seconds for that. Raises what the clean-up raises."""
        self._closed = True
        self._hungry[0] = True
        self._make_room()
        if self._loop is not None:
            call_in(self._loop, self._cancel)
        self.thread.join(_CLOSE_SECONDS)
        if self._error is not None and not self._is_told:
            raise self._error

    def _make_room(self) -> None:
        self._room.set()

    def _cancel_soon(self) -> None:
        asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._cancel)

    def _cancel(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:  # once: another time would interrupt its clean-up
            reading.cancel()

    def _pull(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._read_all())
        except asyncio.CancelledError as error:
            if not self._closed:
                self._error = error
        except BaseException as error:  # noqa: BLE001 - told to whoever reads, or closes
            self._error = error
        finally:
            self._over = True
            self._came.set()

    async def _read_all(self) -> None:
        self._reading = asyncio.current_task()
        items = self._async_items
        try:
            if not self._closed:
                await self._take_all(items)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _take_all(self, items: AsyncIterator[Any]) -> None:
        put, hungry, left = self._waiting.append, self._hungry, self._passed_over
        loop = asyncio.get_running_loop()
        async for item in items:
            if left:
                left -= 1
            else:
                put(item)
            if hungry[0]:
                hungry[0] = False
                self._came.set()
                if self._closed:
                    return
            while len(self._waiting) >= self._most_ahead and not self._closed:
                await self._room.wait(loop, PATIENCE_SECONDS / 10)
        if left:
            raise too_short(self._name, self._passed_over - left, self._passed_over)


def call_in(loop: asyncio.AbstractEventLoop, call: Any, *given: Any) -> bool:
    """Have a loop call something soon, from another thread; return whether it still can."""
    try:
        loop.call_soon_threadsafe(call, *given)
    except RuntimeError:  # it is closed
        return False
    return True
