"""Sources that are iterators: each is read by a thread of its own, since nobody knows how long it takes."""

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Batch, Position, Positions

PART = "all"
_SLICE = 256
_MOST_AHEAD = 4096
"""How many items are taken from an iterator before somebody wants them."""

_FEW = 64
"""Who asks for fewer at once has large items: no more than that is taken ahead."""

_LOOK_SECONDS = 0.05
_END_SECONDS = 0.5
PATIENCE_SECONDS = 1.0
"""How long an iterator may take to finish what it is at, once nothing more is wanted of it."""


class IterableSource:
    """Items that an iterator makes, in a thread of its own: nobody knows how long the next one takes.

    Positions count items. Resumed, it makes those again that were dealt with, and passes over them.
    """

    def __init__(self, items: Iterable[Any], name: str) -> None:
        self._items = items
        self.name = name

    def open(self, resume: Positions) -> "IterableReader":
        """Begin to read."""
        return IterableReader(iter(self._items), count_of(resume, self.name), self.name)


class IterableReader:
    """Reads an iterator ahead, by a bounded number of items; what waits is handed over at once."""

    def __init__(self, items: Iterator[Any], at: int, name: str) -> None:
        self._items = items
        self._at = at
        self._name = name
        self._waiting: deque[Any] = deque()
        self._came = threading.Event()
        self._went = threading.Event()
        self._hungry = [True]  # whether to be woken by the next item; a list, which is read without a lock
        self._over = False
        self._closed = False
        self._most_ahead = 1  # until somebody says how much is wanted
        self._error: BaseException | None = None
        self._clean_up_error: BaseException | None = None
        self._is_told = False
        self._given_up_at: float | None = None
        self.thread = threading.Thread(target=self._pull, name=f"{name} reader", daemon=True)
        self.thread.start()

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return what waits; or what comes first within ``wait`` seconds. Raises what the iterator raised."""
        waiting = self._waiting
        self._most_ahead = min(_MOST_AHEAD, limit if limit < _FEW else 4 * limit)
        if not waiting and not self._over:
            self._make_room()
            self._came.clear()
            self._hungry[0] = True
            if not waiting and not self._over:
                self._came.wait(wait)
        over = self._over  # before looking: what comes after this is for the next time
        take = waiting.popleft
        items = [take() for _ in range(min(len(waiting), limit))]
        self._make_room()
        if items:
            first, self._at = self._at, self._at + len(items)
            return (Batch(PART, first, items, self._at),)
        if not over:
            return None if self._is_given_up() else ()
        if self._error is not None:
            self._is_told = True
            raise self._error
        return None

    @property
    def ahead(self) -> int:
        """How many items were taken that nobody has read."""
        return len(self._waiting)

    def stop(self) -> None:
        """Take nothing more from the iterator; what was taken is still read.

        An iterator that is at work on an item may finish it within a second, and is left alone then.
        """
        self._closed = True
        self._given_up_at = time.monotonic() + PATIENCE_SECONDS
        self._hungry[0] = True
        self._make_room()

    def commit(self, positions: Positions) -> None:
        """Note how far everything has been dealt with: an iterator does not want to know."""

    def lost(self) -> Collection[str]:
        """Return nothing: nobody else reads it."""
        return ()

    def close(self) -> None:
        """Stop reading, and close a generator; one that is waiting for something hears of it later.

        Raises what closing it raises.
        """
        self._closed = True
        self._hungry[0] = True  # so that the next item is looked at
        self._went.set()
        self.thread.join(_END_SECONDS)
        error, self._clean_up_error = self._clean_up_error, None
        if error is not None:
            raise error

    def _make_room(self) -> None:
        self._went.set()

    def _is_given_up(self) -> bool:
        return self._given_up_at is not None and time.monotonic() >= self._given_up_at

    def _pull(self) -> None:
        items = self._items
        try:
            passed = 0
            for _ in islice(items, self._at):
                if self._closed:
                    return
                passed += 1
            if passed < self._at:
                raise too_short(self._name, passed, self._at)  # noqa: TRY301 - told to whoever reads
            while not self._closed and self._pull_some():
                self._wait_for_room()
        except BaseException as error:  # noqa: BLE001 - told to whoever reads
            self._error = error
        finally:
            self._over = True
            self._came.set()
            if self._closed:
                self._clean_up(items)

    def _clean_up(self, items: Iterator[Any]) -> None:
        close = getattr(items, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException as error:  # noqa: BLE001 - told to whoever closes
            self._clean_up_error = error

    def _pull_some(self) -> bool:
        """Take some items; return whether there may be more."""
        put, hungry, came = self._waiting.append, self._hungry, 0
        most = max(1, min(_SLICE, self._most_ahead - len(self._waiting)))
        for item in islice(self._items, most):
            put(item)
            came += 1
            if hungry[0]:
                hungry[0] = False
                self._came.set()
                if self._closed:
                    return False
        return came == most

    def _wait_for_room(self) -> None:
        while len(self._waiting) >= self._most_ahead and not self._closed:
            self._went.clear()
            if len(self._waiting) >= self._most_ahead:
                self._went.wait(_LOOK_SECONDS)


def too_short(name: str, found: int, at: int) -> DataError:
    """Return the error of a source that has fewer items than were dealt with before."""
    return DataError(
        f"{name} has {found:,} items, and {at:,} of them were dealt with before.",
        hint="An iterator gives its items once. If it was made anew, these are other items, or the "
        "checkpoint is of another stream.",
    )


def count_of(resume: Positions, name: str) -> int:
    """Return how many items were dealt with. Raises DefinitionError if the position says nothing of that."""
    position: Position = resume.get(PART, 0)
    if not isinstance(position, int) or position < 0:
        raise DefinitionError(
            f"{name} cannot go on from {position!r}: its positions count items.",
            hint="The checkpoint belongs to another source.",
        )
    return position
