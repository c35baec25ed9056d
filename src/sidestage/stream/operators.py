"""Stages as they run: each takes a chunk, does its work on every item, and pushes what came of it on.

A stage calls the next one itself: stages without a boundary between them cost one call per chunk and stage.
Every item has its own ``try``, which costs about ten nanoseconds; clocks are read once per chunk and stage.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress, repeat
from time import perf_counter
from typing import Any, Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk
from sidestage.stream.metrics import Meter

MOST_AT_ONCE = 8192
"""How many items a stage that makes several of one hands on at most in one chunk."""


class Step(Protocol):
    """What a chunk can be pushed into."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk, and see to it that it is settled in the end."""
        ...

    def due(self) -> float | None:
        """Return when ``tick`` is to be called, in seconds of the monotonic clock."""
        ...

    def tick(self, now: float) -> None:
        """Do what has become due."""
        ...

    def flush(self) -> None:
        """Push on what is held back only to be put together with more. Windows stay open."""
        ...

    def finish(self) -> None:
        """Push on all that is held back: nothing more comes."""
        ...


class Operator:
    """Base of stages that hold nothing back. ``meter`` counts, ``desk`` hears of failures."""

    def __init__(self, function: Callable[[Any], Any], desk: Desk, meter: Meter, following: Step) -> None:
        self._function = function
        self._desk = desk
        self._meter = meter
        self._next = following

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        raise NotImplementedError

    def due(self) -> float | None:
        """Return when something is due further on."""
        return self._next.due()

    def tick(self, now: float) -> None:
        """Do what is due further on."""
        self._next.tick(now)

    def flush(self) -> None:
        """Have what follows pass on what it holds."""
        self._next.flush()

    def finish(self) -> None:
        """Finish what follows."""
        self._next.finish()

    def _hand_on(self, chunk: Chunk, came: int, began: float) -> None:
        """Count, and give the chunk to the next stage unless nothing is left of it."""
        self._meter.took(came, perf_counter() - began)
        if chunk.items:
            self._next.push(chunk)
        else:
            chunk.settle()


class MapOperator(Operator):
    """Makes one item of each."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        function = self._function
        items = chunk.items
        made: list[Any] = []
        keep = made.append
        gone: list[int] = []
        for item in items:
            try:
                keep(function(item))
            except Exception as error:  # noqa: BLE001 - the one item is all that is lost
                index = len(made) + len(gone)
                kept = self._desk.meet(chunk, index, item, error, function)
                if kept.gone:
                    gone.append(index)
                else:
                    keep(kept.value)
        if gone:
            chunk.without(frozenset(gone))
        chunk.items = made
        self._hand_on(chunk, len(items), began)


class FilterOperator(Operator):
    """Lets items pass for which its function returns something true."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        function = self._function
        items = chunk.items
        passes: list[Any] = []
        note = passes.append
        for item in items:
            try:
                note(function(item))
            except Exception as error:  # noqa: BLE001
                kept = self._desk.meet(chunk, len(passes), item, error, function)
                note(not kept.gone and kept.value)
        chunk.items = list(compress(items, passes))
        if len(chunk.items) != len(items) and len(chunk.tickets) == 1:
            chunk.origins = list(
                compress(range(len(items)) if chunk.origins is None else chunk.origins, passes)
            )
        self._hand_on(chunk, len(items), began)


class FlatMapOperator(Operator):
    """Makes any number of items of each. What one item makes may be more than memory holds."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        function = self._function
        items, came = chunk.items, len(chunk.items)
        made: list[Any] = []
        counts: list[int] = []
        for index, item in enumerate(items):
            try:
                several: Iterable[Any] = function(item)
                if type(several) is not list:
                    several = self._bounded(chunk, index, several, made, counts)
            except Exception as error:  # noqa: BLE001
                kept = self._desk.meet(chunk, index, item, error, lambda it: list(function(it)))
                several = () if kept.gone else kept.value
            before = len(made)
            made.extend(several)
            counts.append(len(made) - before)
            if len(made) >= MOST_AT_ONCE and index + 1 < came:
                self._pass_on_part(chunk, index + 1, made, counts)
                made, counts = [], []
        self._relabel(chunk, came - len(counts), counts)
        chunk.items = made
        self._hand_on(chunk, came, began)

    def _bounded(
        self, chunk: Chunk, index: int, several: Iterable[Any], made: list[Any], counts: list[int]
    ) -> list[Any]:
        """Return what an iterator has left to give, after passing on what is too much for one chunk."""
        iterator = iter(several)
        held: list[Any] = []
        for each in iterator:
            held.append(each)
            if len(held) >= MOST_AT_ONCE:
                if made:
                    self._pass_on_part(chunk, index, made[:], counts[:])
                    made.clear()
                    counts.clear()
                self._pass_on_part(chunk, index + 1, held, [len(held)])
                held = []
        return held

    def _pass_on_part(self, chunk: Chunk, upto: int, made: list[Any], counts: list[int]) -> None:
        """Push on what was made of the items before ``upto``, in a chunk of its own."""
        chunk.hold()
        part = Chunk(made, chunk.tickets, chunk.born, chunk.origins)
        self._relabel(part, upto - len(counts), counts)
        self._next.push(part)

    @staticmethod
    def _relabel(chunk: Chunk, first: int, counts: Sequence[int]) -> None:
        if len(chunk.tickets) == 1:
            origins = chunk.origins or range(first + len(counts))
            labels = map(repeat, origins[first : first + len(counts)], counts)
            chunk.origins = list(chain.from_iterable(labels))


class Copies:
    """Gives each chunk to several followers; each gets a list of its own, of the same items."""

    def __init__(self, followers: Sequence[Step]) -> None:
        self._first, *self._others = followers

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        chunk.hold(len(self._others))
        for other in self._others:
            origins = None if chunk.origins is None else list(chunk.origins)
            copied = Chunk(list(chunk.items), chunk.tickets, chunk.born, origins)
            copied.sequence = chunk.sequence
            other.push(copied)
        self._first.push(chunk)

    def due(self) -> float | None:
        """Return when something is due further on."""
        times = [due for each in (self._first, *self._others) if (due := each.due()) is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what is due further on."""
        for each in (self._first, *self._others):
            each.tick(now)

    def flush(self) -> None:
        """Have all that follow pass on what they hold."""
        for each in (self._first, *self._others):
            each.flush()

    def finish(self) -> None:
        """Finish what follows."""
        for each in (self._first, *self._others):
            each.finish()
