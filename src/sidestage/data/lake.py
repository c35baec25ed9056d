"""The Parquet lake: versions as immutable files ``<root>/<dataset>/<partition>~<version>.parquet``.

This half finds, verifies and removes files, and needs no library to do so; ``lake_writer`` writes them.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import xxhash

from sidestage.data.names import check_dataset_name, file_key
from sidestage.data.version import Stored
from sidestage.errors import DataError, NameRefused

_READ_BUFFER = 1 << 20
_FINAL = re.compile(r"[a-z0-9_=,+%-]+~[0-9a-f]{24}\.parquet")
_TEMPORARY = re.compile(rf"\.{_FINAL.pattern}\.tmp")


class Lake:
    """A lake in a folder of a local or network file system, as those see it who do not write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, stored: Stored) -> Path:
        """Return where the version lies. Raises DataError for a path that is not one of the lake's."""
        return self.root / _checked_path(stored.path)

    def verify(self, stored: Stored) -> None:
        """Read the file's bytes again, or a value's. Raises DataError, naming what differs."""
        if stored.value is not None:
            _verify_value(stored, stored.value.encode())
            return
        path = self.path(stored)
        hint = "Restore the file from a backup, or roll back to an older version and run the step again."
        try:
            size, checksum = _size_and_checksum(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.", hint=hint) from error
        if size != stored.bytes:
            raise DataError(f"{path} has {size:,} bytes, but {stored.bytes:,} were written.", hint=hint)
        if checksum != stored.checksum:
            raise DataError(
                f"{path} has the checksum {checksum}, but {stored.checksum} was written.", hint=hint
            )

    def orphans(self, known: Collection[str], *, unchanged_since: datetime) -> Iterator[Path]:
        """Yield files of the lake's naming that are neither known nor new; see ``Substrate.orphans``."""
        known = frozenset(known)
        newest = unchanged_since.timestamp()
        folders = [self.root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except FileNotFoundError:  # never written, or removed while we look
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                    continue
                relative = Path(entry.path).relative_to(self.root)
                if relative.as_posix() in known or not _is_ours(relative):
                    continue
                with suppress(FileNotFoundError):  # a write may end while we look
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime <= newest:
                        yield relative

    def remove_unpublished(self, dataset: str, partition: str, version_id: str) -> None:
        """Remove what a writer that is gone may have left of a version that nobody will publish."""
        final = f"{file_key(partition)}~{version_id}.parquet"
        for name in (f".{final}.tmp", final):
            self.remove(f"{dataset}/{name}")

    def remove(self, relative: str | Path) -> None:
        """Remove one file; does nothing if it is gone. Raises DataError for what the lake did not write."""
        path = _checked_path(str(relative), temporary=True)
        with suppress(FileNotFoundError):
            for folder in reversed(path.parents[:-1]):
                check_folder(self.root / folder)
            (self.root / path).unlink()


def _checked_path(relative: str, *, temporary: bool = False) -> Path:
    path = Path(relative)
    if path.is_absolute() or not _is_ours(path) or (path.name.startswith(".") and not temporary):
        raise DataError(f"{ascii(relative)[:300]} is not the path of a version in this lake.")
    return path


def _verify_value(stored: Stored, text: bytes) -> None:
    checksum = xxhash.xxh3_128_hexdigest(text)
    if (len(text), checksum) != (stored.bytes, stored.checksum):
        raise DataError(
            f"A value of {len(text):,} bytes has the checksum {checksum}, but {stored.bytes:,} bytes with "
            f"{stored.checksum} were written.",
            hint="Restore the catalog from a backup, or run the step again.",
        )


def _is_ours(relative: Path) -> bool:
    try:
        check_dataset_name(relative.parent.as_posix())
    except NameRefused:
        return False
    return bool(_FINAL.fullmatch(relative.name) or _TEMPORARY.fullmatch(relative.name))


def check_folder(folder: Path) -> None:
    """Raise DataError if a path is not a real folder: nothing is ever followed out of the lake."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise DataError(
            f"{folder} is not a folder but a link or file.",
            hint="The lake follows no links inside its root; put the whole root where the space is.",
        )


def _size_and_checksum(path: Path) -> tuple[int, str]:
    checksum, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BUFFER):
            checksum.update(block)
            size += len(block)
    return size, str(checksum.hexdigest())
