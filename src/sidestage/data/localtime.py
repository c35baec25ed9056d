"""Wall clocks of the world: which moment a local time is, and which local time a moment shows.

All results are aware datetimes with a *fixed* UTC offset. Two datetimes that share one ZoneInfo are
compared and subtracted by Python as if the clocks had never been changed, which would make the day on
which they are put forward 24 hours long, and the repeated hour equal to the first.
"""

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from sidestage.data.partition import quoted
from sidestage.errors import DefinitionError, PartitionKeyError

FIRST_YEAR, LAST_YEAR = 1000, 9998
TICK = timedelta(microseconds=1)

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_MIDNIGHT = time()
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+\-/]{0,63}", re.ASCII)
_MACHINE_ZONES = ("localtime", "posixrules", "Factory")
_PERIOD = re.compile(
    r"(\d{4})(?:-W(\d\d)|-(\d\d)(?:-(\d\d)(?:T(\d\d)([+-]\d{4}(?:\d\d)?)?)?)?)?",
    re.ASCII,
)


def find_zone(name: str) -> ZoneInfo:
    """Return a zone of the IANA database. Raises DefinitionError if there is none of that name."""
    # "localtime" and its like mean another zone on each machine; "right/" counts leap seconds.
    refused = DefinitionError(
        f"There is no time zone {quoted(name)}.", hint="Write an IANA name, such as 'UTC' or 'Europe/Berlin'."
    )
    if not isinstance(name, str) or not _ZONE_NAME.fullmatch(name):
        raise refused
    if name in _MACHINE_ZONES or name.startswith(("posix/", "right/")):
        raise refused
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise refused from None


def in_utc(moment: datetime) -> datetime:
    """Return the moment in UTC. Raises DefinitionError if it does not know its offset."""
    if moment.tzinfo is None:
        raise DefinitionError(
            f"The time {moment.isoformat()} does not say in which zone it is.",
            hint="Give it one: datetime(..., tzinfo=UTC).",
        )
    return moment.astimezone(UTC)


def offset_at(moment: datetime, zone: ZoneInfo) -> timedelta:
    """Return how far local time is ahead of UTC at a moment given in UTC."""
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def local(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return the same moment as local clocks show it.

    Offsets of the 19th century had seconds, which ISO 8601 cannot write: they are rounded up to the minute,
    so that JSON carries the exact moment and the start of a day keeps its date.
    """
    shown = moment.astimezone(zone)
    offset = shown.utcoffset()
    assert offset is not None
    over = offset % _MINUTE
    if over:
        return moment.astimezone(timezone(offset + _MINUTE - over))
    return shown.replace(tzinfo=timezone(offset), fold=0)


def reached(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first moment at which local clocks show ``wall`` (naive) or, if they skip it, more."""
    aware = wall.replace(tzinfo=zone)
    offset, other = aware.utcoffset(), aware.replace(fold=1).utcoffset()
    assert offset is not None
    assert other is not None
    if offset < other:
        # Skipped: with the offset of after the change this time lies before it, and the other way round.
        moments = ((wall - other).replace(tzinfo=UTC), (wall - offset).replace(tzinfo=UTC))
        return local(change_between(*moments, zone), zone)
    if offset % _MINUTE:
        return local((wall - offset).replace(tzinfo=UTC), zone)
    return wall.replace(tzinfo=timezone(offset))


@lru_cache(maxsize=8192)
def day_start(day: date, zone: ZoneInfo) -> datetime:
    """Return the first moment of a local date; that of the next date, if clocks skipped the whole day."""
    return reached(datetime.combine(day, _MIDNIGHT), zone)


def change_between(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment in (before, after] since which the clocks have the offset they have at ``after``."""
    offset = offset_at(after, zone)
    low, high = 0, int((after - before) / _SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if offset_at(before + middle * _SECOND, zone) == offset:
            high = middle
        else:
            low = middle
    return before + high * _SECOND


def read_period(text: str, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
    """Return the bounds of a year, month, ISO week, day or hour written in ISO 8601, or None.

    Raises PartitionKeyError if it is well written but local clocks never showed it.
    """
    match = _PERIOD.fullmatch(text) if isinstance(text, str) else None
    if match is None or not FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return None
    hour, offset = match[5], match[6]
    try:
        if offset:
            begin = datetime.fromisoformat(f"{text[:13]}:00:00{offset}").astimezone(UTC)
            return begin, begin + _HOUR
        if hour:
            wall = datetime.fromisoformat(f"{text}:00:00")
            bounds = reached(wall, zone), reached(wall + _HOUR, zone)
        else:
            first, following = _dates(match)
            bounds = day_start(first, zone), day_start(following, zone)
    except ValueError:
        return None
    if bounds[0] >= bounds[1]:
        raise PartitionKeyError(
            f"{text} did not exist in {zone.key}: the clocks were put forward past it.",
            hint="Name the time before or after it.",
        )
    return bounds


def _dates(period: re.Match[str]) -> tuple[date, date]:
    """Return the first date of a year, month, week or day, and the first one after it."""
    year, week, month, day = period.group(1, 2, 3, 4)
    if week:
        monday = date.fromisocalendar(int(year), int(week), 1)
        return monday, monday + timedelta(days=7)
    first = date(int(year), int(month or 1), int(day or 1))
    if day:
        return first, first + timedelta(days=1)
    return first, next_month(first) if month else first.replace(year=first.year + 1)


def next_month(first: date) -> date:
    """Return the first day of the month after the one that starts on ``first``."""
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
