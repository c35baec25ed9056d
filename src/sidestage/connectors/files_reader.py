"""Read one file after another: each is a part, and begins at its own position."""

import glob
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sidestage.errors import DataError, DefinitionError
from sidestage.stream.contract import Batch, Positions

T = TypeVar("T")
Paths = str | Path | Sequence[str | Path]
"""A file, a pattern as of ``glob`` (``**`` goes into folders), or several of these."""


class OpenFile(Protocol):
    """A file that is being read; ``at`` is the position of what comes next."""

    at: int

    def take(self, limit: int) -> "Sequence[Any] | None":
        """Return the next items, at most ``limit``; None at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class FilesReader(Generic[T]):
    """Reads files in the order given. Positions are those of the files; nobody is told of them."""

    def __init__(
        self, paths: Sequence[Path], open_file: Callable[[Path, int], OpenFile], resume: Positions
    ) -> None:
        self._paths = list(reversed(paths))
        self._open_file = open_file
        self._resume = {part: _number(part, position) for part, position in resume.items()}
        self._part = ""
        self._file: OpenFile | None = None

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return the next items, all of one file; None at the end of the last. Raises DataError, OSError."""
        del wait
        if limit < 1:
            return ()
        while True:
            if self._file is None:
                if not self._paths:
                    return None
                self._file = self._open_next()
            first = self._file.at
            items = self._file.take(limit)
            if items is not None:
                return (Batch(self._part, first, list(items), self._file.at),)
            self.close()

    def stop(self) -> None:
        """Read nothing more."""
        self._paths = []
        self.close()

    def commit(self, positions: Positions) -> None:
        """Do nothing: files keep no positions. A checkpoint does."""

    def lost(self) -> Collection[str]:
        """Return nothing: files are not taken away."""
        return ()

    def close(self) -> None:
        """Close the file that is open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open_next(self) -> OpenFile:
        path = self._paths.pop()
        self._part = str(path)
        return self._open_file(path, self._resume.get(self._part, 0))


def files_of(paths: Paths, *, may_be_none: bool) -> list[Path]:
    """Return the files that there are, sorted by name, each once.

    Raises DataError if a file is not there, or a pattern fits none, unless there may be none.
    """
    found: set[Path] = set()
    for given in _each(paths):
        text = str(given)
        here = [Path(each) for each in glob.glob(text, recursive=True)]  # noqa: PTH207 - also absolute ones
        files = [path for path in (here or [Path(text)]) if path.is_file() or not (here or may_be_none)]
        missing = [path for path in files if not path.exists()]
        if missing or (not files and not may_be_none):
            raise DataError(
                f"There is no file {text}.",
                hint="Is the folder the right one? Say may_be_none=True if there may be nothing to read.",
            )
        found.update(files)
    return sorted(found)


def name_of(kind: str, paths: Paths) -> str:
    """Return what people call a source of files."""
    return f"{kind}:{','.join(map(str, _each(paths)))}"


def _each(paths: Paths) -> Sequence[str | Path]:
    return (paths,) if isinstance(paths, str | Path) else paths


def _number(part: str, position: object) -> int:
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise DefinitionError(
            f"{part} cannot go on from {position!r}: positions in files are numbers.",
            hint="The checkpoint belongs to another source.",
        )
    return position
