"""Order-independent digest of a version, computed in one pass over its record batches.

Method ``sidestage-rows-1``. Each value has a 64-bit hash (``value_hash``); a column's hash is the sum of its
values' hashes modulo 2^64. A row's hash is the sum of its values' hashes, each times an odd constant made of
the column's name; it is mixed twice, and two sums over all rows, modulo 2^64, make 128 bits. These, the
number of rows, and the names and logical types of the columns in their order are hashed by XXH3-128: that is
the content. Summing the hashes of a multiset's elements is the AdHash construction of Bellare and Micciancio
("A new paradigm for collision-free hashing", EUROCRYPT 1997), here with fast hashes instead of cryptographic
ones.

What it proves: equal content means the same multiset of rows (duplicates count) with the same columns, up to
accidental collisions. Two rows that differ share a row hash with a chance of 2^-64 (never, if they differ in
one value of fixed width up to 64 bits); two versions of different row hashes share their content with a
chance of 2^-128. It proves nothing against somebody who builds collisions on purpose.

What it does not see: order of rows, chunks and row groups, compression, and layout within one logical type:
dictionaries, offset widths, string views, the unit of a time. Time zones and widths of numbers are part of
the type. A column's hash leaves out its name and type, so that a column keeps its hash when it is renamed.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
import xxhash

from sidestage.data.value_hash import Hasher, Hashes, hasher, logical_name, mixed, plain, seed, to_plain
from sidestage.data.version import ColumnDigest, Digest

ALGORITHM = "sidestage-rows-1"

BLOCK_ROWS = 32_768
BLOCK_BYTES = 4 << 20
"""Rows and bytes hashed at a time: their intermediate results stay in the processor's cache."""

TEXT_LIMIT = 256
"""Longest minimum or maximum that is kept, in characters."""

_FOLD = 2**64 - 1
_SECOND_MIX = np.uint64(0xA0761D6478BD642F)
_FRACTION_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


