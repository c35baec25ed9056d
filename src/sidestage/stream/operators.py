"""Stages as they run: each takes a chunk, does its work on every item, and pushes what came of it on.

A stage calls the next one itself: stages without a boundary between them cost one call per chunk and stage.
Every item has its own ``try``, which costs about ten nanoseconds; clocks are read once per chunk and stage.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice, repeat
from time import perf_counter
from types import CoroutineType
from typing import Any, NamedTuple, Protocol

from sidestage.errors import TaskError
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, GivenUp, Stopped
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.walking import Walk

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


class End:
    """Base of where chunks leave a segment: nothing is held back, so nothing is ever due."""

    def due(self) -> float | None:
        """Return None."""

    def tick(self, now: float) -> None:
        """Do nothing."""


class Onward:
    """Base of stages that hold nothing back: what is due, flushed and finished is so further on."""

    def __init__(self, meter: Meter, following: Step) -> None:
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

    def _push_part(self, part: Chunk) -> None:
        """Push on one of several parts of a chunk; the others go on with the trace as it was before."""
        part.trail = self._meter.trail(part)
        self._next.push(part)
        self._meter.follow(part.trail)

    def _hand_on(self, chunk: Chunk, came: int, began: float) -> None:
        """Count, and give the chunk to the next stage unless nothing is left of it."""
        self._meter.took(came, perf_counter() - began)
        if chunk.items:
            self._next.push(chunk)
        else:
            chunk.settle()


class Operator(Onward):
    """Base of stages that call a function with each item. ``desk`` hears of failures."""

    def __init__(self, function: Callable[[Any], Any], desk: Desk, meter: Meter, following: Step) -> None:
        super().__init__(meter, following)
        self._function = function
        self._desk = desk
        self._walk = Walk(desk.halt)


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
        for item in self._walk.through(items):
            try:
                keep(function(item))
            except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
                index = len(made) + len(gone)
                kept = self._desk.meet(chunk, index, item, error, function)
                if kept.gone:
                    gone.append(index)
                else:
                    keep(kept.value)
        if len(made) + len(gone) < len(items):
            raise Stopped
        if made and type(made[-1]) is CoroutineType:
            raise _unawaited(function, made)
        chunk.become(made, gone)
        self._hand_on(chunk, len(items), began)


def _unawaited(function: Callable[[Any], Any], made: Sequence[Any]) -> TaskError:
    """Return the error of a function that returns coroutines, and is none that can be known by itself."""
    for each in made:
        if type(each) is CoroutineType:
            each.close()
    name = getattr(function, "__name__", type(function).__name__)
    return TaskError(
        f"{name!r} returns coroutines, for which nobody waits.",
        hint="Give map() a coroutine function itself, or an object whose __call__ is one.",
    )


class FilterOperator(Operator):
    """Lets items pass for which its function returns something true."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        function = self._function
        items = chunk.items
        passes: list[Any] = []
        note = passes.append
        for item in self._walk.through(items):
            try:
                note(bool(function(item)))
            except BaseException as error:  # noqa: BLE001
                kept = self._desk.meet(chunk, len(passes), item, error, lambda it: bool(function(it)))
                note(not kept.gone and bool(kept.value))
        if len(passes) < len(items):
            raise Stopped
        chunk.items = list(compress(items, passes))
        if len(chunk.items) != len(items) and len(chunk.tickets) == 1:
            chunk.origins = list(
                compress(range(len(items)) if chunk.origins is None else chunk.origins, passes)
            )
        self._hand_on(chunk, len(items), began)


class Begun(NamedTuple):
    """The first items of what one item makes, and where the others come from."""

    items: Iterable[Any]
    rest: Iterator[Any] | None


class FlatMapOperator(Operator):
    """Makes any number of items of each. What one item makes may be more than memory holds."""

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        came = len(chunk.items)
        made: list[Any] = []
        counts: list[int] = []
        index = -1
        for index, item in enumerate(self._walk.through(chunk.items)):
            before = len(made)
            several = self._begun(chunk, index, item)
            made.extend(several.items)
            counts.append(len(made) - before)
            while several.rest is not None:
                self._pass_on_part(chunk, index + 1, made, counts)
                several = self._more(chunk, index, item, several.rest)
                made = list(several.items)
                counts = [len(made)]
            if len(made) >= MOST_AT_ONCE and index + 1 < came:
                self._pass_on_part(chunk, index + 1, made, counts)
                made, counts = [], []
        if index + 1 < came:
            raise Stopped
        self._relabel(chunk, came - len(counts), counts)
        chunk.items, chunk.weight = made, 0
        self._hand_on(chunk, came, began)

    def _begun(self, chunk: Chunk, index: int, item: Any) -> Begun:
        try:
            return self._first(item)
        except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
            kept = self._desk.meet(chunk, index, item, error, self._first)
        if kept.gone:
            return Begun((), None)
        return kept.value if isinstance(kept.value, Begun) else Begun(kept.value, None)

    def _first(self, item: Any) -> Begun:
        several = self._function(item)
        if type(several) is list:
            return Begun(several, None)
        iterator = iter(several)
        items = list(islice(iterator, MOST_AT_ONCE))
        return Begun(items, iterator if len(items) == MOST_AT_ONCE else None)

    def _more(self, chunk: Chunk, index: int, item: Any, rest: Iterator[Any]) -> Begun:
        """Return what comes next of an item, of which some has been passed on: it is not begun again."""
        items: list[Any] = []
        try:
            items.extend(islice(rest, MOST_AT_ONCE))
        except Exception as error:  # noqa: BLE001
            self._desk.decide(chunk, index, item, GivenUp(error, 1))
            return Begun(items, None)
        return Begun(items, rest if len(items) == MOST_AT_ONCE else None)

    def _pass_on_part(self, chunk: Chunk, upto: int, made: list[Any], counts: list[int]) -> None:
        """Push on what was made of the items before ``upto``, in a chunk of its own."""
        chunk.hold()
        part = Chunk(made, chunk.tickets, chunk.born, chunk.origins)
        self._relabel(part, upto - len(counts), counts)
        self._push_part(part)

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
            copied.trail = chunk.trail
            copied.weight = chunk.weight
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
