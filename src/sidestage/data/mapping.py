"""Which partitions of its input a partition is made of.

A mapping is a frozen value that JSON can carry. ``check`` is for the moment the graph is built and says
what to write instead; ``upstream`` is for planning, trusts that ``check`` has passed, and takes time in
proportion to what it returns.

Where one of the two sets is a product, the dimensions of the input that the output has too keep their key:
those of the same name between two products, the one with the same partitions otherwise.
"""

from datetime import datetime
from typing import Protocol

import msgspec

from sidestage.data.keyed import Product, Single
from sidestage.data.partition import Partition, PartitionSet, starts_at
from sidestage.data.timeline import Timeline
from sidestage.errors import DefinitionError


class Mapping(Protocol):
    """Says which partitions of an input a partition of the output reads."""

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:
        """Raise DefinitionError if this mapping cannot lead from the one set to the other."""
        ...

    def upstream(
        self, partition: Partition, downstream: PartitionSet, upstream: PartitionSet, now: datetime
    ) -> tuple[Partition, ...]:
        """Return the input's partitions that ``partition`` of ``downstream`` reads, oldest first."""
        ...


class Same(msgspec.Struct, frozen=True, tag="same"):
    """The partition with the same key."""

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:
        """Raise DefinitionError unless the input has a partition for each key of the output."""
        if upstream.covers(downstream):
            return
        theirs, ours, shared = _parts(upstream), _parts(downstream), _shared(downstream, upstream)
        if all(name in shared and part.covers(ours[shared[name]]) for name, part in theirs.items()):
            return
        raise DefinitionError(
            f"The input's partitions, {upstream.describe()}, do not have a key for each of the output's, "
            f"{downstream.describe()}.",
            hint=_advice(downstream, upstream),
        )

    def upstream(
        self,
        partition: Partition,
        downstream: PartitionSet,
        upstream: PartitionSet,
        now: datetime,  # noqa: ARG002 - part of the contract
    ) -> tuple[Partition, ...]:
        """Return the input's partition with the same key."""
        if upstream == downstream:
            return (partition,)
        return (upstream.parse(_same_key(partition, downstream, upstream)),)


class Window(msgspec.Struct, frozen=True, tag="window"):
    """The partition with the same key, and some before and after it in time, as far as there are any.

    ``before`` and ``after`` count partitions of the input: ``Window(before=6)`` is the last seven days.
    """

    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if type(self.before) is not int or type(self.after) is not int or min(self.before, self.after) < 0:
            raise DefinitionError(
                "A window counts whole partitions before and after, none of them less than 0.",
                hint="Write window(..., before=6) for a partition and the six before it.",
            )

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:
        """Raise DefinitionError unless both sets are cut alike, by the same kind of time in one zone."""
        if (
            upstream.usual_length is not None
            and _parts(upstream).keys() == _shared(downstream, upstream).keys()
        ):
            return
        raise DefinitionError(
            "A window needs an input that is cut by time as the output is. "
            f"The input has {upstream.describe()}, the output {downstream.describe()}.",
            hint=_advice(downstream, upstream),
        )

    def upstream(
        self,
        partition: Partition,
        downstream: PartitionSet,
        upstream: PartitionSet,
        now: datetime,  # noqa: ARG002 - part of the contract
    ) -> tuple[Partition, ...]:
        """Return the input's partitions inside the window, oldest first."""
        return upstream.around(_same_key(partition, downstream, upstream), self.before, self.after)


class AllOf(msgspec.Struct, frozen=True, tag="all_of"):
    """All partitions of the input that start inside the time of the partition.

    Where the output has no time, all that have ended by now; where the input has none, all of them.
    """

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:
        """Raise DefinitionError if the input's partitions are longer than those of the output."""
        ours, theirs = downstream.usual_length, upstream.usual_length
        if ours is not None and theirs is not None and theirs > ours:
            raise DefinitionError(
                f"Hardly any partition of the input ({upstream.describe()}) starts inside one of the output "
                f"({downstream.describe()}), because they are longer.",
                hint=_advice(downstream, upstream),
            )

    def upstream(
        self, partition: Partition, downstream: PartitionSet, upstream: PartitionSet, now: datetime
    ) -> tuple[Partition, ...]:
        """Return the input's partitions that start inside this one, oldest first."""
        source = _narrowed(partition, downstream, upstream)
        start, end = partition.start, partition.end
        if start is None or end is None or source.usual_length is None:
            return tuple(source.closed(now))
        return tuple(found for found in source.overlapping(start, end) if starts_at(found) >= start)


