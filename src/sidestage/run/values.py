"""Values: partitions that are one small piece of JSON, kept in the catalog."""

import math
from typing import Any

import msgspec
import xxhash

from sidestage.data.version import Digest, Stored
from sidestage.errors import DataError, OutputError
from sidestage.run.messages import InputFiles

MOST_BYTES = 65_536
ALGORITHM = "sidestage-value-1"
"""XXH3-128 of the value's JSON, keys of mappings sorted."""


def to_stored(value: object) -> Stored:
    """Return a value as it is kept. Raises OutputError for what is no JSON, or too large."""
    try:
        text = msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise OutputError(
            f"The task returned {type(value).__name__}, which is no value: {error}.",
            hint="Return text, numbers, lists and mappings of such; rows belong in a Dataset.",
        ) from error
    if b"null" in text and not _is_finite(msgspec.to_builtins(value)):
        raise OutputError(
            "The task returned a number that is not finite, which is no value: JSON has none such.",
            hint="Return None, or text, in its place.",
        )
    if len(text) > MOST_BYTES:
        raise OutputError(
            f"The value is {len(text):,} bytes of JSON; a value may have {MOST_BYTES:,}.",
            hint="Keep what is larger in a Dataset.",
        )
    hashed = xxhash.xxh3_128_hexdigest(text)
    digest = Digest(algorithm=ALGORITHM, rows=1, content=hashed, columns=())
    return Stored(path="", bytes=len(text), checksum=hashed, schema=(), digest=digest, value=text.decode())


def _is_finite(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list() | tuple() | set() | frozenset():
            return all(map(_is_finite, value))
        case _:
            return True


def from_input(received: InputFiles, annotation: object) -> object:
    """Return a value, or a mapping from partitions to values, in the type that a parameter annotates.

    Raises DataError if a value does not fit the annotation.
    """
    wanted: Any = annotation
    text = _together(received)
    try:
        return msgspec.json.decode(text, type=wanted)
    except (msgspec.ValidationError, TypeError) as error:
        raise DataError(
            f"The value of {received.parameter!r} does not fit its annotation: {error}.",
            hint="Annotate what was returned when it was made, or make it again.",
        ) from error


def _together(received: InputFiles) -> str:
    if received.single:
        return received.values[0][1] if received.values else "null"
    entries = (f"{msgspec.json.encode(key).decode()}:{value}" for key, value in received.values)
    return f"{{{','.join(entries)}}}"
