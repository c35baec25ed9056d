"""How far a stream has been dealt with, in a file that survives its own writing.

The file is replaced as a whole: written aside with a checksum, synced, renamed, and the one before is kept.
Whoever finds the newest one damaged goes on from the one before; what was done since then is done again.
"""

import threading
from collections.abc import Mapping
from pathlib import Path

from sidestage.data.blaming import blaming
from sidestage.data.syncing import sync_folder
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Positions, Progress
from sidestage.stream.sealed import DamagedError, read_sealed, write_sealed


class Checkpoint:
    """A file to give to ``run(checkpoint=...)``. Safe for threads; one stream at a time uses it.

    Raises DataError if the file and the one before it are both damaged, or were written by a later release,
    and if there is no folder for it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.previous = self.path.with_name(f"{self.path.name}.previous")
        self._lock = threading.Lock()
        self._user: object = None
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise DataError(
                f"The checkpoint {self.path} cannot be a file.",
                hint="Name a file in a folder that is there.",
            )
        self._stamp, self._is_damaged = self._stamp_of_file(), False
        self._progress = self._load()

    def begin_use(self, user: object) -> None:
        """Note who keeps its progress here. Raises DefinitionError if somebody else of this process does."""
        with self._lock:
            if self._user not in (None, user):
                raise DefinitionError(
                    f"The checkpoint {self.path} is used by another stream that is running.",
                    hint="Give each stream a file of its own.",
                )
            self._user = user

    def end_use(self, user: object) -> None:
        """Note that somebody does not keep its progress here any more, if that was so."""
        with self._lock:
            if self._user is user:
                self._user = None

    @property
    def progress(self) -> Progress:
        """What was saved last, or loaded if nothing was saved since."""
        return self._progress

    def positions(self, source: str) -> Positions:
        """Return where to go on reading a source."""
        return self._progress.positions.get(source, {})

    def save(self, source: str, reached: Positions) -> None:
        """Note, safely, that parts of a source have been dealt with up to new positions.

        Raises OSError, and DataError if another stream has written to the file.
        """
        self.save_all({source: reached}, self._progress.states)

    def save_all(self, reached: Mapping[str, Positions], states: Mapping[str, bytes]) -> None:
        """Note, safely and together, new positions of sources and the states that belong to them."""
        with self._lock:
            progress = self._progress.going_on(reached, states)
            with blaming(self.path):
                self._write(progress)
            self._progress = progress

    def _is_whole(self) -> bool:
        """Return whether the newest file is what was written. Raises DataError if somebody else wrote it."""
        stamp = self._stamp_of_file()
        if stamp is not None and stamp == self._stamp:
            return not self._is_damaged
        try:
            found, _ = read_sealed(self.path)
        except (FileNotFoundError, DamagedError):
            return False
        if found != self._progress:
            raise DataError(
                f"Another stream has written to the checkpoint {self.path} meanwhile.",
                hint="Is it running twice? Give each stream a file of its own, or stop one of them.",
            )
        return True

    def _stamp_of_file(self) -> tuple[int, int, int] | None:
        """Return what differs whenever the newest file was written anew; None if there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _write(self, progress: Progress) -> None:
        is_whole = self._is_whole()
        aside = self.path.with_name(f"{self.path.name}.new")
        write_sealed(aside, progress)
        if is_whole:  # a damaged one must not take the place of the one that was gone on from
            self.path.replace(self.previous)
        aside.replace(self.path)
        sync_folder(self.path.parent)
        self._stamp, self._is_damaged = self._stamp_of_file(), False

    def _load(self) -> Progress:
        errors = []
        for path in (self.path, self.previous):
            try:
                return read_sealed(path)[0]
            except FileNotFoundError:
                continue
            except DamagedError as error:
                self._is_damaged = True
                errors.append(f"{path.name}: {error}")
        if errors:
            raise DataError(
                f"The checkpoint {self.path} cannot be read ({'; '.join(errors)}).",
                hint="Move the files away to begin from the start, or put back a copy.",
            )
        return Progress(0, {})
