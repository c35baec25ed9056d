"""Going through the items of a chunk, so that it can be left between any two of them.

A chunk may hold a thousand items, and each may take a second. Asking before each whether to stop would cost
a fifth of all that a hop costs. So nobody asks: whoever stops the stream sends the iterators of lists that
workers go through to their ends.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sidestage.stream.failing import Halt, Stopped

K = TypeVar("K")
V = TypeVar("V")


class Walk:
    """The way of one worker through the items of its chunks. ``through`` gives less once all is to stop."""

    __slots__ = ("_at", "_halt")

    def __init__(self, halt: Halt) -> None:
        self._at: Iterator[Any] = iter(())
        self._halt = halt
        halt.walks.append(self)

    def through(self, items: Sequence[Any]) -> Iterator[Any]:
        """Return the items one by one. Who got fewer than there are stops, too. Raises Stopped."""
        walk = self._at = iter(items)
        if self._halt.is_set:  # after it can be seen: whoever stops may have come before, or comes later
            raise Stopped
        return walk

    def leave(self) -> None:
        """Send whoever goes through items to the end. Called by another thread."""
        jump = getattr(self._at, "__setstate__", None)
        if jump is not None:  # what is no list or tuple is gone through
            jump(sys.maxsize)


def heeding(function: Callable[[K], V], halt: Halt) -> Callable[[K], V]:
    """Return a function that is not called any more once all is to stop: it raises Stopped."""

    def call(argument: K) -> V:
        if halt.is_set:
            raise Stopped
        return function(argument)

    return call
