"""Which worker has a key: the same one in every process, so that windows find their keys again."""

import pickle
from typing import Any

import xxhash


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
    return xxhash.xxh3_64_intdigest(pickle.dumps(key, 5))
