"""From items to lists of times, keys and values that can be trusted; what cannot is named by its place."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from numbers import Real
from typing import Any

from sidestage.errors import DataError
from sidestage.stream.failing import PASS_ON, error_of
from sidestage.stream.windows.plan import EarlyItem, Failure, WindowPlan
from sidestage.stream.windows.watermarks import EARLIEST, LATEST, EventTime

_NUMBERS = frozenset({int, float})


class Readings:
    """Columns of a chunk: times, keys and values of the same length, and where each item stood in the chunk.

    ``items`` is None where the chunk came as columns. What failed or came too early is not in the columns any
    more.
    """

    __slots__ = ("early", "failures", "items", "keys", "places", "times", "values")

    def __init__(self, items: Sequence[Any] | None) -> None:
        self.items = items
        self.times: list[Any] = []
        self.keys: list[Any] = []
        self.values: list[Any] = []
        self.places: Sequence[int] = range(0)
        self.early: list[EarlyItem] = []
        self.failures: list[Failure] = []

    def item(self, index: int) -> Any:
        """Return the item in the chunk at ``places[index]``."""
        return None if self.items is None else self.items[self.places[index]]

    def keep(self, wanted: Iterable[int]) -> None:
        """Keep only these rows."""
        rows = list(wanted)
        self.times = [self.times[row] for row in rows]
        self.keys = [self.keys[row] for row in rows]
        if self.values:
            self.values = [self.values[row] for row in rows]
        self.places = [self.places[row] for row in rows]


def read(plan: WindowPlan, items: Sequence[Any], stamp: float, *, values: bool) -> Readings:
    """Take times, keys and (if wanted) values from items; each function is called once per item."""
    readings = Readings(items)
    _take(readings, plan, items, stamp, values=values)
    settle(readings, plan.time, stamp)
    return readings


def settle(readings: Readings, time: EventTime, stamp: float) -> None:
    """Sort out times that are none, or too far ahead of the clock."""
    if time.at is not None or readings.items is None:
        _check_times(readings)
        if time.ahead is not None:
            _look_ahead(readings, time, stamp)


def _take(readings: Readings, plan: WindowPlan, items: Sequence[Any], stamp: float, *, values: bool) -> None:
    at = plan.time.at or (lambda _: stamp)
    key_of = plan.key or (lambda _: None)
    value_of = plan.aggregate.of_item
    columns = (readings.times, readings.keys, readings.values)
    add_time, add_key, add_value = (column.append for column in columns)
    failed: set[int] = set()
    for index, item in enumerate(items):
        try:
            time, key = at(item), key_of(item)
            if values:
                add_value(value_of(item))
        except PASS_ON:
            raise
        except BaseException as error:  # noqa: BLE001 - it is the item's, and goes where its policy says
            failed.add(index)
            readings.failures.append(Failure(index, error_of(error)))
        else:
            add_time(time)
            add_key(key)
    places = range(len(items))
    readings.places = [place for place in places if place not in failed] if failed else places


def _check_times(readings: Readings) -> None:
    """Turn dates into seconds and take out what is no time."""
    times = readings.times
    if all_numbers(times):
        return
    good: list[int] = []
    for row, time in enumerate(times):
        try:
            times[row] = seconds_of(time)
        except Exception as error:  # noqa: BLE001 - a foreign time zone may raise anything
            readings.failures.append(Failure(readings.places[row], error))
        else:
            good.append(row)
    if len(good) < len(times):
        readings.keep(good)
        readings.failures.sort(key=lambda failure: failure.place or 0)


def all_numbers(times: Sequence[Any]) -> bool:
    """Return whether all are plain numbers of seconds in these millennia."""
    if not times:
        return True
    if not set(map(type, times)) <= _NUMBERS:
        return False
    try:
        # nan escapes min and max, but not the sum.
        return min(times) >= EARLIEST and max(times) < LATEST and math.isfinite(sum(times))
    except OverflowError:
        return False


def seconds_of(time: Any) -> float:
    """Return a time in seconds since the epoch. Raises DataError for what is no time of these millennia."""
    kind = type(time)
    if kind is int or kind is float:
        if EARLIEST <= time < LATEST:
            seconds: float = time
            return seconds
        raise DataError(
            f"An item's time is {_shown(time)}, which is no time between the years 1 and 10000.",
            hint="Times are seconds since the epoch; divide milliseconds by 1000.",
        )
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise DataError(
                f"An item's time is {time.isoformat()}, without a time zone.",
                hint="Let at return an aware datetime.",
            )
        return seconds_of(time.timestamp())
    if isinstance(time, Real) and kind is not bool:
        return seconds_of(float(time))
    raise DataError(
        f"An item's time is {_shown(time)}, which is no number and no datetime.",
        hint="Let at return seconds since the epoch, or an aware datetime.",
    )


def _shown(value: object) -> str:
    """Return a value as text, short and whatever it is: some numbers are too long to print."""
    try:
        return ascii(value)[:60]
    except Exception:  # noqa: BLE001 - a foreign repr may do anything
        return f"a {type(value).__name__}"


def _look_ahead(readings: Readings, time: EventTime, stamp: float) -> None:
    """Take out, or stamp, what lies too far ahead of the clock."""
    assert time.ahead is not None
    bound = stamp + time.ahead
    times = readings.times
    if not times or max(times) <= bound:
        return
    if time.beyond == "stamp":
        readings.times = [each if each <= bound else stamp for each in times]
        return
    for row, each in enumerate(times):
        if each > bound:
            reason = time.too_early(each, stamp)
            early = EarlyItem(readings.places[row], readings.item(row), readings.keys[row], each, reason)
            readings.early.append(early)
    readings.keep([row for row, each in enumerate(times) if each <= bound])
