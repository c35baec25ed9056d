"""What makes a pipeline due: a frozen value that says at which moments.

A trigger's ticks depend on nothing but the trigger, never on when somebody looks: those between two moments
and those between the second and a third are the ticks between the first and the third.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import msgspec
from cronsim import CronSim, CronSimError

from sidestage.data.calendar import LONGEST, Closes
from sidestage.data.localtime import find_zone, in_utc, reached
from sidestage.errors import DefinitionError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_FIELDS = 5
_HOUR_FIELD = 1


class Every(msgspec.Struct, frozen=True, tag="every"):
    """A trigger that ticks at every multiple of an interval since 1970-01-01, UTC.

    ``Every(timedelta(hours=6))`` ticks at 0, 6, 12 and 18 o'clock UTC. Raises DefinitionError for an interval
    of less than a second or more than a century.
    """

    interval: timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta) or not _SECOND <= self.interval <= LONGEST:
            raise DefinitionError(
                f"A trigger cannot tick every {self.interval!r}.",
                hint="Give it a timedelta from a second to a century: Every(timedelta(minutes=10)).",
            )

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks later than a moment, in order, in UTC, without end."""
        tick = _EPOCH + (in_utc(moment) - _EPOCH) // self.interval * self.interval
        while True:
            tick += self.interval
            yield tick

    def describe(self) -> str:
        """Say when it ticks: every 0:10:00."""
        return f"every {self.interval}"


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """A trigger that ticks at the local times of a cron expression: minute, hour, day, month, weekday.

    Where the clocks are changed each local time still ticks once: one that they skip, as soon as they have
    skipped it; one that they show twice, the first time. Only where every hour is meant (the hour is ``*``)
    ticks follow the hours that really pass. Raises DefinitionError for an expression or a zone that cannot
    be read, or if no date ever matches.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        find_zone(self.tz)
        fault = _fault(self.expression)
        if fault:
            raise DefinitionError(
                f"The cron expression {self.expression!r} cannot be used: {fault}.",
                hint="Write minute, hour, day of month, month and weekday, such as '0 2 * * *'.",
            )

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks later than a moment, in order, in UTC, for as long as dates match."""
        zone = find_zone(self.tz)
        last, here = in_utc(moment), moment.astimezone(zone)
        if self.expression.split()[_HOUR_FIELD] == "*":
            found = (tick.astimezone(UTC) for tick in CronSim(self.expression, here))
        else:
            walls = CronSim(self.expression, here.replace(tzinfo=None, fold=0))
            found = (in_utc(reached(wall, zone)) for wall in walls)
        for tick in found:
            if tick > last:  # what the clocks skip falls on one moment, which ticks once
                last = tick
                yield tick

    def describe(self) -> str:
        """Say when it ticks: cron 0 2 * * * in Europe/Berlin."""
        return f"cron {self.expression} in {self.tz}"


def _fault(expression: object) -> str:
    """Return what is wrong with a cron expression, or ""."""
    if not isinstance(expression, str) or len(expression.split()) != _FIELDS:
        return "it has not five fields"
    try:
        first = next(CronSim(expression, datetime(2000, 1, 1)), None)  # noqa: DTZ001 - a wall clock
    except CronSimError as error:
        return str(error).lower()
    return "" if first else "no date ever matches"


AnyTrigger = Closes | Every | Cron


def between(trigger: AnyTrigger, begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the ticks in (begin, end], in order, in UTC."""
    limit = in_utc(end)
    return takewhile(lambda tick: tick <= limit, trigger.after(begin))
