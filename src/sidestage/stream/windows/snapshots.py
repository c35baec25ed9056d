"""States as bytes: sealed with a version and a checksum, so that damage is noticed before it is read."""

import hashlib
import pickle
from typing import Any

from sidestage.errors import DataError, OutputError

_MARK = b"sidestage windows\n"
_VERSION = 1
_DIGEST = 16
_HEAD = len(_MARK) + 2 + _DIGEST
_HINT = "Use the checkpoint before it."


def seal(shape: str, state: Any) -> bytes:
    """Return a state as bytes. ``shape`` says what it is the state of.

    Raises OutputError if something in it (a key, or a state of a Fold) cannot be pickled.
    """
    try:
        body = pickle.dumps((shape, state), protocol=5)
    except Exception as error:
        raise OutputError(
            f"A snapshot of the windows ({shape}) failed: {error}",
            hint="Keys and what aggregates keep must be values that pickle can write.",
        ) from error
    return _MARK + _VERSION.to_bytes(2, "big") + _digest(body) + body


def unseal(shape: str, sealed: bytes) -> Any:
    """Return the state that was sealed. Only for bytes this program wrote: pickle runs what it reads.

    Raises DataError if it is damaged, of another version, or of another shape.
    """
    view = bytes(sealed)
    if len(view) < _HEAD or not view.startswith(_MARK):
        raise DataError(f"A snapshot of {len(view):,} bytes is none of windows, or is cut off.", hint=_HINT)
    version = int.from_bytes(view[len(_MARK) : len(_MARK) + 2], "big")
    if version != _VERSION:
        raise DataError(
            f"A snapshot of windows has version {version}; this release reads {_VERSION}.",
            hint="Let the release that wrote it drain the stream.",
        )
    body = view[_HEAD:]
    if _digest(body) != view[len(_MARK) + 2 : _HEAD]:
        raise DataError(f"A snapshot of windows, {len(view):,} bytes, is damaged.", hint=_HINT)
    try:
        found, state = pickle.loads(body)  # noqa: S301 - its checksum says that we wrote it
    except Exception as error:
        raise DataError(
            f"A snapshot of windows cannot be read: {error}",
            hint="The classes of its keys and states must be importable under their old names.",
        ) from error
    if found != shape:
        raise DataError(
            f"A snapshot is of {found}, but the stream now has {shape}.",
            hint="Restore it with the declaration it was made with, or begin without it.",
        )
    return state


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST).digest()
