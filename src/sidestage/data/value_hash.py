"""64-bit hashes of the values of an Arrow array, the same however the values happen to be laid out.

Equal values of one logical type hash alike in whatever chunk, slice, dictionary, offset width or time unit
they lie: -0.0 is 0.0, every NaN is the same NaN, and a time is its seconds and nanoseconds. NULL has its own
constant.

Fixed-width values go through the finalising mix of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), a bijection: two different integers never share a hash. Bytes
are cut into 64-bit words, each word is mixed together with its place, and the sum of the mixed words is mixed
together with the length; values longer than ``LONG`` bytes are hashed by XXH3-64 instead, where one call
costs less than the words. Lists are hashed like bytes, with the hashes of their items for words. Everything
is computed by whole columns in numpy, never value by value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds
import xxhash
from numpy.typing import NDArray

from sidestage.errors import OutputError

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
Hasher = Callable[[Any], Hashes]
"""Takes an Arrow array, returns one hash per value."""

LONG = 128
NULL = np.uint64(0x6C62272E07BB0142)
_NAN = np.uint64(0x7FF8000000000000)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LENGTH = np.uint64(0xD1342543DE82EF95)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_WORD = 8
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], dtype=np.uint64)
"""By a number of bytes: what leaves only so many of a word, counted from the beginning of the slice."""
_LAST_WORD = _FIRST_BYTES[1:]
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DECIMAL128_DIGITS = 38
_MILLISECONDS_PER_DAY = 86_400_000


def mixed(values: Hashes) -> Hashes:
    """Mix 64-bit values, in place; return them."""
    work = values >> _SHIFT_1
    values ^= work
    values *= _FACTOR_1
    np.right_shift(values, _SHIFT_2, out=work)
    values ^= work
    values *= _FACTOR_2
    np.right_shift(values, _SHIFT_3, out=work)
    values ^= work
    return values


def seed(name: str) -> np.uint64:
    """Return an odd constant for a column's name."""
    return np.uint64(xxhash.xxh3_64_intdigest(name.encode()) | 1)


def logical_name(kind: pa.DataType) -> str:
    """Return the name of a type without what is only layout: offset width, dictionary, unit of time.

    Raises OutputError for types that a Parquet file cannot hold.
    """
    for belongs, name in _LOGICAL_NAMES:
        if belongs(kind):
            return name if isinstance(name, str) else name(kind)
    raise OutputError(
        f"Values of type {kind} cannot be stored.",
        hint="Cast the column to a type that Parquet files can hold.",
    )


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the one type that stands for all layouts of a type, as far as a cast gets there."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if kinds.is_dictionary(kind):
        return plain(kind.value_type)
    for belongs, target in _PLAIN_TYPES:
        if belongs(kind):
            return target(kind)
    return kind


def hasher(kind: pa.DataType) -> Hasher:
    """Return what hashes arrays of a type. Raises OutputError for types that cannot be stored."""
    logical_name(kind)
    target = plain(kind)
    valid = _hasher(target)

    def hashed(array: Any) -> Hashes:
        nulls = array.null_count
        if nulls == len(array):
            return np.full(len(array), NULL)
        hashes = valid(array if target is kind else to_plain(array, target))
        if nulls:
            hashes[_is_null(array)] = NULL
        return hashes

    return hashed


