"""How many bytes items take in memory: exactly where that is cheap, by a few of them elsewhere."""

import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

_SLOT_BYTES = 16
"""What a list takes for each item that it holds, and what is lost by rounding sizes up."""

_ROUND = 15
"""Small things take a multiple of 16 bytes; ``sys.getsizeof`` does not say so."""

_LOOKED_AT = 8
_LOOKED_INTO = 4
_DEEPEST = 3
"""How many items of a chunk are looked at, how many parts of each, and how deep."""

_PART = 512
"""A few of so many are looked at where there is time for it."""

_UNKNOWN_BYTES = 64
_BUFFER_BYTES = 112
_VALUES_BYTES = 32
_MOST_SHARED_NAMES = 64
"""A mapping with so few names that are text is a record; all records share them, as parsers see to."""

_GOLDEN = 0.6180339887498949
_PLACES = tuple(number * _GOLDEN % 1 for number in range(_LOOKED_AT))
"""Where to look, between 0 and 1: evenly, but in step with nothing."""

_PLAIN = frozenset({bytes, bytearray, str})
_LISTS = frozenset({list, tuple})
_SMALL = (int, float, complex, bool, type(None), str, bytes, bytearray, type)


def weigh(items: Sequence[Any]) -> int:
    """Return about how many bytes a list of items takes together.

    Exact for texts and bytes (their lengths, and what Python needs besides), for whatever has ``nbytes``
    (NumPy, Arrow), and for lists of those; all else is taken to be like a few items that are looked at. What
    several items share is counted for each. Raises nothing.
    """
    count = len(items)
    if count <= _LOOKED_AT:
        some: Sequence[Any] = items
    else:
        some = [items[int(place * count)] for place in _PLACES]
    exact = _exactly(items, some)
    if exact is None:
        exact = sum(map(weight, some)) * count // max(1, len(some))
    return _SLOT_BYTES * count + exact


def weigh_mapping(rows: Mapping[Any, Any]) -> int:
    """Return about how many bytes a mapping takes with its keys and values, of which a few are looked at.

    Of one that is no ``dict``, and may fetch its values from elsewhere, only the first few. Raises nothing.
    """
    if not isinstance(rows, dict):
        return weight(rows)
    return _own(rows) + _weigh_parts(list(rows)) + _weigh_parts(list(rows.values()))


def weights(items: Sequence[Any]) -> list[int]:
    """Return about how many bytes each of some items takes, for whoever lets go of them one by one.

    What it takes itself where they are few, texts and bytes, or have ``nbytes``; the mean of all elsewhere.
    """
    count = len(items)
    if count <= _LOOKED_AT:
        return list(map(weight, items))
    kinds = set(map(type, items))
    if kinds <= _PLAIN:
        return list(map(_own, items))
    if all(map(_is_buffer, kinds)):
        return list(map(weight, items))
    return [weigh(items) // count] * count


def weight(item: object) -> int:
    """Return about how many bytes one item takes, with what it holds. Raises nothing."""
    try:
        return _estimate(item, _DEEPEST)
    except Exception:  # noqa: BLE001 - of the item's own code, which says how large it is
        return _UNKNOWN_BYTES


def decoded_pixels(width: int, height: int, channels: int = 3, bits: int = 8) -> int:
    """Return how many bytes an image takes once it is decoded, row by row without padding."""
    return height * ((width * channels * bits + 7) // 8)


def _weigh_parts(items: list[Any]) -> int:
    """Return what items take beside the places where they are, with more looks at more of them."""
    places = range(0, len(items), _PART)
    return sum(weigh(items[start : start + _PART]) for start in places) - _SLOT_BYTES * len(items)


def _exactly(items: Sequence[Any], some: Sequence[Any]) -> int | None:
    """Return what items take, if some of them look as if that could be told without a look into each."""
    kinds = set(map(type, some))
    try:
        if kinds <= _PLAIN:
            return sum(map(sys.getsizeof, items))
        if kinds <= _LISTS:
            return sum(map(sys.getsizeof, items)) + _within(items, some)
        if all(map(_is_buffer, kinds)):
            return sum(map(weight, items))
    except Exception:  # noqa: BLE001 - one of the others is something else, or its own code raises
        return None
    return None


def _within(lists: Sequence[Any], some: Sequence[Any]) -> int:
    """Return what lists hold: exactly if it is plain, else by a few of them."""
    kinds = set(map(type, chain.from_iterable(islice(each, 2) for each in some)))
    if kinds <= _PLAIN:
        return sum(map(sys.getsizeof, chain.from_iterable(lists)))
    held = sum(map(len, lists))
    looked_at = [(len(each), _mean(each)) for each in some]
    counted = sum(count for count, _ in looked_at)
    return int(sum(count * mean for count, mean in looked_at) * held / counted) if counted else 0


def _mean(items: Sequence[Any]) -> float:
    """Return the mean bytes of what a list holds, by a few of it."""
    few = (
        items if len(items) <= _LOOKED_INTO else [items[int(p * len(items))] for p in _PLACES[:_LOOKED_INTO]]
    )
    return sum(_estimate(each, _DEEPEST - 1) for each in few) / len(few) if few else 0.0


def _own(item: object) -> int:
    return (sys.getsizeof(item) + _ROUND) & ~_ROUND


def _estimate(item: object, deep: int) -> int:
    if isinstance(item, _SMALL):
        return _own(item)
    kind = type(item)
    if _is_buffer(kind):
        return _BUFFER_BYTES + _buffer_bytes(item)
    own = _own(item)
    if not deep:
        return own
    if isinstance(item, Mapping):
        names = 0 if _is_record(item) else _some_of(item.keys(), deep)
        return own + names + _some_of(item.values(), deep)
    if isinstance(item, list | tuple | set | frozenset | deque):
        return own + _some_of(item, deep)
    return own + _fields(item, deep)


def _some_of(held: Collection[Any], deep: int) -> int:
    """Return what the parts of a container take, by the first few of them."""
    count = len(held)
    if not count:
        return 0
    few = list(islice(held, _LOOKED_INTO))
    return sum(_estimate(each, deep - 1) for each in few) * count // len(few)


def _is_record(item: Mapping[Any, Any]) -> bool:
    return len(item) <= _MOST_SHARED_NAMES and all(isinstance(name, str) for name in islice(item, 1))


def _fields(item: object, deep: int) -> int:
    """Return what the attributes of an object take."""
    total = 0
    held = getattr(item, "__dict__", None)
    if type(held) is dict:
        # Its names are shared by all of its class, and there is no dictionary until somebody asks for it.
        total += (
            _VALUES_BYTES
            + _SLOT_BYTES // 2 * len(held)
            + sum(_estimate(each, deep - 1) for each in held.values())
        )
    for name in _slots(type(item)):
        each = getattr(item, name, None)
        if each is not None:
            total += _estimate(each, deep - 1)
    return total


def _slots(kind: type) -> Iterable[str]:
    fields = getattr(kind, "__struct_fields__", None)
    if isinstance(fields, tuple):
        return fields
    named: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        named += [slots] if isinstance(slots, str) else slots
    return [name for name in named if name not in {"__dict__", "__weakref__"}]


def _is_buffer(kind: type) -> bool:
    """Whether such things say themselves how many bytes they hold; asked of the class, which runs no code."""
    return hasattr(kind, "nbytes") or hasattr(kind, "estimated_size")


def _buffer_bytes(item: Any) -> int:
    size = item.nbytes if hasattr(type(item), "nbytes") else item.estimated_size()
    return int(size)
