"""A stage of coroutines: many items are waited for at once, in one thread that runs their event loop.

Three threads share the work. One takes chunks while there is room, the loop runs a coroutine for each item,
and one hands on what is ready: it may have to wait for whoever comes next, which the loop must not.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter, thread_time
from typing import Any, NamedTuple

from sidestage.errors import SidestageError
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, GivenUp, Halt, Stopped, WorkerDied, shown
from sidestage.stream.life.revoking import Passage
from sidestage.stream.mailbox import Inlet
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Step
from sidestage.stream.scopes.hands import Ask
from sidestage.stream.scopes.scope import Cancelled

_LOOK_SECONDS = 0.1
_END_SECONDS = 5.0
"""How long coroutines may take to end when they are told to."""

_KEPT_PER_SLOT, _LEAST_KEPT = 4, 4096
"""How many items are at work or wait to be handed on at most."""


class Done(NamedTuple):
    """What came of each item of a chunk, and the seconds that they were at work, all together."""

    results: list[Any | GivenUp]
    seconds: float


_Said = tuple[int, Chunk, Done] | BaseException | int | None
"""A chunk that is done; an error; how many chunks there were in all; or a request to flush."""


class _InHand:
    """An item that a coroutine is at work on."""

    __slots__ = ("asked", "began", "item", "task")

    def __init__(self, task: "asyncio.Task[Any]", item: Any, began: float) -> None:
        self.task = task
        self.item = item
        self.began = began
        self.asked: Ask | None = None

    def ask(self, error: Cancelled) -> Ask:
        """Have it cancelled, in the thread of its event loop."""
        self.asked = self.asked or Ask(error)
        self.task.cancel()
        return self.asked


class CoroutineStage:
    """Has up to ``most`` coroutines of one function at work; chunks leave in order unless told otherwise."""

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        most: int,
        timeout: float | None,
        desk: Desk,
        meter: Meter,
        halt: Halt,
        *,
        ordered: bool,
    ) -> None:
        self._function = function
        self._most = most
        self._timeout = timeout
        self._desk = desk
        self._meter = meter
        meter.is_elsewhere = True
        self._halt = halt
        self._ordered = ordered
        self._ready: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._at_work = 0
        self._kept = 0
        self._most_kept = max(_KEPT_PER_SLOT * most, _LEAST_KEPT)
        self._changed = threading.Condition()
        self._slots = asyncio.Semaphore(most)
        self._free = list(range(most, 0, -1))
        self._hands: dict[int, _InHand] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cpu = 0.0

    def serve(self, inlet: Inlet, following: Step) -> None:
        """Do all that comes, and hand it on. Raises Stopped, and what handing on raised."""
        loop = self._loop = asyncio.new_event_loop()
        name = threading.current_thread().name
        running = threading.Thread(target=loop.run_forever, name=f"{name} loop", daemon=True)
        taking = threading.Thread(target=self._take, args=(inlet, loop), name=f"{name} intake", daemon=True)
        running.start()
        taking.start()
        try:
            self._hand_on(following)
        except BaseException as error:
            self._halt.stop(None if isinstance(error, Stopped) else error)
            raise
        finally:
            taking.join()
            _end(loop, running)
            if running.is_alive():
                self._halt.left_behind.append(running)
        following.finish()

    def _take(self, inlet: Inlet, loop: asyncio.AbstractEventLoop) -> None:
        """Take chunks, as long as fewer items than allowed are at work, or done and not handed on."""
        number = 0
        try:
            while True:
                chunk = inlet.take(None)
                if chunk is not None:
                    self._wait_for_room(len(chunk.items))
                    asyncio.run_coroutine_threadsafe(self._work(number, chunk), loop)
                    number += 1
                elif inlet.asks_to_flush():
                    self._ready.put(None)
                elif inlet.is_over:
                    break
            self._ready.put(number)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever hands on
            self._ready.put(error)

    def _wait_for_room(self, count: int) -> None:
        with self._changed:
            while self._at_work >= self._most or self._kept >= self._most_kept:
                if self._halt.is_set:
                    raise Stopped
                self._changed.wait(_LOOK_SECONDS)
            if self._halt.is_set:
                raise Stopped
            self._at_work += count
            self._kept += count

    async def _work(self, number: int, chunk: Chunk) -> None:
        began = perf_counter()
        spent = [0.0]
        try:
            done = await self._all(chunk, spent)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever hands on
            self._ready.put(error)
            return
        self._note_cpu(len(chunk.items))
        if chunk.trail is not None:
            seconds = perf_counter() - began
            chunk.trail = chunk.trail.stage(self._meter.stage, len(chunk.items), seconds)
        self._ready.put((number, chunk, Done(list(done), spent[0])))

    def _note_cpu(self, items: int) -> None:
        """Note what the loop's thread used since this was last asked, in that thread."""
        now = thread_time()
        self._meter.used(items, now - self._cpu)
        self._cpu = now

    async def _all(self, chunk: Chunk, spent: list[float]) -> list[Any]:
        """Return what came of all items; ``spent`` is told how long they were at work, all together."""
        if not isinstance(chunk.tickets[0], Passage):
            return await asyncio.gather(*(self._one(item, spent) for item in chunk.items))
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(self._unless_revoked(chunk, item, spent)) for item in chunk.items]

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        with chunk.tickets[0].heeded_by(lambda: loop.call_soon_threadsafe(cancel)):
            return await asyncio.gather(*tasks)

    async def _unless_revoked(self, chunk: Chunk, item: Any, spent: list[float]) -> Any:
        if not chunk.is_revoked:
            try:
                return await self._one(item, spent)
            except asyncio.CancelledError:
                if self._halt.is_set or not chunk.is_revoked:
                    raise
        else:
            self._has_one_less()
        return GivenUp(WorkerDied("its item was revoked"), 1)

    async def _one(self, item: Any, spent: list[float]) -> Any:
        began = None
        try:
            async with self._slots:
                began = perf_counter()
                return await self._in_hand(item, began)
        finally:
            if began is not None:
                spent[0] += perf_counter() - began
            self._has_one_less()

    async def _in_hand(self, item: Any, began: float) -> Any:
        """Return what came of an item, which can be asked for meanwhile."""
        if self._desk.scope.error is not None:
            return GivenUp(self._desk.scope.error, 1)
        number, task = self._free.pop(), asyncio.current_task()
        assert task is not None
        hand = self._hands[number] = _InHand(task, item, began)
        try:
            result = await self._tried(item, hand)
        except asyncio.CancelledError:
            if self._halt.is_set or hand.asked is None:
                raise
            result = None
        finally:
            del self._hands[number]
            self._free.append(number)
        if hand.asked is None:
            return result
        while task.cancelling():
            task.uncancel()
        hand.asked.comply(shown(item))
        return GivenUp(hand.asked.error, 1)

    def ask(self, number: int | None, error: Cancelled) -> Sequence[Ask]:
        """Cancel the coroutine with this number (from one), or all, and give up their items.

        Raises SidestageError if their event loop does not answer.
        """
        loop, told = self._loop, queue.SimpleQueue[Sequence[Ask]]()
        if loop is None:
            return ()

        def ask() -> None:
            wanted = self._hands.values() if number is None else (self._hands.get(number),)
            told.put([hand.ask(error) for hand in wanted if hand is not None])

        try:
            loop.call_soon_threadsafe(ask)
            return told.get(timeout=_END_SECONDS)
        except RuntimeError:  # it is closed: nothing is in hand any more
            return ()
        except queue.Empty:
            raise SidestageError(
                f"The event loop of {self._meter.stage!r} does not answer: a coroutine keeps it busy.",
                hint="py-spy dump shows which; a call that blocks belongs in asyncio.to_thread. "
                "engine.cancel() ends the stream.",
            ) from None

    def at_work(self) -> Sequence[tuple[int, float]]:
        """Return the numbers of those that have an item in hand, and for how many seconds."""
        now = perf_counter()
        return [(number, now - hand.began) for number, hand in dict(self._hands).items()]

    def _has_one_less(self) -> None:
        with self._changed:
            self._at_work -= 1
            self._changed.notify()

    async def _tried(self, item: Any, hand: "_InHand") -> Any:
        attempt = 1
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._function(item)
            except Exception as error:  # noqa: BLE001 - whatever the user's code raises
                pause = self._desk.pause_after(attempt, error)
                if pause is None or hand.asked is not None:
                    return GivenUp(error, attempt)
            except BaseException as death:
                if self._halt.is_set:
                    raise
                return GivenUp(WorkerDied(f"its worker would have ended: {death!r}"), attempt)
            await asyncio.sleep(pause)
            attempt += 1

    def _hand_on(self, following: Step) -> None:
        """Push on what is done, in order if that is wanted, until all of it is."""
        last: int | None = None
        waiting: dict[int, tuple[Chunk, Done]] = {}
        sent = 0
        while last is None or sent < last:
            try:
                came = self._ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._halt.is_set:
                    raise Stopped from None
                continue
            if isinstance(came, BaseException):
                raise came
            if isinstance(came, int):
                last = came
                continue
            if came is None:
                following.flush()
                continue
            number, chunk, done = came
            waiting[number if self._ordered else sent] = chunk, done
            while sent in waiting:
                self._push(*waiting.pop(sent), following)
                sent += 1

    def _push(self, chunk: Chunk, done: Done, following: Step) -> None:
        made: list[Any] = []
        gone: list[int] = []
        for index, each in enumerate(done.results):
            if isinstance(each, GivenUp):
                kept = self._desk.decide(chunk, index, chunk.items[index], each)
                if kept.gone:
                    gone.append(index)
                    continue
                each = kept.value  # noqa: PLW2901
            made.append(each)
        # Not before: whoever watches errors is to hear of items and of those that failed together.
        self._meter.took(len(done.results), done.seconds)
        chunk.become(made, gone)
        if made:
            following.push(chunk)
        else:
            chunk.settle()
        with self._changed:
            self._kept -= len(done.results)
            self._changed.notify()


def _end(loop: asyncio.AbstractEventLoop, running: threading.Thread) -> None:
    """Cancel what still runs, and end the loop; a coroutine that will not end is left, with its thread."""
    if running.is_alive():
        cancelled = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        with contextlib.suppress(TimeoutError):
            cancelled.result(_END_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        running.join(_END_SECONDS)
    if not running.is_alive():
        loop.close()


async def _cancel_all() -> None:
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
