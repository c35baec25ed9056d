"""What is noted of the transactions of a folder: who may write, what was committed last, and its files."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidestage.connectors.failure import ConnectorError
from sidestage.data.syncing import sync_folder
from sidestage.errors import DataError
from sidestage.stream.contract import Progress

ASIDE = ".aside"
_VERSION = 1


class Manifest(msgspec.Struct, frozen=True):
    """``writer`` numbers those who opened the folder, ``commits`` the transactions.

    ``files`` are those of the last transaction, by their final names, with where they lay before.
    """

    version: int = _VERSION
    writer: int = 0
    commits: int = 0
    progress: Progress = Progress(0, {})
    files: dict[str, str] = {}


class Notes:
    """The manifest of a folder, and the files that lie aside. Whoever changes it keeps all others out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.aside = folder / "_sidestage"
        self._path = self.aside / "manifest.json"

    def begin(self) -> Manifest:
        """Catch up, fence off whoever wrote before, and clear away what they did not commit."""
        self.aside.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self._path.exists():
                self._require_empty()
            before = self._load()
            self._publish(before)
            now = msgspec.structs.replace(before, writer=before.writer + 1, files={})
            self._save(now)
            for left in self.aside.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
            self.place_of(now).mkdir()
        return now

    def commit(self, last: Manifest, progress: Progress, files: list[str]) -> Manifest:
        """Note a transaction, and give its files their names.

        Raises ConnectorError of class "stale" if somebody else has opened the folder since ``last``.
        """
        with self._locked():
            if self._load().writer != last.writer:
                raise ConnectorError(
                    f"Writing {self._folder} failed: somebody else writes to it now.",
                    hint="Nothing of this transaction is seen. One stream at a time writes to a folder.",
                    failure_class="stale",
                )
            lying = self.place_of(last).relative_to(self.aside)
            places = {file: f"{lying / file}{ASIDE}" for file in files}
            now = Manifest(_VERSION, last.writer, last.commits + 1, progress, places)
            self._save(now)
            self._publish(now)
        return now

    def progress(self) -> Progress:
        """Return what was committed last, after its files have their names."""
        if not self._path.exists():
            return Progress(0, {})
        with self._locked():
            now = self._load()
            self._publish(now)
        return now.progress

    def place_of(self, manifest: Manifest) -> Path:
        """Return where its writer keeps what is not committed."""
        return self.aside / str(manifest.writer)

    def _publish(self, manifest: Manifest) -> None:
        for name, lying in manifest.files.items():
            with contextlib.suppress(FileNotFoundError):  # it has its name already
                (self.aside / lying).rename(self._folder / name)
        if manifest.files:
            sync_folder(self._folder)

    def _require_empty(self) -> None:
        found = next(self._folder.glob("*.parquet"), None)
        if found is not None:
            raise DataError(
                f"{self._folder} holds {found.name}, but no note of what was committed there.",
                hint="Write to a new folder, or put _sidestage/manifest.json back.",
            )

    def _load(self) -> Manifest:
        try:
            manifest = msgspec.json.decode(self._path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return Manifest()
        except msgspec.DecodeError as error:
            raise DataError(
                f"{self._path} is damaged: {error}.", hint="Put back a copy, or write to a new folder."
            ) from error
        if manifest.version > _VERSION:
            raise DataError(
                f"{self._path} was written by a later release of Sidestage.", hint="Use that release."
            )
        return manifest

    def _save(self, manifest: Manifest) -> None:
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self.aside)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.aside / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