class Latest(msgspec.Struct, frozen=True, tag="latest"):
    """The newest partition of the input that has ended when the partition ends, or by now if that is sooner.

    Of a product that is one for each combination of the other dimensions.
    """

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:
        """Raise DefinitionError if the input has no time, so that none is the newest."""
        if upstream.usual_length is None:
            raise DefinitionError(
                f"None of the input's partitions is the latest; they have no time: {upstream.describe()}.",
                hint=_advice(downstream, upstream),
            )

    def upstream(
        self, partition: Partition, downstream: PartitionSet, upstream: PartitionSet, now: datetime
    ) -> tuple[Partition, ...]:
        """Return the newest partition of the input; nothing if none has ended yet."""
        moment = now if partition.end is None else min(partition.end, now)
        return _narrowed(partition, downstream, upstream).newest(moment)


class Fixed(msgspec.Struct, frozen=True, tag="fixed"):
    """Always the same partition of the input, by its key."""

    key: str

    def check(self, downstream: PartitionSet, upstream: PartitionSet) -> None:  # noqa: ARG002 - contract
        """Raise PartitionKeyError, a DefinitionError, if the input has no such partition."""
        upstream.parse(self.key)

    def upstream(
        self,
        partition: Partition,  # noqa: ARG002 - part of the contract
        downstream: PartitionSet,  # noqa: ARG002 - part of the contract
        upstream: PartitionSet,
        now: datetime,  # noqa: ARG002 - part of the contract
    ) -> tuple[Partition, ...]:
        """Return that partition."""
        return (upstream.parse(self.key),)


AnyMapping = Same | Window | AllOf | Latest | Fixed

ONE_PARTITION = (Same, Latest, Fixed)
"""Mappings that give at most one partition."""
"""Every kind of mapping; JSON is read as this type."""


def default_mapping(downstream: PartitionSet, upstream: PartitionSet) -> AnyMapping:
    """Return the mapping that needs no saying. Raises DefinitionError if there is more than one choice."""
    if isinstance(upstream, Single) and not isinstance(downstream, Single):
        return Fixed(upstream.example)
    same = Same()
    same.check(downstream, upstream)
    return same


def _parts(partitions: PartitionSet) -> dict[str, PartitionSet]:
    """Return the dimensions of a set by name; a set that is no product is its only dimension, "" by name."""
    return dict(partitions.parts) if isinstance(partitions, Product) else {"": partitions}


def _alike(upstream: PartitionSet, downstream: PartitionSet) -> bool:
    """Whether a key means the same in both sets, whatever the bounds of time."""
    if isinstance(upstream, Timeline) and isinstance(downstream, Timeline):
        return type(upstream) is type(downstream) and upstream.tz == downstream.tz
    return upstream.covers(downstream)


def _shared(downstream: PartitionSet, upstream: PartitionSet) -> dict[str, str]:
    """Return which dimensions of the input the output has too: the input's name, and the output's."""
    ours, theirs = _parts(downstream), _parts(upstream)
    if isinstance(downstream, Product) and isinstance(upstream, Product):
        return {name: name for name, part in theirs.items() if name in ours and _alike(part, ours[name])}
    pairs = [(name, own) for name in theirs for own in ours if _alike(theirs[name], ours[own])]
    # Of two dimensions with the same partitions nobody can say which is meant.
    return dict(pairs) if len(pairs) == 1 else {}


def _same_key(partition: Partition, downstream: PartitionSet, upstream: PartitionSet) -> str:
    """Return the key in the input that stands for the same as the partition's key in the output."""
    if not isinstance(downstream, Product) and not isinstance(upstream, Product):
        return partition.key
    shared = _shared(downstream, upstream)
    return "|".join(_key_of(partition, shared[name]) for name in _parts(upstream))


def _key_of(partition: Partition, dimension: str) -> str:
    return partition.dimension(dimension) if dimension else partition.key


def _narrowed(partition: Partition, downstream: PartitionSet, upstream: PartitionSet) -> PartitionSet:
    """Return the input with the keys fixed that it shares with the partition, except by time."""
    if not isinstance(upstream, Product):
        return upstream
    shared = _shared(downstream, upstream)
    fixed = {name: _key_of(partition, own) for name, own in shared.items() if name != upstream.timed}
    return upstream.narrowed(fixed) if fixed else upstream


def _advice(downstream: PartitionSet, upstream: PartitionSet) -> str:
    """Say what to write instead of a mapping that does not fit."""
    ours, theirs = downstream.usual_length, upstream.usual_length
    if isinstance(upstream, Single):
        return "Write fixed(..., 'all')."
    if theirs is None:
        return f"Write all_of(...) for all of them, or fixed(..., {upstream.example!r}) for one."
    if ours is not None and theirs > ours:
        return (
            f"Write latest(...) for the newest that had ended, or fixed(..., {upstream.example!r}) for one."
        )
    if ours is not None and _parts(upstream).keys() == _shared(downstream, upstream).keys():
        return (
            "Let the input start and end with the output or outside it, or write window(...) for what it has."
        )
    inside = "all that have ended" if ours is None else "those inside each of the output's"
    return f"Write all_of(...) for {inside}, or latest(...) for the newest."
