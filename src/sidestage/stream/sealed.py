"""Files that hold how far a stream has come, with a checksum that tells whether they are what was written."""

import os
from pathlib import Path

import msgspec
import xxhash

from sidestage.errors import DataError
from sidestage.stream.contract import Progress

_VERSION = 1


class _Sealed(msgspec.Struct, frozen=True):
    version: int
    checksum: str
    progress: msgspec.Raw


class DamagedError(Exception):
    """A file that is not what was written."""


def write_sealed(path: Path, progress: Progress) -> str:
    """Write a file, and have it on the disk; return its checksum. Its name in the folder is not synced."""
    body = msgspec.json.encode(progress)
    checksum = xxhash.xxh3_128_hexdigest(body)
    with path.open("wb") as file:
        file.write(msgspec.json.encode(_Sealed(_VERSION, checksum, msgspec.Raw(body))))
        file.flush()
        os.fsync(file.fileno())
    return checksum


def read_sealed(path: Path) -> tuple[Progress, str]:
    """Return what a file holds, and its checksum.

    Raises DamagedError; FileNotFoundError; DataError if a later release wrote it.
    """
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
    except msgspec.DecodeError as error:
        raise DamagedError(str(error)) from error
    if sealed.version > _VERSION:
        raise DataError(
            f"The checkpoint {path} was written by a later release of Sidestage.",
            hint="Use that release, or move the file away to begin from the start.",
        )
    body = bytes(sealed.progress)
    if xxhash.xxh3_128_hexdigest(body) != sealed.checksum:
        raise DamagedError("its checksum is another one")
    return msgspec.json.decode(body, type=Progress), sealed.checksum
