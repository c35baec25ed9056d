"""What all calendars share: partitions that follow one another in local time, between two bounds.

A calendar says only which partition a moment lies in, and how a key is read; everything else is walking
from one partition to the moment at which the next begins.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from sidestage.data.localtime import FIRST_YEAR, LAST_YEAR, TICK, day_start, find_zone, in_utc, read_period
from sidestage.data.partition import Partition, PartitionSet, quoted, starts_at, unknown_key
from sidestage.data.selection import MOST_SELECTED, Span, nothing_selected, parts_of, span_of, too_many
from sidestage.errors import DefinitionError, PartitionKeyError


class Slot(NamedTuple):
    """A stretch of local time with its key; the fields of a Partition, none of them missing."""

    key: str
    start: datetime
    end: datetime


class Timeline(msgspec.Struct, frozen=True, dict=True):
    """Base of the calendars. ``start`` and ``end`` name the first and the last partition.

    Both are kept as keys. They may be given as any ISO 8601 year, month, week, day or hour (or a date, or an
    aware datetime), which stands for the partition that it begins in, for ``end`` the one it ends in.
    Without ``end`` there is always a next partition. Raises DefinitionError for a zone, start or end that
    does not exist.
    """

    start: str
    end: str | None = None
    tz: str = "UTC"

    def __post_init__(self) -> None:
        find_zone(self.tz)
        first = self._bound("start", self.start)
        msgspec.structs.force_setattr(self, "start", first.key)
        if self.end is not None:
            last = self._bound("end", self.end)
            msgspec.structs.force_setattr(self, "end", last.key)
            if last.start < first.start:
                raise DefinitionError(
                    f"The last {self.unit}, {last.key}, lies before the first, {first.key}.",
                    hint="The end is included: give the same value twice for a single partition.",
                )

    @property
    def unit(self) -> str:
        """The word for one partition, such as day."""
        raise NotImplementedError

    @property
    def example(self) -> str:
        """A key of this set."""
        return self.start

    @property
    def usual_length(self) -> timedelta:
        """How much time a partition usually covers."""
        raise NotImplementedError

    def slot_at(self, moment: datetime) -> Slot:
        """Return the slot a moment lies in, whatever the bounds."""
        raise NotImplementedError

    def slot_of(self, key: str) -> Slot | None:
        """Return the slot with this key, whatever the bounds, or None if there is none."""
        raise NotImplementedError

    def explain_missing(self, key: str) -> None:
        """Raise a better PartitionKeyError than "no such key", if there is more to be said."""
        read_period(key, self.zone)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone whose local time cuts the partitions."""
        return find_zone(self.tz)

    @cached_property
    def lower(self) -> datetime:
        """The moment at which the first partition begins."""
        return self._known(self.start).start

    @cached_property
    def upper(self) -> datetime:
        """The moment at which the last partition has ended; near the end of the calendar if it is open."""
        if self.end is not None:
            return self._known(self.end).end
        return self.slot_at(day_start(date(LAST_YEAR, 12, 1), self.zone)).start

    def parse(self, key: str) -> Partition:
        """Return the partition with this key, spelled exactly so. Raises PartitionKeyError."""
        slot = self.slot_of(key) if isinstance(key, str) else None
        if slot is None:
            if isinstance(key, str):
                self.explain_missing(key)
            raise unknown_key(key, what=f"one of the {self.describe()}", examples=(self.start,))
        if slot.start < self.lower:
            raise PartitionKeyError(
                f"{quoted(key)} lies before the first {self.unit}, {self.start}.",
                hint=f"Name a later one, such as {self.start!r}, or let the partitions start earlier.",
            )
        if slot.start >= self.upper:
            raise PartitionKeyError(
                f"{quoted(key)} lies after the last {self.unit}, {self.slot_at(self.upper - TICK).key}.",
                hint=f"Name an earlier one, such as {self.start!r}, or let the partitions end later.",
            )
        return Partition(*slot)

    def closed(self, now: datetime) -> Iterator[Partition]:
        """Yield the partitions that have ended by ``now``, oldest first."""
        limit = min(in_utc(now), self.upper)
        slot = self.slot_at(self.lower)
        while slot.end <= limit:
            yield Partition(*slot)
            slot = self.slot_at(slot.end)

    def newest(self, moment: datetime) -> tuple[Partition, ...]:
        """Return the last partition that has ended by ``moment``, if any."""
        begin = max(min(in_utc(moment), self.upper), self.lower)
        current = self.slot_at(begin)
        if current.start <= self.lower:
            return ()
        return (Partition(*self.slot_at(current.start - TICK)),)

    def select(self, expression: str, now: datetime) -> tuple[Partition, ...]:
        """Return the partitions an expression names, oldest first. Raises PartitionKeyError."""
        found: dict[str, Partition] = {}
        for part in parts_of(expression, self.start):
            begin, end = self._bounds(span_of(part, self.start), now)
            begin, end = max(begin, self.lower), min(end, self.upper)
            if (end - begin) / self.usual_length > MOST_SELECTED:
                raise too_many(part)
            slots = tuple(self._walk(begin, end))
            if not slots:
                raise nothing_selected(part, self.describe(), self.start)
            found.update((slot.key, Partition(*slot)) for slot in slots)
        return tuple(sorted(found.values(), key=starts_at))

    def overlapping(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that share time with [start, end)."""
        return tuple(Partition(*slot) for slot in self._walk(in_utc(start), in_utc(end)))

    def within(self, start: datetime, end: datetime) -> tuple[Partition, ...]:
        """Return the partitions that lie inside [start, end) entirely."""
        begin, limit = in_utc(start), in_utc(end)
        return tuple(
            Partition(*slot) for slot in self._walk(begin, limit) if begin <= slot.start and slot.end <= limit
        )

    def next(self, partition: Partition) -> Partition | None:
        """Return the one that follows in time, None at the bound. Raises PartitionKeyError."""
        slot = self.slot_at(self._known(partition.key).end)
        return Partition(*slot) if self.lower <= slot.start < self.upper else None

    def previous(self, partition: Partition) -> Partition | None:
        """Return the one before in time, None at the bound. Raises PartitionKeyError."""
        slot = self.slot_at(self._known(partition.key).start - TICK)
        return Partition(*slot) if self.lower <= slot.start < self.upper else None

    def around(self, key: str, before: int, after: int) -> tuple[Partition, ...]:
        """Return the partitions from ``before`` before to ``after`` after this key, cut at the bounds."""
        slots = [centre := self._known(key)]
        slot = centre
        while before > 0 and slot.start > self.lower:
            slots.append(slot := self.slot_at(slot.start - TICK))
            before -= 1
        slots.reverse()
        slot = centre
        while after > 0 and slot.end < self.upper:
            slots.append(slot := self.slot_at(slot.end))
            after -= 1
        return tuple(Partition(*slot) for slot in slots if self.lower <= slot.start < self.upper)

    def covers(self, other: PartitionSet) -> bool:
        """Whether the other set is of the same kind and zone and lies between the bounds of this one."""
        if type(other) is not type(self) or other.tz != self.tz:
            return False
        return self.lower <= other.lower and other.upper <= self.upper

    def describe(self) -> str:
        """Say which partitions these are: days since 2013-01-01 in Europe/Berlin."""
        if self.end is None:
            return f"{self.unit}s since {self.start} in {self.tz}"
        return f"{self.unit}s from {self.start} to {self.end} in {self.tz}"

    def _walk(self, start: datetime, end: datetime) -> Iterator[Slot]:
        """Yield the slots that share time with [start, end), inside the bounds."""
        begin, limit = max(start, self.lower), min(end, self.upper)
        while begin < limit:
            slot = self.slot_at(begin)
            yield slot
            begin = slot.end

    def _bounds(self, span: Span, now: datetime) -> tuple[datetime, datetime]:
        """Return the moments between which a span selects."""
        begin = self.lower if span.first is None else self._period(span.first)[0]
        if span.last is not None:
            end = self._period(span.last)[1]
            if span.first is not None and end <= begin:
                raise PartitionKeyError(
                    f"The selection {quoted(span.text)} ends before it begins.", hint="Write 'first:last'."
                )
            return begin, end
        return begin, self.slot_at(max(min(in_utc(now), self.upper), self.lower)).start

    def _period(self, text: str) -> tuple[datetime, datetime]:
        """Return the bounds of a key or ISO 8601 period. Raises PartitionKeyError."""
        slot = self.slot_of(text)
        period = (slot.start, slot.end) if slot else read_period(text, self.zone)
        if period is None:
            raise unknown_key(
                text, what=f"one of the {self.describe()}, nor a period", examples=(self.start,)
            )
        return period

    def _known(self, key: str) -> Slot:
        slot = self.slot_of(key)
        if slot is None:
            raise unknown_key(key, what=f"the key of a {self.unit}", examples=(self.start,))
        return slot

    def _bound(self, name: str, value: object) -> Slot:
        """Return the slot in which the set starts or ends. Raises PartitionKeyError."""
        if isinstance(value, datetime):
            value = self.slot_at(in_utc(value)).key
        text = value.isoformat() if isinstance(value, date) else value
        if isinstance(text, str):
            slot = self.slot_of(text)
            if slot is not None:
                return slot
            period = read_period(text, self.zone)
            if period is not None:
                return self.slot_at(period[0] if name == "start" else period[1] - TICK)
        raise PartitionKeyError(
            f"The {name} of these {self.unit}s, {quoted(text)}, is not a date.",
            hint=f"Write it like '2013-01-31', with a year from {FIRST_YEAR} to {LAST_YEAR}.",
        )
