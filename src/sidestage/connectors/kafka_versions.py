"""Versions of how far a stream has come, in files; which of them counts is committed in Kafka.

A version is written and synced before the commit that names it, and removed after a later one only. So the
commit alone moves the stream from one version to the next, whatever becomes of the process or of the answer.
"""

import contextlib
import secrets
from pathlib import Path
from urllib.parse import quote

import msgspec

from sidestage.data.blaming import blaming
from sidestage.data.syncing import sync_folder
from sidestage.errors import DataError
from sidestage.stream.contract import Progress
from sidestage.stream.sealed import DamagedError, read_sealed, write_sealed

ANEW = (
    "To begin anew, with nothing counted yet: stop the stream, move the group of its source to where counting"
    " is to begin (kafka-consumer-groups --reset-offsets), and give the sink another identity."
)
_ENDING = ".state"


class Version(msgspec.Struct, frozen=True):
    """Names one. ``count`` is how many commits there were, this one included."""

    count: int
    file: str
    checksum: str


class Versions:
    """Those of one writer, whose ``identity`` begins their names. One thread at a time uses it.

    The committed one is kept, and the one before: a cluster that lost its power may go back by a commit.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity
        self._prefix = quote(identity, safe="")
        self._count = 0
        self._kept: str | None = None
        self._left: set[str] = set()

    def begin(self, committed: Version | None) -> Progress:
        """Go on from what is committed, when nobody else can commit any more.

        Raises DataError if it is not there, or is not what was written.
        """
        progress = self.load(committed)
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
            sync_folder(self._folder.parent)
        if committed is not None:
            self._count, self._kept = committed.count, committed.file
        self._left = set(self._found()) - {self._kept}
        return progress

    def load(self, committed: Version | None) -> Progress:
        """Return what a version holds; a ``Progress`` with number 0 if there is none. Raises DataError."""
        if committed is None:
            self._require_none()
            return Progress(0, {})
        path = self._folder / committed.file
        problem = "its checksum is another one"
        try:
            progress, checksum = read_sealed(path)
        except FileNotFoundError:
            problem = "it is not there"
        except DamagedError as error:
            problem = str(error)
        else:
            if checksum == committed.checksum:
                return progress
        raise DataError(
            f"The state {path}, to which the committed offsets of {self._identity!r} belong, cannot be read:"
            f" {problem}.",
            hint=f"Put back the file, of which there is no other copy that counts. {ANEW}",
        )

    def write(self, progress: Progress) -> Version:
        """Write one to be committed next. Raises OSError."""
        name = f"{self._prefix}-{self._count + 1:010}-{secrets.token_hex(8)}{_ENDING}"
        self._left.add(name)
        with blaming(self._folder / name):
            checksum = write_sealed(self._folder / name, progress)
            sync_folder(self._folder)
        return Version(self._count + 1, name, checksum)

    def note_committed(self, version: Version) -> None:
        """Go on from a version that was committed, and remove what nobody goes back to."""
        for name in self._left - {version.file}:
            with contextlib.suppress(OSError):  # whoever begins the next time tries again
                (self._folder / name).unlink(missing_ok=True)
        self._left = set() if self._kept is None else {self._kept}
        self._count, self._kept = version.count, version.file

    def _require_none(self) -> None:
        """Raise DataError if there was a commit. A first one that failed leaves nothing but first files."""
        last = max(self._found().values(), default=0)
        if last > 1:
            raise DataError(
                f"{self._folder} holds version {last} of the state of {self._identity!r}, but Kafka knows of"
                " none: it has forgotten it, or it was kept in another cluster or with another topic.",
                hint="Kafka forgets what no stream has committed to for offsets.retention.minutes (a week),"
                f" and what belongs to a topic that was removed. {ANEW}",
            )

    def _found(self) -> dict[str, int]:
        """Return the files of this writer, with how many commits there were."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                prefix, _, count = path.stem.rpartition("-")[0].rpartition("-")
                if prefix == self._prefix and count.isdecimal() and path.suffix == _ENDING:
                    found[path.name] = int(count)
        return found
