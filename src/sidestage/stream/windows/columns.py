"""Chunks that are columns already: the same counting on arrays.

Only tumbling windows with counts or totals are worked on as arrays, and only values that Python and NumPy add
up alike to the last bit; everything else goes row by row through the same state.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidestage.errors import DefinitionError
from sidestage.stream.windows.event_times import Readings, seconds_of, settle
from sidestage.stream.windows.grid import Grid
from sidestage.stream.windows.grid_windows import Addition, GridWindows
from sidestage.stream.windows.plan import EarlyItem, Failure
from sidestage.stream.windows.watermarks import EARLIEST, LATEST, EventTime, Watermarks

Column = Any
"""A NumPy array, an Arrow array (also a chunked one), or a sequence."""

Array = npt.NDArray[Any]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXACT = 1 << 53  # whole numbers that a float holds
_NO_OVERFLOW = 1 << 62
_ROOM = 4096


class Columns:
    """Times, keys and values of a chunk, of one length; None where there are none."""

    def __init__(self, times: Column | None, keys: Column | None, values: Column | None, length: int) -> None:
        self.length = length
        self._times = times
        self._keys = keys
        self._values = values

    @classmethod
    def of(cls, times: Column | None, keys: Column | None, values: Column | None) -> "Columns":
        """Put columns together. Raises DefinitionError unless there are some, all of one length."""
        lengths = {len(column) for column in (times, keys, values) if column is not None}
        if len(lengths) != 1:
            raise DefinitionError(
                f"A chunk of columns has {sorted(lengths) or 'none'} rows.",
                hint="Give at least one of times, keys and values, all of the same length.",
            )
        return cls(times, keys, values, lengths.pop())

    def rows(self, time: EventTime, stamp: float) -> Readings:
        """Return the same as lists, with what cannot be used sorted out."""
        rows = Readings(None)
        rows.times = [stamp] * self.length if self._times is None else _times_list(self._times)
        rows.keys = [None] * self.length if self._keys is None else _list(self._keys)
        rows.values = [] if self._values is None else _list(self._values)
        rows.places = range(self.length)
        settle(rows, time, stamp)
        return rows

    def ready(self, time: EventTime, stamp: float, *, total: bool) -> "ReadyColumns | None":
        """Return the columns as arrays fit to be counted, or None if these go better row by row."""
        times = np.full(self.length, stamp) if self._times is None else _times_array(self._times)
        values = _numbers(self._values) if total and self._values is not None else None
        if times is None or (total and values is None):
            return None
        encoded = _encoded(self._keys, self.length)
        if encoded is None:
            return None
        ready = ReadyColumns(times, *encoded, values)
        ready.settle(time, stamp)
        return ready


class ReadyColumns:
    """Arrays of times, codes (which key), and values; ``names`` are the keys by code."""

    def __init__(self, times: Array, codes: Array, names: list[Any], values: Array | None) -> None:
        self.times = times
        self.codes = codes
        self.names = names
        self.values = values
        self.places: Array = np.arange(len(times))
        self.early: list[EarlyItem] = []
        self.failures: list[Failure] = []

    def settle(self, time: EventTime, stamp: float) -> None:
        """Sort out times that are none, or too far ahead of the clock."""
        good = (self.times >= EARLIEST) & (self.times < LATEST)  # nan is neither
        if not good.all():
            for row in np.flatnonzero(~good).tolist():
                try:
                    seconds_of(self.times[row].item())
                except Exception as error:  # noqa: BLE001 - named by its row
                    self.failures.append(Failure(row, error))
            self._keep(good)
        if time.ahead is None or not len(self.times) or self.times.max() <= stamp + time.ahead:
            return
        near = self.times <= stamp + time.ahead
        if time.beyond == "stamp":
            self.times = np.where(near, self.times, stamp)
            return
        for row in np.flatnonzero(~near).tolist():
            each = self.times[row].item()
            reason = time.too_early(each, stamp)
            key = self.names[self.codes[row]]
            self.early.append(EarlyItem(int(self.places[row]), None, key, each, reason))
        self._keep(near)

    def fold(self, windows: GridWindows, marks: Watermarks) -> None:
        """Take in the chunk, cut where the watermark meets a boundary."""
        count = len(self.times)
        if not count:
            return
        running = np.maximum.accumulate(self.times)
        begin = look = 0
        while begin < count:
            alarm = marks.alarm(windows.due)
            stop = count
            if running[-1] >= alarm:
                stop = max(int(np.searchsorted(running, alarm)), look)
            self._piece(windows, begin, stop)
            if stop < count:
                windows.advance(marks.reach(self.times[stop].item()))
                look = stop + 1
            begin = stop
        marks.reach(running[-1].item())

    def _keep(self, good: Array) -> None:
        self.times, self.codes, self.places = self.times[good], self.codes[good], self.places[good]
        if self.values is not None:
            self.values = self.values[good]

    def _piece(self, windows: GridWindows, begin: int, stop: int) -> None:
        """Take in rows between which the watermark meets no boundary."""
        if begin == stop:
            return
        numbers = _lasts(windows.grid, self.times[begin:stop])
        is_open = numbers >= windows.first_open
        behind = np.flatnonzero(~is_open)
        here = np.flatnonzero(is_open) if len(behind) else None
        rows = slice(begin, stop) if here is None else here + begin
        additions = self._additions(windows, numbers if here is None else numbers[here], rows)
        others = [self.names[code] for code in self.codes[behind + begin].tolist()]
        if additions is not None and windows.commit(additions, others):
            wanted = (behind + begin).tolist()
        else:
            wanted = list(range(begin, stop))
        for row in wanted:
            value = None if self.values is None else self.values[row].item()
            key = self.names[self.codes[row]]
            windows.one(self.times[row].item(), key, value, int(self.places[row]), None)

    def _additions(self, windows: GridWindows, numbers: Array, rows: Any) -> list[Addition] | None:
        """Return what these rows add to each open window, or None if Python must add it up."""
        if not len(numbers):
            return []
        lowest = int(numbers.min())
        many = len(self.names)
        cells = (numbers - lowest) * many + self.codes[rows]
        present, counts = _tally(cells)
        pairs = [(lowest + cell // many, self.names[cell % many]) for cell in present.tolist()]
        if any(key not in windows.keys_of(number) for number, key in pairs):
            # New keys are kept in the order in which they came, as they are row by row.
            _, firsts = np.unique(cells, return_index=True)
            order = np.argsort(firsts)
            present, counts = present[order], counts[order]
            pairs = [pairs[place] for place in order.tolist()]
        totals: list[Any] | None = None
        if self.values is not None:
            before = [windows.states_of(number).get(key, 0) for number, key in pairs]
            totals = _added_up(before, present, cells, self.values[rows])
            if totals is None:
                return None
        additions: dict[int, Addition] = {}
        for place, ((number, key), count) in enumerate(zip(pairs, counts.tolist(), strict=True)):
            addition = additions.setdefault(number, Addition(number, {}, {}))
            addition.counts[key] = count
            if totals is not None:
                addition.states[key] = totals[place]
        return list(additions.values())


def _tally(cells: Array) -> tuple[Array, Array]:
    """Return the different cells in rising order, and how often each occurs."""
    if int(cells.max()) < 4 * len(cells) + _ROOM:
        counts = np.bincount(cells)
        present = np.flatnonzero(counts)
        return present, counts[present]
    present, counts = np.unique(cells, return_counts=True)
    return present, counts


def _added_up(before: list[Any], present: Array, cells: Array, values: Array) -> list[Any] | None:
    """Return totals by cell, added in the order of rows; None where Python would add differently."""
    whole = {type(total) for total in before} <= {int}
    if whole and values.dtype == np.int64:
        most = max(map(abs, before)) + len(values) * max(abs(int(values.max())), abs(int(values.min())))
        if most >= _NO_OVERFLOW:
            return None
        totals = np.array(before, np.int64)
    else:
        if any(type(total) is not float and not _fits(total) for total in before):
            return None
        if values.dtype == np.int64 and {type(total) for total in before} != {float}:
            return None
        totals = np.array(before, np.float64)
    places = np.argsort(present)
    places = places[np.searchsorted(present, cells, sorter=places)]
    with np.errstate(all="ignore"):  # infinities add up to nan quietly, as they do in Python
        np.add.at(totals, places, values.astype(totals.dtype, copy=False))
    summed: list[Any] = totals.tolist()
    return summed


def _fits(total: Any) -> bool:
    return type(total) is int and abs(total) <= _EXACT


def _lasts(grid: Grid, times: Array) -> Array:
    """Return the number of the window of each time, as ``Grid.last`` does."""
    if grid.exact:
        return np.floor_divide(times, grid.every).astype(np.int64)
    every, offset = grid.every, grid.offset
    numbers = np.floor((times - offset) / every).astype(np.int64)
    while (wrong := numbers * every + offset > times).any():
        numbers[wrong] -= 1
    while (wrong := (numbers + 1) * every + offset <= times).any():
        numbers[wrong] += 1
    return numbers


def _encoded(keys: Column | None, length: int) -> tuple[Array, list[Any]] | None:
    """Return codes of keys and the keys by code; None if two codes would be one key for Python."""
    if keys is None:
        return np.zeros(length, np.int64), [None]
    try:
        array = keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys)
    except (pa.ArrowException, OverflowError):
        return None  # keys of several types
    if not isinstance(keys, pa.Array | pa.ChunkedArray | np.ndarray) and not _alike(keys):
        return None
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (_is_text(array.type) or pa.types.is_integer(array.type)):
        return None
    encoded = array.dictionary_encode(null_encoding="encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def _alike(keys: Sequence[Any]) -> bool:
    """Return whether Arrow holds these keys as they are; it would make one type of several."""
    return set(map(type, keys)) <= {str, type(None)} or set(map(type, keys)) <= {int, type(None)}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _numbers(values: Column) -> Array | None:
    """Return whole numbers or floats of 64 bits; None for anything else, or if some are missing."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        if values.null_count or values.type not in {pa.int64(), pa.float64()}:
            return None
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype in {np.dtype(np.int64), np.dtype(np.float64)}:
        return values
    return None


