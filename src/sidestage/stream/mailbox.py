"""Where chunks wait between workers: bounded by items. Whoever takes, takes what waits."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.operators import End

_LOOK_SECONDS = 0.1
"""How often those who wait ask whether everything is to stop, should nobody have woken them."""


class Bounded(Protocol):
    """Where items wait, up to a bound that can be set."""

    most_items: int

    @property
    def came(self) -> int:
        """How many items were put in so far."""
        ...

    @property
    def chunks(self) -> int:
        """How many chunks were put in so far."""
        ...


class Inlet(Protocol):
    """What a worker takes its chunks from."""

    def take(self, timeout: float | None) -> Chunk | None:
        """Return the oldest chunk, or None: none came within ``timeout``, none will, or a flush is asked.

        Raises Stopped.
        """
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing will come."""
        ...

    def asks_to_flush(self) -> bool:
        """Return, once, whether whoever takes is to pass on what is held."""
        ...


class WaitingRoom:
    """Base of where items wait between ``senders`` workers and those who take: how it is flushed, and ends.

    ``pending`` counts the items that wait.
    """

    def __init__(self, halt: Halt, *, senders: int) -> None:
        self._halt = halt
        self._senders = senders
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._flushing = False
        self._drop: Callable[[Chunk], None] | None = None
        """What becomes of chunks since those who take from it were cancelled."""
        self._idle = 0
        self.pending = 0
        self.came = 0
        """How many items were put in so far."""

    @property
    def _holds(self) -> bool:
        """Whether anything waits."""
        return bool(self.pending)

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return not self._senders and not self._holds

    def rests(self, takers: int) -> bool:
        """Whether nothing waits, and all who take from it wait for more."""
        with self._lock:
            return not self._holds and (self._idle == takers or not self._senders)

    def flush(self) -> None:
        """Ask those who take to pass on what they hold, once they have taken what waits."""
        with self._lock:
            self._flushing = True
            self._filled.notify()

    def asks_to_flush(self) -> bool:
        """Return, once, whether whoever takes is to pass on what is held."""
        with self._lock:
            asked, self._flushing = self._flushing and not self._holds, self._flushing and self._holds
        return asked

    def finish(self) -> None:
        """Note that one sender will send no more."""
        with self._lock:
            if self._drop is not None:
                return
            self._senders -= 1
            if not self._senders:
                self._filled.notify_all()


class Mailbox(WaitingRoom, End):
    """Chunks on their way from ``senders`` workers to others. A chunk that is too large for it goes in alone.

    Chunks are numbered in the order in which they were put in.
    """

    def __init__(self, most_items: int, halt: Halt, *, senders: int) -> None:
        super().__init__(halt, senders=senders)
        self._most_items = most_items
        self._chunks: deque[Chunk] = deque()
        self._sequence = 0

    @property
    def _holds(self) -> bool:
        return bool(self._chunks)

    @property
    def chunks(self) -> int:
        """How many chunks were put in so far."""
        return self._sequence

    @property
    def most_items(self) -> int:
        """How many items may wait in it; settable at any time."""
        return self._most_items

    @most_items.setter
    def most_items(self, most: int) -> None:
        with self._lock:
            self._most_items = most
            self._emptied.notify_all()

    def push(self, chunk: Chunk) -> None:
        """Put a chunk in, waiting while it is full. Raises Stopped."""
        count = chunk.load
        with self._lock:
            while self._is_full(count):
                if self._halt.is_set:
                    raise Stopped
                self._emptied.wait(_LOOK_SECONDS)
            drop = self._drop
            if drop is None:
                chunk.sequence = self._sequence
                self._sequence += 1
                self._chunks.append(chunk)
                self.pending += count
                self.came += count
                self._filled.notify()
                return
        drop(chunk)

    def shut(self, drop: Callable[[Chunk], None]) -> None:
        """Have what waits, and what comes, dropped; whoever takes from it is told that nothing comes."""
        with self._lock:
            self._drop = drop
            self._senders = 0
            left, self.pending = list(self._chunks), 0
            self._chunks.clear()
            self._filled.notify_all()
            self._emptied.notify_all()
        for chunk in left:
            drop(chunk)

    def take(self, timeout: float | None) -> Chunk | None:
        """Return the oldest chunk, or None: none came within ``timeout``, none will, or a flush is asked.

        Raises Stopped.
        """
        with self._lock:
            while not self._chunks:
                if self._halt.is_set:
                    raise Stopped
                if not self._senders or self._flushing:
                    return None
                self._idle += 1
                waited = self._filled.wait(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
                self._idle -= 1
                if not waited and timeout is not None:
                    timeout -= _LOOK_SECONDS
                    if timeout <= 0:
                        return None
            chunk = self._chunks.popleft()
            self.pending -= chunk.load
            self._emptied.notify()
            return chunk

    def _is_full(self, count: int) -> bool:
        return bool(self._chunks) and self.pending + count > self._most_items
