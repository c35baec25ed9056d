"""Which worker has a key: the same one in every process, so that windows find their keys again."""

import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any

import xxhash

from sidestage.errors import DefinitionError
from sidestage.stream.failing import shown


def require_key(value: Any, spread: Callable[[Any], int], stage: str) -> int:
    """Return the number of the default key of a stage. Raises DefinitionError if it is no key."""
    try:
        return spread(value)
    except Exception as error:
        raise DefinitionError(
            f"The default of {stage!r}, {shown(value)}, is no key: {error}",
            hint="Give Default(...) something that can be hashed, such as a text or a number.",
        ) from error


def spread(key: Any) -> int:
    """Return a number for a key that is the same in every process, and for keys that are equal.

    Python's own hash is another one in each process for texts, and for all that is made of them. Raises
    TypeError for a key that cannot be hashed, and what pickling it raises.
    """
    if isinstance(key, int | float | complex):
        return hash(key)
    if isinstance(key, str):
        return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, bytes):
        return xxhash.xxh3_64_intdigest(key)
    if key is None:
        return 0
    if isinstance(key, tuple):
        return hash(tuple(map(spread, key)))
    hash(key)  # or it could not be counted by
    body = BytesIO()
    pickler = pickle.Pickler(body, 5)
    pickler.fast = True  # or a key that holds one text twice would differ from one that holds two equal ones
    pickler.dump(key)
    return xxhash.xxh3_64_intdigest(body.getvalue())
