"""What a worker has in hand, so that somebody else can ask for it to be given up.

A worker says so itself, before and after each call that it could give up: one that is waited for (that of a
process, or of a thread with a timeout) looks now and then whether it was asked to. What was asked while one
item was in hand never hits the next.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sidestage.stream.failing import shown
from sidestage.stream.scopes.events import WorkerKind
from sidestage.stream.scopes.scope import Cancelled


class Ask:
    """That something in hand be given up. ``over`` is set when it was, or when it had been done before."""

    def __init__(self, error: Cancelled) -> None:
        self.error = error
        self.over = threading.Event()
        self.was_given_up = False
        self.item: str | None = None

    def comply(self, item: str | None) -> None:
        """Note that it was given up; ``item`` is what it looks like."""
        self.was_given_up = True
        self.item = item
        self.over.set()


class Held(NamedTuple):
    """What is in hand: of which stage, since when, in seconds of the monotonic clock."""

    stage: str
    kind: WorkerKind
    since: float
    item: Any


class Hand:
    """What one worker has in hand. Taken and left by that worker, asked for by anybody."""

    __slots__ = ("_asked", "_lock", "held")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Ask | None = None
        self.held: Held | None = None

    @contextmanager
    def holding(self, held: Held) -> Iterator[None]:
        """Have something in hand."""
        self.held = held
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Have nothing in hand; what was asked for is over."""
        with self._lock:
            self.held = None
            asked, self._asked = self._asked, None
        if asked is not None:
            asked.over.set()

    def ask(self, error: Cancelled, wanted: Callable[[str], bool]) -> Ask | None:
        """Ask for what is in hand, if it is of a stage that is wanted; return None if it is not."""
        with self._lock:
            if self.held is None or not wanted(self.held.stage):
                return None
            if self._asked is None:
                self._asked = Ask(error)
            return self._asked

    def withdraw(self, ask: Ask) -> None:
        """Note that nobody waits for something to be given up any more, unless it was."""
        with self._lock:
            if self._asked is ask and not ask.was_given_up:
                self._asked = None

    @property
    def asked(self) -> Ask | None:
        """What is asked for, if anything is."""
        return self._asked

    def look(self) -> None:
        """Give up the item in hand if somebody asked for that. Raises Cancelled."""
        asked = self._asked
        if asked is None:
            return
        with self._lock:
            held = self.held
            if asked is not self._asked or held is None:
                return
            asked.comply(shown(held.item))
        raise asked.error
