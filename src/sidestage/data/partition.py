"""What a partition is, and the contract of a set of partitions."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Protocol

import msgspec

from sidestage.errors import DefinitionError, PartitionKeyError

_QUOTED = 40


class Partition(msgspec.Struct, frozen=True):
    """The slice of a dataset that one step makes, such as a day.

    ``start`` and ``end`` bound its time, half-open, or are both None where the partition has no time. They
    show the local time of the set's zone with a fixed UTC offset, so that ``end - start`` is the time that
    really passed (23 hours on the day the clocks go forward). ``dimensions`` holds (name, key) pairs, for
    partitions of a product only.
    """

    key: str
    start: datetime | None = None
    end: datetime | None = None
    dimensions: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.key

    @property
    def date(self) -> date:
        """The local calendar date on which the partition starts. Raises DefinitionError if it has no time."""
        if self.start is None:
            raise DefinitionError(
                f"Partition {quoted(self.key)} has no date, because its set is not cut by time.",
                hint="Use its key, or declare the dataset with Daily, Hourly, Weekly or Monthly partitions.",
            )
        return self.start.date()

    def dimension(self, name: str) -> str:
        """Return the key of one dimension of a product. Raises DefinitionError if there is none."""
        for known, key in self.dimensions:
            if known == name:
                return key
        known_names = ", ".join(known for known, _ in self.dimensions) or "none"
        raise DefinitionError(
            f"Partition {quoted(self.key)} has no dimension {quoted(name)}.",
            hint=f"Its dimensions are: {known_names}.",
        )


class PartitionSet(Protocol):
    """Which partitions a dataset has.

    A set is a frozen value that JSON can carry, and it never reads the clock: ``now`` is an argument.
    Partitions of a set that has time cover the time between its bounds without gap or overlap. Every
    moment passed in must be aware. No method but ``closed`` and ``select`` may take time that grows with
    the number of partitions it does not return.
    """

    @property
    def example(self) -> str:
        """A key of this set, for messages."""
        ...

    @property
    def usual_length(self) -> timedelta | None:
        """How much time a partition usually covers, or None if the set has no time."""
        ...

    def parse(self, key: str) -> Partition:
        """Return the partition with this key, spelled exactly so. Raises PartitionKeyError."""
        ...

    def closed(self, now: datetime) -> Iterator[Partition]:
        """Yield the partitions that have ended by ``now``, oldest first; all of them if there is no time."""
        ...

    def newest(self, moment: datetime) -> tuple[Partition, ...]:
        """Return the last partition that has ended by ``moment`` (in a product, all that share that time)."""
        ...

    def select(self, expression: str, now: datetime) -> tuple[Partition, ...]:
        """Return the partitions an expression names, oldest first, each once. Raises PartitionKeyError.

        ``A`` is one key, ``A:B`` all from A to B, ``A:`` from A to the last that has ended by ``now``,
        ``:B`` from the first, ``*`` all that have ended; commas join several. Where the set has time, A and
        B may also be any year, month, ISO week, day or hour: ``2013``, ``2013-03``, ``2013-W05``,
        ``2013-03-10``, ``2013-03-10T01``; that means every partition of the set that overlaps it. Only an
        open end and ``*`` look at ``now``.
        """
        ...

    def overlapping(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that share time with [start, end); all of them if there is no time."""
        ...

    def within(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that lie inside [start, end) entirely; all of them if there is no time."""
        ...

    def next(self, partition: Partition) -> Partition | None:
        """Return the one that follows in time, None at the bound or if the set has no time."""
        ...

    def previous(self, partition: Partition) -> Partition | None:
        """Return the one before in time, None at the bound or if the set has no time."""
        ...

    def around(self, key: str, before: int, after: int) -> tuple[Partition, ...]:
        """Return the partitions from ``before`` before to ``after`` after the one with this key, by time.

        The key itself may lie outside the set's bounds; what is returned is cut at them. Raises
        PartitionKeyError if the key cannot be read, DefinitionError if the set has no time.
        """
        ...

    def covers(self, other: "PartitionSet") -> bool:
        """Whether each key of the other set is a key of this one and means the same."""
        ...

    def describe(self) -> str:
        """Say in a few words which partitions these are."""
        ...


def starts_at(partition: Partition) -> datetime:
    """Return when a partition starts, of which it is known that it has time."""
    assert partition.start is not None
    return partition.start


def quoted(value: object) -> str:
    """Return a value as a message shows it: escaped, in quotes, cut to 40 characters."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return repr(value) if len(value) <= _QUOTED else f"{value[:_QUOTED]!r}..."


def unknown_key(key: object, *, what: str, examples: tuple[str, ...]) -> PartitionKeyError:
    """Return the error for a key that its set does not have; ``examples`` are keys that it has."""
    spelled = " or ".join(map(repr, examples))
    return PartitionKeyError(f"{quoted(key)} is not {what}.", hint=f"Write it like {spelled}.")


def without_time(description: str) -> DefinitionError:
    """Return the error for asking a set without time what comes before and after."""
    return DefinitionError(
        f"There is no before and after among these partitions: {description}.",
        hint="Only partitions by hour, day, week or month have neighbours.",
    )
