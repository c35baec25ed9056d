"""The way of dead letters out of a stream, shared by all of its stages."""

import threading
from collections.abc import Callable

from sidestage.stream.failing import DeadLetter


class Letters:
    """The way to where dead letters are kept, for all stages."""

    def __init__(self, post: Callable[[DeadLetter], None] | None) -> None:
        self._post = post
        self._lock = threading.Lock()
        self.count = 0

    @property
    def have_a_place(self) -> bool:
        """Whether anything can be set aside."""
        return self._post is not None

    def post(self, letter: DeadLetter) -> None:
        """Set an item aside, safely."""
        assert self._post is not None
        self._post(letter)
        with self._lock:
            self.count += 1

    def sync(self) -> None:
        """Return when all that was set aside is safe."""
        sync = getattr(self._post, "sync", None)
        if sync is not None:
            sync()
