"""Partitions by local time: hours, days, ISO weeks, months."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import cast

import msgspec

from sidestage.data.localtime import (
    FIRST_YEAR,
    LAST_YEAR,
    change_between,
    day_start,
    in_utc,
    local,
    next_month,
    offset_at,
    read_period,
)
from sidestage.data.partition import unknown_key
from sidestage.data.timeline import Slot, Timeline
from sidestage.errors import DefinitionError

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)
_NOTHING = timedelta()


class _Calendar(Timeline, frozen=True):
    """Base of all calendars: what happens when their partitions end."""

    @property
    def closes(self) -> "Closes":
        """The trigger that ticks whenever a partition of this calendar has ended; add a timedelta to wait."""
        return Closes(cast("AnyCalendar", self))


class _Dates(_Calendar, frozen=True):
    """Base of the calendars whose partitions are made of whole local dates.

    A partition lasts from the first moment of its first date to the first moment of the next one's. Where
    clocks are put back across midnight, a date that has begun is therefore not left again.
    """

    def slot_at(self, moment: datetime) -> Slot:
        """Return the slot a moment lies in, whatever the bounds."""
        zone = self.zone
        first = self._first(moment.astimezone(zone).date())
        following = self._following(first)
        begin, end = day_start(first, zone), day_start(following, zone)
        while end <= moment:
            first, following = following, self._following(following)
            begin, end = end, day_start(following, zone)
        return Slot(self._key(first), begin, end)

    def slot_of(self, key: str) -> Slot | None:
        """Return the slot with this key, whatever the bounds, or None if there is none."""
        if not key.isascii() or len(key) != len(self._key(date.max)):
            return None
        try:
            first = self._read(key)
        except ValueError:
            return None
        # Python reads more spellings of a date than one.
        if not FIRST_YEAR <= first.year <= LAST_YEAR or self._key(first) != key:
            return None
        begin, end = day_start(first, self.zone), day_start(self._following(first), self.zone)
        return Slot(key, begin, end) if begin < end else None

    def _first(self, day: date) -> date:
        """Return the first date of the partition that a date belongs to."""
        raise NotImplementedError

    def _following(self, first: date) -> date:
        """Return the first date of the next partition."""
        raise NotImplementedError

    def _key(self, first: date) -> str:
        """Return the key of the partition with this first date."""
        raise NotImplementedError

    def _read(self, key: str) -> date:
        """Return the first date of the partition with this key. Raises ValueError."""
        raise NotImplementedError


class Daily(_Dates, frozen=True, tag="daily"):
    """One partition for each local calendar date, such as ``2013-01-31``.

    A day is 23, 24 or 25 hours long, as clocks go; a date that they skipped has no partition.
    """

    @property
    def unit(self) -> str:
        """The word for one partition."""
        return "day"

    @property
    def usual_length(self) -> timedelta:
        """24 hours."""
        return _DAY

    def _first(self, day: date) -> date:
        return day

    def _following(self, first: date) -> date:
        return first + _DAY

    def _key(self, first: date) -> str:
        return first.isoformat()

    def _read(self, key: str) -> date:
        return date.fromisoformat(key)


class Weekly(_Dates, frozen=True, tag="weekly"):
    """One partition for each ISO week, Monday to Sunday, such as ``2013-W05``.

    The year is that of the week's Thursday: 2012-12-31 lies in ``2013-W01``.
    """

    @property
    def unit(self) -> str:
        """The word for one partition."""
        return "week"

    @property
    def usual_length(self) -> timedelta:
        """Seven days."""
        return _WEEK

    def _first(self, day: date) -> date:
        return day - timedelta(days=day.weekday())

    def _following(self, first: date) -> date:
        return first + _WEEK

    def _key(self, first: date) -> str:
        year, week, _ = first.isocalendar()
        return f"{year:04}-W{week:02}"

    def _read(self, key: str) -> date:
        return date.fromisoformat(f"{key}-1")


class Monthly(_Dates, frozen=True, tag="monthly"):
    """One partition for each calendar month, such as ``2013-01``."""

    @property
    def unit(self) -> str:
        """The word for one partition."""
        return "month"

    @property
    def usual_length(self) -> timedelta:
        """30 days."""
        return 30 * _DAY

    def _first(self, day: date) -> date:
        return day.replace(day=1)

    def _following(self, first: date) -> date:
        return next_month(first)

    def _key(self, first: date) -> str:
        return first.isoformat()[:7]

    def _read(self, key: str) -> date:
        return date.fromisoformat(f"{key}-01")


class Hourly(_Calendar, frozen=True, tag="hourly"):
    """One partition for each local hour and UTC offset, such as ``2013-11-03T01-0400``.

    Of the hour that clocks go through twice there are two partitions, told apart by their offset; of the
    hour they skip there is none. An hour during which the offset changes is shorter. Keys sort by time,
    except inside a repeated hour.
    """

    @property
    def unit(self) -> str:
        """The word for one partition."""
        return "hour"

    @property
    def usual_length(self) -> timedelta:
        """60 minutes."""
        return _HOUR

    def slot_at(self, moment: datetime) -> Slot:
        """Return the hour a moment lies in, whatever the bounds."""
        zone = self.zone
        moment = moment.astimezone(UTC).replace(microsecond=0)
        offset = offset_at(moment, zone)
        wall = (moment + offset).replace(minute=0, second=0, tzinfo=None)
        begin = (wall - offset).replace(tzinfo=UTC)
        end = begin + _HOUR
        if offset_at(begin, zone) != offset:
            begin = change_between(begin, moment, zone)
        last = end - _SECOND
        if offset_at(last, zone) != offset:
            end = change_between(moment, last, zone)
        key = wall.isoformat(timespec="hours") + _offset_text(offset)
        return Slot(key, local(begin, zone), local(end, zone))

    def slot_of(self, key: str) -> Slot | None:
        """Return the hour with this key, whatever the bounds, or None if there is none."""
        if not key.isascii() or not len("2013-11-03T01-0400") <= len(key) <= len("1880-11-03T01-045602"):
            return None
        try:
            begin = datetime.fromisoformat(f"{key[:13]}:00:00{key[13:]}").astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        if not FIRST_YEAR <= begin.year <= LAST_YEAR:
            return None
        # If the clocks were changed during the hour, only its first or only its last part has this offset.
        for moment in (begin, begin + _HOUR - _SECOND):
            slot = self.slot_at(moment)
            if slot.key == key:
                return slot
        return None

    def explain_missing(self, key: str) -> None:
        """Raise PartitionKeyError if the key's hour was skipped, or has another offset."""
        period = read_period(key[:13], self.zone)
        if period is None or len(key) < len("2013-11-03T01"):
            return
        spellings = [self.slot_at(period[0]).key, self.slot_at(period[1] - _SECOND).key]
        raise unknown_key(
            key, what=f"the key of an hour in {self.tz}", examples=tuple(dict.fromkeys(spellings))
        )


