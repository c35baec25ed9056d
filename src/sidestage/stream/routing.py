"""Ways that part: items that go to one of several, and what leaves a stage beside its results."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from sidestage.errors import DataError
from sidestage.stream.chunk import Chunk
from sidestage.stream.columns.frames import weight_of
from sidestage.stream.failing import Desk
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import End, Step
from sidestage.stream.shape_nodes import port_to


class Away(End):
    """Where items go that nobody wants: they have been dealt with."""

    def push(self, chunk: Chunk) -> None:
        """Settle a chunk."""
        chunk.settle()

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def finish(self) -> None:
        """Do nothing."""


class Fork:
    """What follows a stage that has results, and ``sides`` by the name of their port.

    Results are pushed into it, what leaves by a side into that; all else is done for all of them.
    """

    def __init__(self, results: Step, sides: Mapping[str, Step]) -> None:
        self.push = results.push
        self.sides = sides
        self._all = (results, *sides.values())

    def due(self) -> float | None:
        """Return when something is due further on."""
        times = [due for each in self._all if (due := each.due()) is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what is due further on."""
        for each in self._all:
            each.tick(now)

    def flush(self) -> None:
        """Have all that follow pass on what they hold."""
        for each in self._all:
            each.flush()

    def finish(self) -> None:
        """Finish what follows."""
        for each in self._all:
            each.finish()


class RouteOperator:
    """Gives each item to one of the ways that are called ``names``. What nobody follows is settled."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        names: frozenset[str],
        desk: Desk,
        meter: Meter,
        following: Fork,
    ) -> None:
        self._function = function
        self._names = names
        self._desk = desk
        self._meter = meter
        self._next = following
        self._away = Away()
        self.due = following.due
        self.tick = following.tick
        self.flush = following.flush
        self.finish = following.finish

    def push(self, chunk: Chunk) -> None:
        """Take a chunk apart; a part keeps the order of its items."""
        began = perf_counter()
        parts = self._parts(chunk)
        self._meter.took(len(chunk.items), perf_counter() - began)
        trail = self._meter.trail(chunk)
        for name, part in parts:
            part.trail = trail
            self._meter.follow(trail)
            self._next.sides.get(port_to(name), self._away).push(part)
        chunk.settle()

    def _parts(self, chunk: Chunk) -> list[tuple[str, Chunk]]:
        """Return a chunk for each way that some items take, all held."""
        places: dict[str, list[int]] = {}
        for index, item in enumerate(chunk.items):
            try:
                name = self._name(item)
            except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
                kept = self._desk.meet(chunk, index, item, error, self._name)
                if kept.gone:
                    continue
                name = self._known(kept.value)
            places.setdefault(name, []).append(index)
        chunk.hold(len(places))
        return [(name, _part(chunk, indices)) for name, indices in places.items()]

    def _name(self, item: Any) -> str:
        return self._known(self._function(item))

    def _known(self, name: Any) -> str:
        if name not in self._names:
            raise DataError(
                f"There is no way that is called {name!r}.",
                hint=f"The function of route() returns one of {', '.join(sorted(self._names))}.",
            )
        known: str = name
        return known


def _part(chunk: Chunk, indices: list[int]) -> Chunk:
    """Return the items at these indices, with what is known of them."""
    items = chunk.items
    if len(indices) == len(items):
        part = Chunk(list(items), chunk.tickets, chunk.born, chunk.origins)
        part.weight = chunk.weight
        return part
    single = len(chunk.tickets) == 1
    origins = range(len(items)) if chunk.origins is None else chunk.origins
    labels = [origins[index] for index in indices] if single else None
    part = Chunk([items[index] for index in indices], chunk.tickets, chunk.born, labels)
    if chunk.weight:
        part.weight = weight_of(part.items)
    return part


def two_ways(function: Callable[[Any], object]) -> Callable[[Any], str]:
    """Return a function of an item that says yes or no."""

    def way(item: Any) -> str:
        return "yes" if function(item) else "no"

    return way
