# ruff: noqa: D102 - what the methods do is said once, in the contract
"""What is kept per window and key: counts, totals, extremes, lists, sets, and what users make themselves.

An aggregate is a frozen description; what it keeps (its state) belongs to whoever calls it. ``add`` returns
the new state, and raises before it has changed anything.
"""

from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.windows.aggregate import Aggregate, bytes_of

NUMBER_BYTES = 28
"""Bytes of one number, as Python keeps it."""

_SLOT_BYTES = 8
_SET_SLOT_BYTES = 80  # an entry of a set that has just grown


class _Described(msgspec.Struct, frozen=True):
    """What most aggregates have in common: a state of one number, never changed in place."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def growing(self) -> bool:
        return False

    @property
    def in_place(self) -> bool:
        return False

    def of_item(self, item: Any) -> Any:
        return item

    def ready(self, state: Any, value: Any) -> None:
        """Raise nothing."""

    def size(self, state: Any) -> int:  # noqa: ARG002 - the same for all
        return NUMBER_BYTES


class _OfItem(_Described, frozen=True):
    """An aggregate of something that a function takes from each item; None: of the item itself."""

    of: Callable[[Any], Any] | None = None

    def of_item(self, item: Any) -> Any:
        return item if self.of is None else self.of(item)


class Count(_Described, frozen=True):
    """How many items."""

    def zero(self) -> int:
        return 0

    def of_item(self, item: Any) -> None:
        """Nothing of an item matters."""

    def add(self, state: int, value: object) -> int:  # noqa: ARG002 - any value counts
        return state + 1

    def merge(self, one: int, other: int) -> int:
        return one + other

    def result(self, state: int) -> int:
        return state


class Total(_OfItem, frozen=True):
    """The sum, added up in the order in which items came; whole numbers stay whole."""

    def zero(self) -> int:
        return 0

    def add(self, state: Any, value: Any) -> Any:
        return state + value

    def merge(self, one: Any, other: Any) -> Any:
        return one + other

    def result(self, state: Any) -> Any:
        return state


class Extreme(_OfItem, frozen=True, kw_only=True):
    """The smallest or largest value; of equal ones the first."""

    greatest: bool

    @property
    def name(self) -> str:
        return "largest" if self.greatest else "smallest"

    def zero(self) -> tuple[Any, ...]:
        return ()

    def add(self, state: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        if value is None or value != value:  # noqa: PLR0124 - only nan differs from itself
            raise ValueError(f"{value!r} cannot be compared, so it is not {self.name} of anything.")
        if not state:
            return (value,)
        better = value > state[0] if self.greatest else value < state[0]
        return (value,) if better else state

    def merge(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.add(one, other[0]) if other else one

    def result(self, state: tuple[Any, ...]) -> Any:
        return state[0] if state else None


class Mean(_OfItem, frozen=True):
    """The arithmetic mean."""

    def zero(self) -> tuple[Any, int]:
        return (0, 0)

    def add(self, state: tuple[Any, int], value: Any) -> tuple[Any, int]:
        return (state[0] + value, state[1] + 1)

    def merge(self, one: tuple[Any, int], other: tuple[Any, int]) -> tuple[Any, int]:
        return (one[0] + other[0], one[1] + other[1])

    def result(self, state: tuple[Any, int]) -> Any:
        return state[0] / state[1] if state[1] else None

    def size(self, state: tuple[Any, int]) -> int:  # noqa: ARG002 - the same for all
        return 4 * NUMBER_BYTES


class Collect(_OfItem, frozen=True, kw_only=True):
    """The first ``limit`` values, in the order in which they came."""

    limit: int

    @property
    def growing(self) -> bool:
        return True

    @property
    def in_place(self) -> bool:
        return True

    def zero(self) -> list[Any]:
        return [[], 0]

    def add(self, state: list[Any], value: Any) -> list[Any]:
        if len(state[0]) < self.limit:
            state[0].append(value)
            state[1] += _SLOT_BYTES + bytes_of(value)
        return state

    def merge(self, one: list[Any], other: list[Any]) -> list[Any]:
        merged: list[Any] = [list(one[0]), one[1]]
        for value in other[0]:
            self.add(merged, value)
        return merged

    def result(self, state: list[Any]) -> tuple[Any, ...]:
        return tuple(state[0])

    def size(self, state: list[Any]) -> int:
        return 120 + int(state[1])


class Distinct(_OfItem, frozen=True, kw_only=True):
    """How many different values, counted exactly."""

    limit: int

    @property
    def growing(self) -> bool:
        return True

    @property
    def in_place(self) -> bool:
        return True

    def zero(self) -> list[Any]:
        return [set(), 0]

    def ready(self, state: list[Any], value: Any) -> None:
        if value not in state[0] and len(state[0]) >= self.limit:
            raise ValueError(f"The window holds {self.limit:,} different values already, its limit.")

    def add(self, state: list[Any], value: Any) -> list[Any]:
        if value not in state[0]:
            self.ready(state, value)
            state[0].add(value)
            state[1] += _SET_SLOT_BYTES + bytes_of(value)
        return state

    def merge(self, one: list[Any], other: list[Any]) -> list[Any]:
        return [one[0] | other[0], one[1] + other[1]]

    def result(self, state: list[Any]) -> int:
        return len(state[0])

    def size(self, state: list[Any]) -> int:
        return 240 + int(state[1])


class Fold(_Described, frozen=True):
    """An aggregate of one's own.

    ``zero()`` makes the state of an empty window; ``add(state, value)`` returns the next one and leaves the
    old one as it was; ``merge(one, other)`` returns that of two sessions which became one; ``result(state)``
    what is given out. ``of`` takes the value from an item (None: the item itself). ``weight(state)``
    estimates bytes, in constant time; without it each state counts as 64. Snapshots pickle states.
    """

    zero: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]
    of: Callable[[Any], Any] | None = None
    weight: Callable[[Any], int] | None = None

    @property
    def growing(self) -> bool:
        return self.weight is not None

    def of_item(self, item: Any) -> Any:
        return item if self.of is None else self.of(item)

    def size(self, state: Any) -> int:
        return 64 if self.weight is None else self.weight(state)


class Together(_Described, frozen=True):
    """Several aggregates of the same items; the result is a dict by their names."""

    parts: tuple[tuple[str, Aggregate], ...]
    changing: bool
    """Whether any part changes its state in place."""

    @property
    def name(self) -> str:
        return f"together({', '.join(f'{name}={part.name}' for name, part in self.parts)})"

    @property
    def growing(self) -> bool:
        return any(part.growing for _, part in self.parts)

    @property
    def in_place(self) -> bool:
        return self.changing

    def of_item(self, item: Any) -> tuple[Any, ...]:
        return tuple([part.of_item(item) for _, part in self.parts])

    def zero(self) -> tuple[Any, ...]:
        return tuple(part.zero() for _, part in self.parts)

    def ready(self, state: tuple[Any, ...], value: tuple[Any, ...]) -> None:
        for (_, part), own, given in zip(self.parts, state, value, strict=True):
            if part.in_place:
                part.ready(own, given)
            else:
                part.add(own, given)

    def add(self, state: tuple[Any, ...], value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.changing:
            pairs = zip(self.parts, state, value, strict=True)
            return tuple([part.add(own, given) for (_, part), own, given in pairs])
        triples = list(zip((part for _, part in self.parts), state, value, strict=True))
        for part, own, given in triples:
            part.ready(own, given)
        # What may still fail and changes nothing comes first.
        added = [own if part.in_place else part.add(own, given) for part, own, given in triples]
        for place, (part, own, given) in enumerate(triples):
            if part.in_place:
                added[place] = part.add(own, given)
        return tuple(added)

    def merge(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part.merge(a, b) for (_, part), a, b in zip(self.parts, one, other, strict=True))

    def result(self, state: tuple[Any, ...]) -> dict[str, Any]:
        return {name: part.result(own) for (name, part), own in zip(self.parts, state, strict=True)}

    def size(self, state: tuple[Any, ...]) -> int:
        return 40 + sum(8 + part.size(own) for (_, part), own in zip(self.parts, state, strict=True))


def count() -> Count:
    """Count items."""
    return Count()


def total(of: Callable[[Any], Any] | None = None) -> Total:
    """Add up what ``of`` returns for each item (None: the items themselves)."""
    return Total(of)


def smallest(of: Callable[[Any], Any] | None = None) -> Extreme:
    """Keep the smallest value; None and nan are refused, item by item."""
    return Extreme(of, greatest=False)


def largest(of: Callable[[Any], Any] | None = None) -> Extreme:
    """Keep the largest value; None and nan are refused, item by item."""
    return Extreme(of, greatest=True)


def mean(of: Callable[[Any], Any] | None = None) -> Mean:
    """Keep the arithmetic mean."""
    return Mean(of)


def collect(limit: int, of: Callable[[Any], Any] | None = None) -> Collect:
    """Keep the first ``limit`` values of a window; the count of the window tells how many came.

    Raises DefinitionError for a limit below one.
    """
    return Collect(of, limit=_limit("collect", limit))


def distinct(of: Callable[[Any], Hashable] | None = None, limit: int = 10_000) -> Distinct:
    """Count different values exactly. An item that would be one more than ``limit`` is refused with an error.

    Sessions that become one may hold more than the limit. Raises DefinitionError for a limit below one.
    """
    return Distinct(of, limit=_limit("distinct", limit))


def together(**parts: Aggregate) -> Together:
    """Keep several aggregates at once: ``together(clicks=count(), spent=total(of=price))``.

    Raises DefinitionError for none.
    """
    if not parts:
        raise DefinitionError(
            "together() was given no aggregates.", hint="Name some: together(clicks=count())."
        )
    return Together(tuple(parts.items()), any(part.in_place for part in parts.values()))


def is_plain(aggregate: Aggregate) -> bool:
    """Return whether adding a value calls no user's function and changes nothing in place.

    Then a whole chunk may be tried at once, and again item by item if that fails.
    """
    if isinstance(aggregate, Together):
        return all(is_plain(part) for _, part in aggregate.parts)
    return isinstance(aggregate, Count | Total | Extreme | Mean)


def _limit(what: str, limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DefinitionError(
            f"{what}(limit={ascii(limit)[:60]}) makes no sense.", hint="Give a whole number above zero."
        )
    return limit
