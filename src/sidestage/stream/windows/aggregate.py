"""What an aggregate is: something kept per window and key, a value at a time."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol

_TEXT_BYTES = 56  # of a text without letters
_WIDEST = 4  # bytes of one letter, at most


class Aggregate(Protocol):
    """What can be kept per window and key."""

    @property
    def name(self) -> str:
        """What is kept, in words that stay the same from release to release."""
        ...

    @property
    def growing(self) -> bool:
        """Whether a state takes more memory with each item."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether ``add`` may change the state it is given, so that ``ready`` must be asked before."""
        ...

    def of_item(self, item: Any) -> Any:
        """Return what matters of an item."""
        ...

    def zero(self) -> Any:
        """Return the state of a window without items."""
        ...

    def ready(self, state: Any, value: Any) -> None:
        """Raise what ``add`` would raise."""
        ...

    def add(self, state: Any, value: Any) -> Any:
        """Return the state with one more value."""
        ...

    def merge(self, one: Any, other: Any) -> Any:
        """Return the state of two windows that became one; both stay as they were."""
        ...

    def result(self, state: Any) -> Any:
        """Return what is given out: a value that does not change afterwards."""
        ...

    def size(self, state: Any) -> int:
        """Return about how many bytes a state takes, in constant time."""
        ...


def bytes_of(value: object) -> int:
    """Return about how many bytes a value takes: its own, and one level of what it holds."""
    if isinstance(value, tuple | list):
        return sys.getsizeof(value) + sum(map(_own_bytes, value))
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(_own_bytes(name) + _own_bytes(held) for name, held in value.items())
    return _own_bytes(value)


def _own_bytes(value: object) -> int:
    if isinstance(value, str):
        # Python's own figure changes when somebody encodes the text; estimates must not.
        return _TEXT_BYTES + len(value) * (1 if value.isascii() else _WIDEST)
    return sys.getsizeof(value)