def to_plain(array: Any, target: pa.DataType) -> Any:
    """Return an array in the layout ``plain`` names for its type."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array if array.type == target else array.cast(target)


def _hasher(kind: pa.DataType) -> Hasher:  # noqa: PLR0911 - one line per family of types
    if kinds.is_string(kind) or kinds.is_binary(kind):
        return lambda array: _hash_bytes(array, np.dtype("<i4"))
    if kinds.is_large_string(kind) or kinds.is_large_binary(kind):
        return lambda array: _hash_bytes(array, np.dtype("<i8"))
    if kinds.is_fixed_size_binary(kind) and not kinds.is_decimal(kind):
        return lambda array: _hash_fixed_bytes(array, kind.byte_width)
    if kinds.is_decimal(kind):
        return lambda array: _hash_wide(array, kind.bit_width // 64)
    if kinds.is_timestamp(kind) or kinds.is_duration(kind):
        return lambda array: _hash_seconds(_raw(array, np.dtype("<i8")), _PER_SECOND[kind.unit])
    if kinds.is_floating(kind):
        return lambda array: _hash_floats(_raw(array, np.dtype(f"<f{kind.bit_width // 8}")))
    if kinds.is_struct(kind):
        return _struct_hasher(kind)
    if kinds.is_fixed_size_list(kind) or _is_list(kind) or kinds.is_map(kind):
        return _list_hasher(kind)
    return _integer_hasher(kind)


def _integer_hasher(kind: pa.DataType) -> Hasher:
    if kinds.is_boolean(kind):
        return lambda array: _hash_integers(_raw(array.cast(pa.uint8()), np.dtype("<u1")))
    if kinds.is_date64(kind):
        return lambda array: _hash_integers(_raw(array, np.dtype("<i8")) // _MILLISECONDS_PER_DAY)
    if kinds.is_time(kind):
        to_nanoseconds = 1_000_000_000 // _PER_SECOND[kind.unit]
        width = np.dtype(f"<i{kind.bit_width // 8}")
        return lambda array: _hash_integers(_raw(array, width).astype(np.int64) * to_nanoseconds)
    if kinds.is_null(kind):
        return lambda array: np.full(len(array), NULL)
    width = np.dtype(f"<{'u' if kinds.is_unsigned_integer(kind) else 'i'}{kind.bit_width // 8}")
    return lambda array: _hash_integers(_raw(array, width))


def _raw(array: Any, dtype: np.dtype[Any], words: int = 1) -> NDArray[Any]:
    """Return the values of a fixed-width array without copying; what lies under NULL is arbitrary."""
    count = len(array) * words
    if not count:
        return np.empty(0, dtype)
    start = array.offset * words * dtype.itemsize
    return np.frombuffer(array.buffers()[1], dtype, count, start)


# Arrow's own to_numpy() would import pandas, which takes longer than most tasks.
def _is_null(array: Any) -> NDArray[Any]:
    return _raw(array.is_null().cast(pa.uint8()), np.dtype(np.bool_))


def _whole(array: Any) -> Integers:
    """Return a copy of signed integers of any width."""
    return _raw(array, np.dtype(f"<i{array.type.bit_width // 8}")).astype(np.int64)


def _hash_integers(values: NDArray[Any]) -> Hashes:
    return mixed(values.astype(np.int64, copy=False).view(np.uint64) + _STEP)


def _hash_floats(values: NDArray[Any]) -> Hashes:
    floats = values.astype(np.float64, copy=False) + 0.0  # -0.0 + 0.0 is 0.0
    bits: Hashes = floats.view(np.uint64)
    bits[np.isnan(floats)] = _NAN
    bits += _STEP
    return mixed(bits)


def _hash_seconds(values: Integers, per_second: int) -> Hashes:
    seconds = values // per_second
    nanoseconds = (values - seconds * per_second) * (1_000_000_000 // per_second)
    hashes = _hash_integers(seconds)
    hashes += nanoseconds.view(np.uint64)
    return mixed(hashes)


def _hash_wide(array: Any, words: int) -> Hashes:
    values = _raw(array, np.dtype("<u8"), words).reshape(-1, words)
    hashes = mixed(values[:, 0] + _STEP)
    for word in range(1, words):
        hashes += values[:, word]
        mixed(hashes)
    return hashes


def _hash_bytes(array: Any, width: np.dtype[Any]) -> Hashes:
    if not len(array):
        return np.empty(0, np.uint64)
    buffers = array.buffers()
    start = array.offset * width.itemsize
    offsets = np.frombuffer(buffers[1], width, len(array) + 1, start).astype(np.int64)
    first, end = int(offsets[0]), int(offsets[-1])
    data = buffers[2][first:end] if end > first else b""
    return _hash_slices(data, offsets[:-1] - first, np.diff(offsets))


def _hash_fixed_bytes(array: Any, width: int) -> Hashes:
    if not len(array):
        return np.empty(0, np.uint64)
    start = array.offset * width
    data = array.buffers()[1][start : start + len(array) * width]
    return _hash_slices(data, np.arange(len(array)) * width, np.full(len(array), width))


def _hash_slices(data: Any, starts: Integers, lengths: Integers) -> Hashes:
    """Hash the slices of a buffer that lie at ``starts`` and are ``lengths`` bytes long."""
    padded = np.empty(len(data) + 8, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    padded[len(data) :] = 0
    at_any_byte = np.ndarray((len(data) + 1,), "<u8", buffer=padded, strides=(1,))
    if lengths.max() <= _WORD:
        return _hash_words(at_any_byte[starts], lengths)
    is_long = lengths > LONG
    counts = (lengths + 7) >> 3
    counts[is_long] = 0
    ends = np.cumsum(counts)
    place = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
    words: Hashes = at_any_byte[np.repeat(starts, counts) + 8 * place]
    filled = counts > 0
    words[ends[filled] - 1] &= _LAST_WORD[(lengths[filled] - 1) & 7]
    hashes = _hash_sequences(words, place, ends, lengths)
    for row in np.flatnonzero(is_long):
        start = int(starts[row])
        hashes[row] = xxhash.xxh3_64_intdigest(padded[start : start + int(lengths[row])].data)
    return hashes


def _hash_words(words: Hashes, lengths: Integers) -> Hashes:
    """Hash slices that each fit into one word, as ``_hash_slices`` does; spoils ``words``."""
    words &= _FIRST_BYTES[lengths]
    words += _STEP
    mixed(words)[lengths == 0] = 0
    words += (lengths + 1).view(np.uint64) * _LENGTH
    return mixed(words)


def _hash_sequences(items: Hashes, place: Integers, ends: Integers, lengths: Integers) -> Hashes:
    """Hash sequences of 64-bit items that lie one after the other and end at ``ends``; spoils ``items``."""
    items += (place + 1).view(np.uint64) * _STEP
    sums = np.zeros(len(items) + 1, np.uint64)
    np.cumsum(mixed(items), out=sums[1:])
    totals = sums[ends]
    totals[1:] -= sums[ends[:-1]]
    totals += (lengths + 1).view(np.uint64) * _LENGTH
    return mixed(totals)


def _struct_hasher(kind: pa.DataType) -> Hasher:
    fields = [(seed(field.name), hasher(field.type)) for field in kind]

    def hashed(array: Any) -> Hashes:
        total = np.full(len(array), _STEP)
        for index, (factor, child) in enumerate(fields):
            total += child(array.field(index)) * factor
        return mixed(total)

    return hashed


def _list_hasher(kind: pa.DataType) -> Hasher:
    entries = pa.struct([kind.key_field, kind.item_field]) if kinds.is_map(kind) else kind.value_type
    child = hasher(entries)

    def hashed(array: Any) -> Hashes:
        starts, lengths = _list_bounds(array, kind)
        ends = np.cumsum(lengths)
        place = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
        first = int(starts.min())
        items = child(array.values.slice(first, int((starts + lengths).max()) - first))
        # Lists may leave out values, and list views take them in any order.
        return _hash_sequences(items[np.repeat(starts - first, lengths) + place], place, ends, lengths)

    return hashed


def _list_bounds(array: Any, kind: pa.DataType) -> tuple[Integers, Integers]:
    """Return where the items of each list start, and how many it has."""
    if kinds.is_fixed_size_list(kind):
        lengths = np.full(len(array), kind.list_size)
        return (np.arange(len(array)) + array.offset) * kind.list_size, lengths
    offsets = _whole(array.offsets)
    if not (kinds.is_list_view(kind) or kinds.is_large_list_view(kind)):
        return offsets[:-1], np.diff(offsets)
    lengths = _whole(array.sizes)
    lengths[_is_null(array)] = 0
    return offsets, lengths


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        kinds.is_list(kind)
        or kinds.is_large_list(kind)
        or kinds.is_list_view(kind)
        or kinds.is_large_list_view(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def _struct_name(kind: pa.DataType) -> str:
    return f"struct<{', '.join(f'{field.name}: {logical_name(field.type)}' for field in kind)}>"


_LOGICAL_NAMES: tuple[tuple[Callable[[pa.DataType], bool], str | Callable[[pa.DataType], str]], ...] = (
    (lambda kind: bool(kinds.is_integer(kind) or kinds.is_floating(kind)), str),
    (_is_text, "string"),
    (kinds.is_decimal, lambda kind: f"decimal({kind.precision}, {kind.scale})"),
    (kinds.is_timestamp, lambda kind: f"timestamp[tz={kind.tz}]" if kind.tz else "timestamp"),
    (kinds.is_date, "date"),
    (kinds.is_boolean, "bool"),
    (kinds.is_dictionary, lambda kind: logical_name(kind.value_type)),
    (_is_bytes, "binary"),
    (kinds.is_fixed_size_binary, str),
    (kinds.is_time, "time"),
    (kinds.is_duration, "duration"),
    (kinds.is_null, "null"),
    (kinds.is_struct, _struct_name),
    (_is_list, lambda kind: f"list<{logical_name(kind.value_type)}>"),
    (kinds.is_fixed_size_list, lambda kind: f"list<{logical_name(kind.value_type)}>[{kind.list_size}]"),
    (kinds.is_map, lambda kind: f"map<{logical_name(kind.key_type)}, {logical_name(kind.item_type)}>"),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda kind: logical_name(kind.storage_type)),
)

_PLAIN_TYPES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]], ...] = (
    (kinds.is_string_view, lambda _: pa.large_string()),
    (kinds.is_binary_view, lambda _: pa.large_binary()),
    (
        lambda kind: bool(kinds.is_decimal(kind) and kind.precision <= _DECIMAL128_DIGITS),
        lambda kind: pa.decimal128(kind.precision, kind.scale),
    ),
    (kinds.is_float16, lambda _: pa.float32()),
)