class DigestBuilder:
    """Digest of the record batches added so far.

    Raises OutputError for columns of a type that cannot be stored.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [_ColumnState(field) for field in schema]
        self._rows = 0
        self._sums = (0, 0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch of the builder's schema into account."""
        rows = batch.num_rows
        if not rows:
            return
        step = max(1, min(BLOCK_ROWS, rows * BLOCK_BYTES // max(1, batch.nbytes)))
        with np.errstate(all="ignore"):
            if rows <= step:
                self._add_block(batch)
            else:
                for start in range(0, rows, step):
                    self._add_block(batch.slice(start, step))
        self._rows += rows

    def finish(self) -> Digest:
        """Return the digest of all rows added."""
        columns = tuple(state.finish() for state in self._columns)
        header = msgspec.json.encode([(column.name, column.type) for column in columns])
        sums = b"".join(number.to_bytes(8, "little") for number in (*self._sums, self._rows))
        content = xxhash.xxh3_128_hexdigest(sums + header)
        return Digest(algorithm=ALGORITHM, rows=self._rows, content=content, columns=columns)

    def _add_block(self, batch: pa.RecordBatch) -> None:
        row_hashes: Hashes = np.zeros(batch.num_rows, np.uint64)
        for state, array in zip(self._columns, batch.columns, strict=True):
            row_hashes += state.add(array) * state.seed
        first, second = self._sums
        mixed(row_hashes)
        first += int(np.add.reduce(row_hashes))
        row_hashes += _SECOND_MIX
        second += int(np.add.reduce(mixed(row_hashes)))
        self._sums = (first & _FOLD, second & _FOLD)


class _Kind(NamedTuple):
    """What is known of all columns of one type. ``text`` is None if its values have no order."""

    name: str
    plain: pa.DataType
    is_plain: bool
    hashes: Hasher
    text: Callable[[Any, pa.DataType], str] | None
    is_time: bool
    is_duration: bool


@lru_cache(maxsize=1024)
def _kind(physical: pa.DataType) -> _Kind:
    target = plain(physical)
    return _Kind(
        name=logical_name(physical),
        plain=target,
        is_plain=target is physical,
        hashes=hasher(target),
        text=next((write for belongs, write in _TEXTS if belongs(target)), None),
        is_time=kinds.is_temporal(target),
        is_duration=kinds.is_duration(target),
    )


class _ColumnState:
    """What has been seen of one column."""

    def __init__(self, field: pa.Field) -> None:
        self.seed = seed(field.name)
        self._name = field.name
        self._kind = _kind(field.type)
        self._nulls = 0
        self._sum = 0
        self._extremes: tuple[Any, Any] | None = None

    def add(self, array: Any) -> Hashes:
        kind = self._kind
        if not kind.is_plain:
            array = to_plain(array, kind.plain)
        hashes = kind.hashes(array)
        self._sum += int(np.add.reduce(hashes))
        nulls = array.null_count
        self._nulls += nulls
        if kind.text is not None and nulls < len(array):
            self._widen(array)
        return hashes

    def finish(self) -> ColumnDigest:
        low, high = self._extremes or (None, None)
        return ColumnDigest(
            name=self._name,
            type=self._kind.name,
            nulls=self._nulls,
            hash=f"{self._sum & _FOLD:016x}",
            min=_text(low, self._kind),
            max=_text(high, self._kind),
        )

    def _widen(self, array: Any) -> None:
        if self._kind.is_duration:
            array = array.view(pa.int64())  # Arrow does not compare durations
        found = pc.min_max(array)
        low, high = found["min"], found["max"]
        if self._kind.is_time and hasattr(low, "value"):
            low, high = low.value, high.value
        else:
            low, high = low.as_py(), high.as_py()
        if low != low:  # noqa: PLR0124 - nothing but NaN, which has no place in an order
            return
        if self._extremes is not None:
            low, high = min(low, self._extremes[0]), max(high, self._extremes[1])
        self._extremes = (low, high)


def _text(value: Any, kind: _Kind) -> str | None:
    """Return a minimum or maximum as text; None for one too long to keep."""
    if value is None or kind.text is None:
        return None
    text = kind.text(value, kind.plain)
    return text if len(text) <= TEXT_LIMIT else None


def _moment(value: int, kind: pa.DataType) -> str:
    return _without_zeros(str(np.datetime_as_string(np.datetime64(value, kind.unit))))


def _date(value: int, kind: pa.DataType) -> str:
    days = np.datetime64(value, "ms" if kinds.is_date64(kind) else "D")
    return str(days.astype("datetime64[D]"))


def _without_zeros(moment: str) -> str:
    """Return a time without the trailing zeros that only say in which unit it was kept."""
    return moment.rstrip("0").rstrip(".") if "." in moment else moment


def _duration(value: int, kind: pa.DataType) -> str:
    digits = _FRACTION_DIGITS[kind.unit]
    sign = "-" if value < 0 else ""
    seconds, fraction = divmod(abs(value), 10**digits)
    text = f"{seconds}.{fraction:0{digits}d}" if digits else f"{seconds}"
    return f"{sign}PT{_without_zeros(text)}S"


_TEXTS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], str]], ...] = (
    (kinds.is_integer, lambda value, _: str(value)),
    (kinds.is_floating, lambda value, _: repr(value + 0.0)),
    (lambda kind: bool(kinds.is_string(kind) or kinds.is_large_string(kind)), lambda value, _: str(value)),
    (kinds.is_decimal, lambda value, _: f"{value:f}"),
    (kinds.is_boolean, lambda value, _: str(value).lower()),
    (kinds.is_timestamp, lambda value, kind: _moment(value, kind) + ("Z" if kind.tz else "")),
    (kinds.is_date, _date),
    (kinds.is_time, lambda value, kind: _moment(value, kind).partition("T")[2]),
    (kinds.is_duration, _duration),
)
