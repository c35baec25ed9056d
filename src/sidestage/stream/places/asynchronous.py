"""A stream within a program of coroutines: its threads do the work, and nobody blocks the event loop."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from sidestage.clock import Clock
from sidestage.policy.restart import Restart
from sidestage.stream.engine import Engine
from sidestage.stream.failing import Abandoned
from sidestage.stream.life.recovery import run_again_if_lost
from sidestage.stream.places.async_sources import call_in
from sidestage.stream.settings import Ended, Settings

_LOOK_SECONDS = 0.1
_BEYOND_GRACE = 1.0


async def arun(begin: Callable[[], Engine], settings: Settings, clock: Clock) -> Ended:
    """Run to the end, in threads; ``begin`` returns a new engine.

    A task that is cancelled cancels the stream. It waits then until the stream has ended, as long as the
    grace of ``settings`` allows; cancelled once more, it leaves at once. Raises as ``Flow.run`` does.
    """
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    running = _Running(begin, settings.restart, clock, lambda: call_in(loop, over.set))
    try:
        await over.wait()
    except asyncio.CancelledError:
        running.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.grace + _BEYOND_GRACE):
                await over.wait()
        raise
    return running.result()


class _Running:
    """A run, in a thread that nothing waits for."""

    def __init__(
        self, begin: Callable[[], Engine], restart: Restart, clock: Clock, tell: Callable[[], object]
    ) -> None:
        self._begin = begin
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._answers: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
        work = threading.Thread(target=self._work, args=(restart, clock, tell), name="stream", daemon=True)
        work.start()

    def cancel(self) -> None:
        """Have it end."""
        with self._lock:
            self._cancelled.set()
            engine = self._engine
        if engine is not None:
            engine.cancel("its task was cancelled")

    def result(self) -> Ended:
        """Return how it ended. Raises what it raised."""
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _work(self, restart: Restart, clock: Clock, tell: Callable[[], object]) -> None:
        try:
            self._answers.put(run_again_if_lost(self._run, restart, clock, self._cancelled.wait))
        except BaseException as error:  # noqa: BLE001 - raised by result
            self._answers.put(error)
        finally:
            tell()

    def _run(self) -> Ended:
        engine = self._begin()
        with self._lock:
            self._engine = engine
            is_cancelled = self._cancelled.is_set()
        if is_cancelled:
            engine.cancel("its task was cancelled")
        return engine.run()


class AsyncHandOver:
    """A sink that waits until a coroutine has taken what it was given."""

    name = "iteration"

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offered: asyncio.Queue[Sequence[Any] | None] = asyncio.Queue()
        self._taken = threading.Event()
        self._abandoned = False

    def open(self) -> "AsyncHandOver":
        """Begin."""
        return self

    def write(self, items: Sequence[Any]) -> None:
        """Offer items, and wait until they are taken. Gives up when nobody iterates any more."""
        self._taken.clear()
        assert self._loop is not None
        there = call_in(self._loop, self._offered.put_nowait, items)
        while there and not self._abandoned and not self._taken.wait(_LOOK_SECONDS):
            there = not self._loop.is_closed()
        if self._abandoned or not there:
            raise Abandoned

    def close(self) -> None:
        """End: nothing more is offered."""

    async def iterate(self, engine: Engine) -> AsyncIterator[Any]:
        """Run the engine, and yield what it writes here."""
        loop = self._loop = asyncio.get_running_loop()
        engine.life.when_over(lambda: call_in(loop, self._offered.put_nowait, None))
        engine.start()
        try:
            while (items := await self._offered.get()) is not None:
                for item in items:
                    yield item
                self._taken.set()
        except BaseException:
            engine.cancel("nobody iterates any more")
            self._abandoned = True
            self._taken.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(engine.grace):
                    while await self._offered.get() is not None:
                        pass
            engine.life.name_hanging(engine.grace)
            raise
        engine.join()
