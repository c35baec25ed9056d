"""Coroutines for items with keys: those of one line one after another, those of others at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, Halt, Stopped
from sidestage.stream.keys.lines import Line, LineInlet
from sidestage.stream.life.revoking import Passage
from sidestage.stream.mailbox import Inlet
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.workers.coroutines import CoroutineStage, Done

_LOOK_SECONDS = 0.1


class KeyedCoroutineStage(CoroutineStage):
    """Has up to ``most`` coroutines at work, one for each line: a key's next item waits for its former one.

    Chunks leave as they are done, so items are in order by key. How many are under way is bounded by the
    lines: each has one chunk here at most.
    """

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        most: int,
        timeout: float | None,
        desk: Desk,
        meter: Meter,
        halt: Halt,
        lines: LineInlet,
    ) -> None:
        super().__init__(function, most, timeout, desk, meter, halt, ordered=False)
        self._lines = lines
        self._line_of: dict[Chunk, Line] = {}
        self._lines_at_work = 0

    def serve(self, inlet: Inlet, following: Step) -> None:
        """Do all that comes, and hand it on. Raises Stopped, and what handing on raised."""
        assert inlet is self._lines
        super().serve(_Keeping(self._lines, self._line_of), following)

    def _wait_for_room(self, count: int) -> None:
        """Wait until one line more may be worked on, however many items it gave."""
        with self._changed:
            while self._lines_at_work >= self._most:
                if self._halt.is_set:
                    raise Stopped
                self._changed.wait(_LOOK_SECONDS)
            if self._halt.is_set:
                raise Stopped
            self._lines_at_work += 1
            self._at_work += count
            self._kept += count

    async def _all(self, chunk: Chunk, spent: list[float]) -> list[Any]:
        try:
            return [await self._next_one(chunk, item, spent) for item in chunk.items]
        finally:
            with self._changed:
                self._lines_at_work -= 1
                self._changed.notify()

    async def _next_one(self, chunk: Chunk, item: Any, spent: list[float]) -> Any:
        passage = chunk.tickets[0]
        if not isinstance(passage, Passage):
            return await self._one(item, spent)
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._unless_revoked(chunk, item, spent))
        with passage.heeded_by(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await task

    def _push(self, chunk: Chunk, done: Done, following: Step) -> None:
        line = self._line_of.pop(chunk)
        self._lines.sending = line
        super()._push(chunk, done, following)
        self._lines.lines.give_back(line)


class _Keeping:
    """Takes from lines, and notes which chunk is of which: they are given back when those are done."""

    def __init__(self, inlet: LineInlet, line_of: dict[Chunk, Line]) -> None:
        self._inlet = inlet
        self._line_of = line_of

    def take(self, timeout: float | None) -> Chunk | None:
        """Return a chunk, as ``Mailbox.take`` does."""
        taken = self._inlet.lines.take(timeout)
        if taken is None:
            return None
        self._line_of[taken.chunk] = taken.line
        return taken.chunk

    def asks_to_flush(self) -> bool:
        """Return, once, whether to pass on what is held."""
        return self._inlet.asks_to_flush()

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return self._inlet.is_over
