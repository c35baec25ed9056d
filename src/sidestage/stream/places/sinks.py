"""Sinks that are Python values: a list, and a function."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Collected(Generic[T]):
    """Keeps what it is given in ``items``, in memory. For one run at a time, by one worker."""

    def __init__(self, name: str = "collected") -> None:
        self.name = name
        self.items: list[T] = []

    def open(self) -> "Collected[T]":
        """Begin to write."""
        return self

    def write(self, items: Sequence[T]) -> None:
        """Keep items."""
        self.items += items

    def close(self) -> None:
        """Stop writing."""


class Called(Generic[T]):
    """Calls a function with each list of items. They count as written when it returns."""

    def __init__(self, function: Callable[[Sequence[T]], object], name: str = "") -> None:
        self.name = name or getattr(function, "__name__", "called")
        self._function = function

    def open(self) -> "Called[T]":
        """Begin to write."""
        return self

    def write(self, items: Sequence[T]) -> None:
        """Call the function. Raises what it raises, Refused to name those that were not written."""
        self._function(items)

    def close(self) -> None:
        """Stop writing."""
