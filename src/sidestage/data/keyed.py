"""Partitions by name instead of time, and by several things at once; all kinds of sets together."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from itertools import product
from math import prod

import msgspec

from sidestage.data.calendar import Daily, Hourly, Monthly, Weekly
from sidestage.data.partition import Partition, PartitionSet, quoted, starts_at, unknown_key, without_time
from sidestage.data.selection import MOST_SELECTED, nothing_selected, parts_of, span_of, too_many
from sidestage.errors import DefinitionError, PartitionKeyError

_LONGEST_KEY = 200
_RESERVED = frozenset("|,:/\\")
_DIMENSION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}", re.ASCII)
_SHOWN_KEYS = 5


class _Timeless(msgspec.Struct, frozen=True, dict=True):
    """Base of the sets whose partitions have no time: all of them exist at any moment."""

    @cached_property
    def partitions(self) -> dict[str, Partition]:
        """All partitions by key, in the order in which they were declared."""
        raise NotImplementedError

    @property
    def usual_length(self) -> None:
        """None: these partitions have no time."""
        return

    def parse(self, key: str) -> Partition:
        """Return the partition with this key, spelled exactly so. Raises PartitionKeyError."""
        found = self.partitions.get(key) if isinstance(key, str) else None
        if found is None:
            raise unknown_key(key, what=f"one of {self.describe()}", examples=(self.example,))
        return found

    def closed(self, now: datetime) -> Iterator[Partition]:  # noqa: ARG002 - part of the contract
        """Yield all partitions."""
        yield from self.partitions.values()

    def newest(self, moment: datetime) -> tuple[Partition, ...]:  # noqa: ARG002 - part of the contract
        """Return all partitions."""
        return tuple(self.partitions.values())

    def select(self, expression: str, now: datetime) -> tuple[Partition, ...]:  # noqa: ARG002 - contract
        """Return the partitions an expression names, as declared. Raises PartitionKeyError."""
        keys = list(self.partitions)
        chosen: set[str] = set()
        for part in parts_of(expression, self.example):
            span = span_of(part, self.example)
            first = 0 if span.first is None else self._positions[self.parse(span.first).key]
            last = len(keys) - 1 if span.last is None else self._positions[self.parse(span.last).key]
            if last < first:
                raise nothing_selected(part, self.describe(), self.example)
            chosen.update(keys[first : last + 1])
        return tuple(self.partitions[key] for key in sorted(chosen, key=self._positions.__getitem__))

    def overlapping(self, start: datetime, end: datetime) -> tuple[Partition, ...]:  # noqa: ARG002 - contract
        """Return all partitions."""
        return tuple(self.partitions.values())

    def within(self, start: datetime, end: datetime) -> tuple[Partition, ...]:  # noqa: ARG002 - contract
        """Return all partitions."""
        return tuple(self.partitions.values())

    def next(self, partition: Partition) -> None:
        """Return None: nothing follows in time."""

    def previous(self, partition: Partition) -> None:
        """Return None: nothing came before in time."""

    def around(self, key: str, before: int, after: int) -> tuple[Partition, ...]:  # noqa: ARG002 - contract
        """Raise DefinitionError: these partitions have no neighbours in time."""
        raise without_time(self.describe())

    def covers(self, other: PartitionSet) -> bool:
        """Whether all keys of the other set, which must be of the same kind, are keys of this one."""
        return type(other) is type(self) and (
            other is self or other.partitions.keys() <= self.partitions.keys()
        )

    def describe(self) -> str:
        """Say which partitions these are."""
        raise NotImplementedError

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self.partitions)}

    @property
    def example(self) -> str:
        """A key of this set."""
        return next(iter(self.partitions))


class Single(_Timeless, frozen=True, tag="single"):
    """One partition, with the key ``all``: the dataset is made anew as a whole."""

    @cached_property
    def partitions(self) -> dict[str, Partition]:
        """The one partition, by its key."""
        return {"all": Partition("all")}

    def describe(self) -> str:
        """Say which partitions these are."""
        return "a single partition, 'all'"


class Static(_Timeless, frozen=True, tag="static"):
    r"""One partition for each of some fixed names, such as regions. Raises DefinitionError for a bad name.

    A name is 1 to 200 printable characters in Unicode's form NFC, without any of ``| , : / \`` and without
    space at either end. Two names that differ only in upper and lower case are refused.
    """

    keys: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.keys, str) or not isinstance(self.keys, Sequence) or not self.keys:
            raise DefinitionError(
                "Static partitions need at least one key, in a list.", hint="Write Static(['eu', 'us'])."
            )
        seen: dict[str, str] = {}
        for key in self.keys:
            fault = _fault(key)
            if fault:
                raise PartitionKeyError(
                    f"{quoted(key)} cannot be a partition key: {fault}.", hint="Choose a name like 'eu-west'."
                )
            folded = unicodedata.normalize("NFC", key.casefold())
            if folded in seen:
                raise PartitionKeyError(
                    f"The keys {quoted(seen[folded])} and {quoted(key)} cannot be told apart everywhere.",
                    hint="Leave one of them out, or make them differ in more than case.",
                )
            seen[folded] = key
        msgspec.structs.force_setattr(self, "keys", tuple(self.keys))

    @cached_property
    def partitions(self) -> dict[str, Partition]:
        """All partitions by key, in the order in which they were declared."""
        return {key: Partition(key) for key in self.keys}

    def describe(self) -> str:
        """Say which partitions these are: 3 keys (eu, us, asia)."""
        shown = ", ".join(quoted(key) for key in self.keys[:_SHOWN_KEYS])
        more = ", ..." if len(self.keys) > _SHOWN_KEYS else ""
        return f"{len(self.keys)} fixed {'key' if len(self.keys) == 1 else 'keys'} ({shown}{more})"


def _fault(key: object) -> str:
    """Say why a text cannot be a static key; empty if it can."""
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST_KEY:
        return f"it must be a text of 1 to {_LONGEST_KEY} characters"
    faults = {
        "it means something else in paths or selections": key in {".", "..", "*"},
        "it begins or ends with space": key != key.strip(),
        "it has characters that cannot be seen": not key.isprintable(),
        "it has one of the characters | , : / \\": not _RESERVED.isdisjoint(key),
        "it is not in Unicode's form NFC": not unicodedata.is_normalized("NFC", key),
    }
    return next((fault for fault, found in faults.items() if found), "")


Dimension = Daily | Hourly | Weekly | Monthly | Static | Single
"""What may be one dimension of a product."""


class Product(msgspec.Struct, frozen=True, dict=True, tag="product"):
    """One partition for each combination, such as ``2013-01-31|eu``; at most one dimension has time.

    ``dimensions`` gives two or more sets a name each, as a dict or as pairs, and is kept as pairs. A
    partition has the time of the dimension that has one. Raises DefinitionError.
    """

    dimensions: tuple[tuple[str, Dimension], ...] | dict[str, Dimension]

    def __post_init__(self) -> None:
        given = self.dimensions
        pairs = (
            tuple(given.items())
            if isinstance(given, Mapping)
            else tuple((name, part) for name, part in given)
        )
        msgspec.structs.force_setattr(self, "dimensions", pairs)
        example = "Write Product({'day': Daily('2013-01-01'), 'region': Static(['eu', 'us'])})."
        fault = _product_fault(pairs)
        if fault:
            raise DefinitionError(f"These dimensions make no product: {fault}.", hint=example)

    @cached_property
    def parts(self) -> tuple[tuple[str, Dimension], ...]:
        """The dimensions, as (name, set) pairs."""
        return tuple(self.dimensions.items()) if isinstance(self.dimensions, dict) else self.dimensions

    @cached_property
    def timed(self) -> str | None:
        """The name of the dimension that has time."""
        return next((name for name, part in self.parts if part.usual_length is not None), None)

    @property
    def usual_length(self) -> timedelta | None:
        """How much time a partition usually covers, or None if no dimension has time."""
        return next((part.usual_length for _, part in self.parts if part.usual_length is not None), None)

    def parse(self, key: str) -> Partition:
        """Return the partition with this key, spelled exactly so. Raises PartitionKeyError."""
        return self._joined(part.parse(piece) for (_, part), piece in self._pieces(key))

    def closed(self, now: datetime) -> Iterator[Partition]:
        """Yield the combinations that have ended by ``now``, oldest first."""
        return self._combined(part.closed(now) for _, part in self.parts)

    def newest(self, moment: datetime) -> tuple[Partition, ...]:
        """Return the combinations that share the last time that has ended by ``moment``."""
        return tuple(self._combined(part.newest(moment) for _, part in self.parts))

    def select(self, expression: str, now: datetime) -> tuple[Partition, ...]:
        """Return the partitions an expression names, oldest first. Raises PartitionKeyError.

        Each dimension is selected by itself: ``2013-01:2013-03|eu``, ``*|us``. A part without ``|`` means
        the dimension that has time, and everything in the others.
        """
        found: dict[str, Partition] = {}
        for part in parts_of(expression, self.example):
            pieces = [(dimension, piece.strip(" ")) for (_, dimension), piece in self._spread(part)]
            chosen = [dimension.select(piece, now) for dimension, piece in pieces]
            if prod(map(len, chosen)) > MOST_SELECTED:
                raise too_many(part)
            found.update((partition.key, partition) for partition in self._combined(chosen))
        return tuple(sorted(found.values(), key=starts_at)) if self.timed else tuple(found.values())

    def overlapping(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that share time with [start, end); all of them if there is no time."""
        return tuple(self._combined(part.overlapping(start, end) for _, part in self.parts))

    def within(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that lie inside [start, end) entirely; all of them if there is no time."""
        return tuple(self._combined(part.within(start, end) for _, part in self.parts))

    def next(self, partition: Partition) -> Partition | None:
        """Return the one that follows in time, with the same other dimensions. Raises PartitionKeyError."""
        return self._beside(partition, 1)

    def previous(self, partition: Partition) -> Partition | None:
        """Return the one before in time, with the same other dimensions. Raises PartitionKeyError."""
        return self._beside(partition, -1)

    def around(self, key: str, before: int, after: int) -> tuple[Partition, ...]:
        """Return those from ``before`` before to ``after`` after this key, with the same other dimensions."""
        if self.timed is None:
            raise without_time(self.describe())
        return tuple(
            self._combined(
                part.around(piece, before, after) if name == self.timed else (part.parse(piece),)
                for (name, part), piece in self._pieces(key)
            )
        )

    def covers(self, other: PartitionSet) -> bool:
        """Whether the other set is a product of the same names, each dimension of which is covered."""
        if not isinstance(other, Product) or len(other.parts) != len(self.parts):
            return False
        return all(
            name == theirs and part.covers(narrower)
            for (name, part), (theirs, narrower) in zip(self.parts, other.parts, strict=True)
        )

    def narrowed(self, fixed: Mapping[str, str]) -> "Product":
        """Return the product in which dimensions without time, given by name, have only one key."""
        return Product(
            tuple(
                (name, Static((part.parse(fixed[name]).key,)) if name in fixed else part)
                for name, part in self.parts
            )
        )

    def describe(self) -> str:
        """Say which partitions these are: day (days since ...) by region (2 fixed keys ...)."""
        return " by ".join(f"{name} ({part.describe()})" for name, part in self.parts)

    @property
    def example(self) -> str:
        """A key of this set."""
        return "|".join(part.example for _, part in self.parts)

    def _beside(self, partition: Partition, step: int) -> Partition | None:
        """Return the neighbour in time, None at the bound."""
        moved: list[Partition | None] = []
        for (name, part), piece in self._pieces(partition.key):
            here = part.parse(piece)
            if name == self.timed:
                moved.append(part.next(here) if step > 0 else part.previous(here))
            else:
                moved.append(here)
        found = [partition for partition in moved if partition is not None]
        return self._joined(found) if self.timed and len(found) == len(moved) else None

    def _pieces(self, key: str) -> Iterator[tuple[tuple[str, Dimension], str]]:
        """Return each dimension with its piece of a key. Raises PartitionKeyError."""
        pieces = key.split("|", len(self.parts)) if isinstance(key, str) else []
        if len(pieces) != len(self.parts):
            names = "|".join(name for name, _ in self.parts)
            raise unknown_key(key, what=f"a key of the form {names}", examples=(self.example,))
        return zip(self.parts, pieces, strict=True)

    def _spread(self, part: str) -> Iterator[tuple[tuple[str, Dimension], str]]:
        """Return each dimension with what a part of a selection means for it. Raises PartitionKeyError."""
        if "|" not in part and (part == "*" or self.timed):
            return ((named, part if named[0] == self.timed else "*") for named in self.parts)
        return self._pieces(part)

    def _combined(self, chosen: Iterable[Iterable[Partition]]) -> Iterator[Partition]:
        """Yield all combinations of each dimension's partitions, time first."""
        columns = list(chosen)
        names = [name for name, _ in self.parts]
        position = names.index(self.timed) if self.timed else 0
        leading = columns.pop(position)
        for head, *rest in product(leading, *columns):
            yield self._joined((*rest[:position], head, *rest[position:]))

    def _joined(self, partitions: Iterable[Partition]) -> Partition:
        """Return the partition made of one partition of each dimension."""
        chosen = tuple(partitions)
        time = next((one for one in chosen if one.start is not None), None)
        return Partition(
            key="|".join(one.key for one in chosen),
            start=time.start if time else None,
            end=time.end if time else None,
            dimensions=tuple((name, one.key) for (name, _), one in zip(self.parts, chosen, strict=True)),
        )


def _product_fault(pairs: tuple[tuple[str, Dimension], ...]) -> str:
    """Say why pairs of name and set make no product; empty if they do."""
    if len(pairs) < 2:  # noqa: PLR2004 - a product has two factors
        return "there must be two or more"
    for name, part in pairs:
        if not isinstance(name, str) or not _DIMENSION_NAME.fullmatch(name):
            return f"{quoted(name)} is no name of letters, digits and underscores"
        if not isinstance(part, Dimension):
            return f"{name} is {quoted(part)}, not a set of partitions by time or name"
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        return "two of them have the same name"
    if sum(part.usual_length is not None for _, part in pairs) > 1:
        return "only one of them may have time"
    return ""


AnyPartitions = Daily | Hourly | Weekly | Monthly | Static | Single | Product
"""Every kind of partition set; JSON is read as this type."""