AnyCalendar = Daily | Hourly | Weekly | Monthly


LONGEST = timedelta(days=36_525)
"""No trigger waits for longer than a century."""


class Closes(msgspec.Struct, frozen=True, tag="closes"):
    """A trigger: each partition of a calendar ticks when it has ended, or ``delay`` later.

    Written ``days.closes`` or ``days.closes + timedelta(hours=2)``. Raises DefinitionError for a negative
    delay: before its end a partition cannot be made.
    """

    calendar: AnyCalendar
    delay: timedelta = _NOTHING

    def __post_init__(self) -> None:
        if not _NOTHING <= self.delay <= LONGEST:
            raise DefinitionError(
                f"A trigger cannot tick {self.delay} after the end of a partition.",
                hint="Leave the delay out, or give one of up to a century.",
            )

    def __add__(self, delay: timedelta) -> "Closes":
        return Closes(self.calendar, self.delay + delay)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks later than a moment, in order, in UTC; they end only if the calendar does."""
        calendar = self.calendar
        begin = max(in_utc(moment) - self.delay, calendar.lower)
        while begin < calendar.upper:
            slot = calendar.slot_at(begin)
            yield in_utc(slot.end + self.delay)
            begin = slot.end

    def describe(self) -> str:
        """Say when it ticks: 2:00:00 after each day in Europe/Berlin has ended."""
        later = f"{self.delay} after" if self.delay else "when"
        return f"{later} each {self.calendar.unit} in {self.calendar.tz} has ended"


def _offset_text(offset: timedelta) -> str:
    """Return a UTC offset as keys spell it: -0400, +0530, -045602."""
    seconds = int(offset.total_seconds())
    minutes, rest = divmod(abs(seconds), 60)
    sign = "-" if seconds < 0 else "+"
    return f"{sign}{minutes // 60:02}{minutes % 60:02}" + (f"{rest:02}" if rest else "")
