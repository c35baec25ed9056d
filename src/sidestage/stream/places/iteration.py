"""A stream as something to iterate over: its last stage hands its chunks to whoever asks for items."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from sidestage.stream.engine import Engine
from sidestage.stream.failing import Abandoned

_LOOK_SECONDS = 0.1


class HandOver:
    """A sink that waits until somebody has taken what it was given."""

    name = "iteration"

    def __init__(self) -> None:
        self._offered: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._taken = threading.Event()
        self._abandoned = False

    def open(self) -> "HandOver":
        """Begin."""
        return self

    def write(self, items: Sequence[Any]) -> None:
        """Offer items, and wait until they are taken. Gives up when nobody iterates any more."""
        self._taken.clear()
        self._offered.put(items)
        while not self._taken.wait(_LOOK_SECONDS):
            if self._abandoned:
                raise Abandoned

    def close(self) -> None:
        """End: nothing more is offered."""
        self._offered.put(None)

    def iterate(self, engine: Engine) -> Iterator[Any]:
        """Run the engine, and yield what it writes here."""
        try:
            engine.start()
            while True:
                try:
                    items = self._offered.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    if engine.is_over and self._offered.empty():
                        break
                    continue
                if items is None:
                    break
                yield from items
                self._taken.set()
        except BaseException:
            engine.cancel("nobody iterates any more")
            self._abandoned = True
            engine.cancel(grace=engine.grace)
            raise
        engine.join()
