"""Bulkheads: so many calls at once, each for so long, so that one slow place cannot take all workers.

Coroutines are cancelled when their time is over. A call in a thread cannot be: it is written off, its thread
is replaced, and should it end after all, nobody looks at its answer. How many threads may be lost that way
is bounded, too.
"""

import asyncio
import contextvars
import math
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError, TaskError
from sidestage.events import Event, Listener
from sidestage.policy.failure import FailureClass
from sidestage.policy.limits import seconds_text
from sidestage.policy.news import News

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_SECONDS = 0.1
"""How often those who wait ask whether they are to wait any longer."""

_JOINED_WITHIN = 1.0  # seconds for an idle thread to end, which takes it no time at all


class Bulkhead(msgspec.Struct, frozen=True, kw_only=True):
    """At most ``calls`` calls at once, each for at most ``timeout`` seconds (None: for as long as it takes).

    A call waits up to ``wait`` seconds for a place. Once ``lost`` threads are written off, because their
    calls did not return, further calls are refused until one of them does; the calls that run at that moment
    may still be lost, too. Raises DefinitionError for numbers that make no sense.
    """

    calls: int = 8
    wait: float = 10.0
    timeout: float | None = None
    lost: int = 8

    def __post_init__(self) -> None:
        times_hold = 0 <= self.wait < math.inf and (self.timeout is None or 0 < self.timeout < math.inf)
        if not (self.calls >= 1 and self.lost >= 1 and times_hold):  # so that nan fails, too
            raise DefinitionError(
                f"Bulkhead(calls={self.calls}, wait={self.wait}, timeout={self.timeout}, lost={self.lost}) "
                "makes no sense.",
                hint="Allow at least one call and one lost thread; times are seconds and not negative.",
            )


class CallLate(TaskError):
    """A call did not return in time; it is in the failure class "transient"."""

    transient = True
    failure_class: FailureClass = "transient"


class NoPlace(TaskError):
    """A call found no free place in time, or too many threads are lost; in the failure class "resource"."""

    transient = True
    failure_class: FailureClass = "resource"


class ThreadWrittenOff(Event, frozen=True):
    """A call did not return in time, so its thread was given up; ``lost`` threads are now, of ``most``."""

    bulkhead: str
    seconds: float
    lost: int
    most: int


class ThreadReturned(Event, frozen=True):
    """A call whose thread was given up has ended after all; ``lost`` threads still have not."""

    bulkhead: str
    lost: int


class BulkheadSnapshot(msgspec.Struct, frozen=True):
    """A bulkhead at a moment.

    Threads that are idle, calls that run, threads that are lost; calls that were late or refused so far.
    """

    idle: int
    running: int
    lost: int
    late: int
    refused: int


class _Call(Generic[R]):
    """One call on its way through a thread."""

    def __init__(self, work: Callable[[], R]) -> None:
        self.work = work
        self.context = contextvars.copy_context()  # a trace follows its item into the thread
        self.over = threading.Event()
        self.given_up = False
        self.answer: R
        self.error: BaseException | None = None

    def make(self) -> None:
        try:
            self.answer = self.context.run(self.work)
        except BaseException as error:  # noqa: BLE001  # whoever asked gets it, whatever it is
            self.error = error


class _Thread:
    """A thread that makes one call after another; it ends after one that was given up."""

    def __init__(self, name: str, ended: Callable[["_Thread", _Call[object]], bool]) -> None:
        self._ended = ended
        self._calls: SimpleQueue[_Call[object] | None] = SimpleQueue()
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def take(self, call: "_Call[object]") -> None:
        self._calls.put(call)

    def end(self) -> None:
        self._calls.put(None)

    def join(self) -> None:
        self._thread.join(_JOINED_WITHIN)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
            if not self._ended(self, call):
                return
            del call  # or its answer would live until the next one


