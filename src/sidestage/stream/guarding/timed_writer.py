"""A sink whose calls may take so long and no longer: one that is late is given up, and opened anew."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sidestage.clock import Clock
from sidestage.events import Listener
from sidestage.policy.bulkhead import Bulkhead, CallLate, ThreadBulkhead
from sidestage.stream.contract import Sink, Writer
from sidestage.stream.failing import Stopped
from sidestage.stream.scopes.scope import Cancelled

T = TypeVar("T")


class _Opened(Generic[T]):
    """A writer, and whether it was given up: it is then closed by whoever is at work with it."""

    def __init__(self, writer: Writer[T]) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._at_work = self._given_up = False

    def write(self, items: Sequence[T]) -> None:
        with self._lock:
            self._at_work = True
        try:
            self._writer.write(items)
        finally:
            with self._lock:
                self._at_work = False
                left = self._given_up
            if left:
                self._close_quietly()

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            left = not self._at_work
        if left:  # it ended this very moment
            self._close_quietly()

    def close(self) -> None:
        self._writer.close()

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):  # nobody waits for it any more, and its items are written anew
            self._writer.close()


class TimedWriter(Generic[T]):
    """Opens, writes and closes in one thread of a bulkhead, which each may keep for its timeout.

    A writer that is late is given up, with its thread: whether its items arrive nobody knows, and the next
    call opens another one. ``look`` raises Stopped if nobody is to wait for an answer any longer.
    """

    def __init__(
        self,
        name: str,
        sink: Sink[T],
        timeout: float,
        clock: Clock,
        listener: Listener | None,
        look: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._look = look
        self._is_closing = False
        alone = Bulkhead(calls=1, timeout=timeout)
        self._threads = ThreadBulkhead(name, alone, clock, listener, self._looks)
        try:
            self._opened: _Opened[T] | None = self._open()
        except BaseException:
            self._threads.close()
            raise

    def write(self, items: Sequence[T]) -> None:
        """Write items. Raises CallLate, NoPlace, Stopped, Cancelled, and what the sink raises."""
        opened = self._opened
        if opened is None:
            opened = self._opened = self._open()
        try:
            self._threads.call(opened.write, items)
        except (CallLate, Stopped, Cancelled):
            self._opened = None
            opened.give_up()
            raise

    def close(self) -> None:
        """Stop writing. Raises CallLate, and what the sink raises."""
        self._is_closing = True
        try:
            if self._opened is not None:
                self._threads.call(self._opened.close)
        finally:
            self._threads.close()

    def _looks(self) -> None:
        if not self._is_closing:  # what is open is closed, also if all is to stop
            self._look()

    def _open(self) -> _Opened[T]:
        return _Opened(self._threads.call(self._sink.open))
