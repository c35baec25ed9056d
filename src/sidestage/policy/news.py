"""News of a guard: told in order, and never while the guard is locked."""

import threading
from collections import deque

from sidestage.events import Event, Listener


class News:
    """Events that wait to be told to one listener.

    A guard notes an event while it holds its lock and tells it afterwards, so that the listener may call the
    guard. Events are told one at a time in the order in which they were noted, whichever thread tells them;
    ``tell`` may therefore return before another thread has told what was noted last.
    """

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._waiting: deque[Event] = deque()
        self._telling = threading.Lock()

    def note(self, event: Event) -> None:
        """Keep an event to be told; nobody listening, it is dropped."""
        if self._listener is not None:
            self._waiting.append(event)

    def tell(self) -> None:
        """Tell what waits, unless somebody is telling already, who will tell this, too."""
        # Asked again after each round: what was noted as the other one let go must not wait.
        while self._waiting and self._telling.acquire(blocking=False):
            try:
                self._tell_all()
            finally:
                self._telling.release()

    def _tell_all(self) -> None:
        assert self._listener is not None
        while self._waiting:
            self._listener(self._waiting.popleft())