class ThreadBulkhead:
    """A bulkhead for plain functions. Safe for threads.

    Without a timeout a function runs in the caller's own thread; with one, in a thread of the bulkhead. The
    listener hears ``ThreadWrittenOff`` and ``ThreadReturned``, outside all locks. ``look`` is called now and
    then by those who wait for a place or an answer; whoever it raises in waits no longer, and gives up its
    call. To be closed in the end.
    """

    def __init__(
        self,
        name: str,
        bulkhead: Bulkhead,
        clock: Clock,
        listener: Listener | None = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._look = look
        self._bulkhead = bulkhead
        self._clock = clock
        self._news = News(listener)
        self._lock = threading.Lock()
        self._places = threading.Semaphore(bulkhead.calls)
        self._idle: list[_Thread] = []
        self._running = self._lost = self._late = self._refused = self._started = 0
        self._closed = False

    @property
    def ends_calls(self) -> bool:
        """Whether calls are made in threads of their own, so that one that does not return is written off."""
        return self._bulkhead.timeout is not None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function and return what it returns, or raise what it raises.

        Raises NoPlace if there is no place in time or too many threads are lost, CallLate if it takes too
        long. A call that was late may still be running, and may still do what it set out to do.
        """
        self._enter()
        try:
            if self._bulkhead.timeout is None:
                return function(*args, **kwargs)
            return self._in_thread(lambda: function(*args, **kwargs), self._bulkhead.timeout)
        finally:
            with self._lock:
                self._running -= 1
            self._places.release()

    def snapshot(self) -> BulkheadSnapshot:
        """Return what there is to see."""
        with self._lock:
            return BulkheadSnapshot(len(self._idle), self._running, self._lost, self._late, self._refused)

    def close(self) -> None:
        """End the threads that wait, and let those that run end after their call; later calls are refused."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.end()
        for thread in idle:
            thread.join()

    def _enter(self) -> None:
        placed = self._takes_calls() and self._free()
        with self._lock:
            if placed and self._takes_calls():  # asked again: much may happen while one waits for a place
                self._running += 1
                return
            self._refused += 1
            closed, lost = self._closed, self._lost
        if placed:
            self._places.release()
        raise _refusal(self._name, self._bulkhead, closed=closed, lost=lost)

    def _takes_calls(self) -> bool:
        return not self._closed and self._lost < self._bulkhead.lost

    def _free(self) -> bool:
        return self._places.acquire(blocking=False) or self._waited(
            lambda seconds: self._places.acquire(timeout=seconds), self._bulkhead.wait
        )

    def _waited(self, came: Callable[[float], bool], seconds: float) -> bool:
        """Return whether something came within ``seconds``; it is asked with how long it may wait for it."""
        while seconds > 0:
            if self._look is not None:
                self._look()
            if came(seconds if self._look is None else min(seconds, _LOOK_SECONDS)):
                return True
            seconds -= _LOOK_SECONDS if self._look is not None else seconds
        return False

    def _in_thread(self, work: Callable[[], R], timeout: float) -> R:
        if self._look is not None:
            self._look()  # before it is begun
        call = _Call(work)
        with self._lock:
            thread = self._idle.pop() if self._idle else self._start()
        thread.take(call)  # type: ignore[arg-type]  # a thread does not look at answers
        try:
            in_time = self._waited(call.over.wait, timeout)
        except BaseException:  # Ctrl-C, or told not to: nobody waits for the answer any more
            self._give_up(call, timeout)
            raise
        if not in_time and self._give_up(call, timeout):
            raise _late(self._name, timeout)
        if call.error is None:
            return call.answer
        try:
            raise call.error
        finally:
            call.error = None  # or the error would hold this frame, and the frame the error

    def _start(self) -> _Thread:
        self._started += 1
        return _Thread(f"{self._name} {self._started}", self._ended)

    def _give_up(self, call: _Call[R], seconds: float) -> bool:
        """Return whether the call is given up; it is not if it has ended this very moment."""
        with self._lock:
            if call.over.is_set():
                return False
            call.given_up = True
            self._lost += 1
            self._late += 1
            now, most = self._clock.now(), self._bulkhead.lost
            self._news.note(ThreadWrittenOff(now, self._name, seconds, self._lost, most))
        self._news.tell()
        return True

    def _ended(self, thread: _Thread, call: _Call[object]) -> bool:
        """Take note that a call has ended; return whether its thread goes on."""
        with self._lock:
            goes_on = not (call.given_up or self._closed)
            if goes_on:
                self._idle.append(thread)
            if call.given_up:
                self._lost -= 1
                self._news.note(ThreadReturned(self._clock.now(), self._name, self._lost))
            call.over.set()
        self._news.tell()
        return goes_on


class TaskBulkhead:
    """A bulkhead for coroutine functions, for the tasks of one event loop."""

    def __init__(self, name: str, bulkhead: Bulkhead) -> None:
        self._name = name
        self._bulkhead = bulkhead
        self._places = asyncio.Semaphore(bulkhead.calls)
        self._running = self._late = self._refused = 0

    async def call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Await a coroutine function and return what it returns, or raise what it raises.

        Raises NoPlace if there is no place in time, CallLate if it takes too long; it is cancelled then.
        """
        if not await self._free():
            self._refused += 1
            raise _refusal(self._name, self._bulkhead, closed=False, lost=0)
        self._running += 1
        try:
            return await self._in_time(function(*args, **kwargs))
        finally:
            self._running -= 1
            self._places.release()

    def snapshot(self) -> BulkheadSnapshot:
        """Return what there is to see; no thread of it is ever idle or lost."""
        return BulkheadSnapshot(0, self._running, 0, self._late, self._refused)

    async def _free(self) -> bool:
        if not self._places.locked():
            return await self._places.acquire()
        if self._bulkhead.wait == 0:
            return False
        try:
            async with asyncio.timeout(self._bulkhead.wait):
                return await self._places.acquire()
        except TimeoutError:
            return False

    async def _in_time(self, answer: Awaitable[R]) -> R:
        try:
            async with asyncio.timeout(self._bulkhead.timeout) as limit:
                return await answer
        except TimeoutError as error:
            if not limit.expired():
                raise  # its own
            self._late += 1
            raise _late(self._name, self._bulkhead.timeout or 0.0) from error


def _late(name: str, seconds: float) -> CallLate:
    return CallLate(
        f"A call through {name!r} did not return within {seconds_text(seconds)}.",
        hint="Give it more time, or find out why the place it calls is slow.",
    )


def _refusal(name: str, bulkhead: Bulkhead, *, closed: bool, lost: int) -> NoPlace:
    if closed:
        return NoPlace(
            f"Bulkhead {name!r} is closed.", hint="Call nothing through it once its stage has ended."
        )
    if lost >= bulkhead.lost:
        return NoPlace(
            f"{lost} calls through {name!r} never returned; {bulkhead.lost} lost threads are allowed.",
            hint="Give the client that is called a timeout of its own: a thread cannot be stopped.",
        )
    return NoPlace(
        f"None of the {bulkhead.calls} places of {name!r} came free within {seconds_text(bulkhead.wait)}.",
        hint="Allow more calls at once, let them wait longer, or send less.",
    )
