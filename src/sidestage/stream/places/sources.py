"""Sources that are Python values: sequences, and anything else that can be iterated over."""

from collections.abc import AsyncIterable, Collection, Iterable, Sequence
from pathlib import PurePath
from typing import Any, TypeVar, cast

from sidestage.errors import DefinitionError
from sidestage.stream.contract import Batch, Positions, Source
from sidestage.stream.places.async_sources import AsyncIterableSource
from sidestage.stream.places.iterables import PART, IterableSource, count_of, too_short

T = TypeVar("T")


class SequenceSource:
    """Items that lie in memory. Positions count them."""

    def __init__(self, items: Sequence[Any], name: str) -> None:
        self._items = items
        self.name = name

    def open(self, resume: Positions) -> "SequenceReader":
        """Begin to read. Raises DataError if there are fewer items than were dealt with before."""
        at = count_of(resume, self.name)
        if at > len(self._items):
            raise too_short(self.name, len(self._items), at)
        return SequenceReader(self._items, at)


class SequenceReader:
    """Reads a sequence by slices."""

    def __init__(self, items: Sequence[Any], at: int) -> None:
        self._items = items
        self._at = at
        self.committed = at

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return the next items."""
        del wait
        first = self._at
        items = list(self._items[first : first + limit])
        if not items:
            return None
        self._at += len(items)
        return (Batch(PART, first, items, self._at),)

    def stop(self) -> None:
        """Read nothing more."""
        self._items = ()

    def commit(self, positions: Positions) -> None:
        """Note how far everything has been dealt with."""
        self.committed = int(positions.get(PART, self.committed))

    def lost(self) -> Collection[str]:
        """Return nothing: nobody else reads it."""
        return ()

    def close(self) -> None:
        """Stop reading."""


def source_of(given: Source[T] | Iterable[T] | AsyncIterable[T], name: str) -> Source[T]:
    """Return what is given as a source. Raises DefinitionError if nothing can be read from it."""
    if callable(getattr(given, "open", None)) and hasattr(given, "name") and not isinstance(given, PurePath):
        return cast("Source[T]", given)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return SequenceSource(given, name or type(given).__name__)
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return IterableSource(given, name or type(given).__name__)
    if isinstance(given, AsyncIterable):
        return AsyncIterableSource(given, name or type(given).__name__)
    raise DefinitionError(
        f"A stream cannot read from {type(given).__name__}.",
        hint="Give it a list, a generator, anything else to iterate over, or a source.",
    )