def _times_array(times: Column) -> Array | None:
    """Return times in seconds, whole or floats; None if some are missing, or no numbers."""
    if isinstance(times, pa.Array | pa.ChunkedArray):
        if times.null_count:
            return None
        if pa.types.is_timestamp(times.type):
            return _in_seconds(times.cast(pa.int64()).to_numpy(), times.type.unit)
        times = times.to_numpy()
    if not isinstance(times, np.ndarray):
        return None
    if times.dtype.kind == "M":
        unit = np.datetime_data(times.dtype)[0]
        if unit not in _PER_SECOND or np.isnat(times).any():
            return None
        return _in_seconds(times.astype(f"M8[{unit}]").view(np.int64), unit)
    return times if times.dtype in {np.dtype(np.int64), np.dtype(np.float64)} else None


def _in_seconds(counts: Array, unit: str) -> Array:
    per_second = _PER_SECOND[unit]
    return counts if per_second == 1 else counts / per_second


def _times_list(times: Column) -> list[Any]:
    array = _times_array(times)
    if array is not None:
        seconds: list[Any] = array.tolist()
        return seconds
    listed = _list(times)
    if not isinstance(times, pa.Array | pa.ChunkedArray | np.ndarray):
        return listed
    return [_aware(each) for each in listed]


def _aware(time: Any) -> Any:
    """Return a time of a column, which is UTC if it does not say."""
    return time.replace(tzinfo=UTC) if isinstance(time, datetime) and time.tzinfo is None else time


def _list(column: Column) -> list[Any]:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        listed: list[Any] = column.to_pylist()
        return listed
    if isinstance(column, np.ndarray):
        return list(column.tolist())
    return list(column)
