"""A stream that a task returned: drawn from as its rows are written, with a place for its dead letters."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidestage.stream.failing import DeadLetter
from sidestage.stream.letters.file import LetterFile
from sidestage.stream.places.iteration import HandOver
from sidestage.stream.stream import Stream


class AttemptLetters:
    """The dead letters of one attempt, in a file beside its log; there is none if nothing is set aside.

    A candidate's code, behind its wall, may not write there: its letters are printed into the log instead
    when the stream has ended. Safe for threads.
    """

    def __init__(self, log: Path) -> None:
        self.path = log.with_suffix(".letters.jsonl")
        self._lock = threading.Lock()
        self._file: LetterFile | None = None
        self._is_aside = False
        self._count = 0

    def __call__(self, letter: DeadLetter) -> None:
        """Keep a letter."""
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._count += 1
        self._file(letter)

    def sync(self) -> None:
        """Make safe what was kept."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the file, and say in the log of the attempt where it is."""
        if self._file is None:
            return
        self._file.close()
        plural = "" if self._count == 1 else "s"
        if not self._is_aside:
            sys.stdout.write(f"{self._count} dead letter{plural}: {self.path}\n")
            return
        sys.stdout.write(f"{self._count} dead letter{plural}:\n")
        with self._file.path.open(encoding="utf-8") as lines:
            sys.stdout.writelines(lines)
        self._file.path.unlink()

    def _open(self) -> LetterFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return LetterFile(self.path)
        except OSError:
            self._is_aside = True
            return LetterFile(Path(tempfile.gettempdir()) / self.path.name)


def rows_of(stream: Stream[Any], letters: AttemptLetters) -> Iterator[Any]:
    """Run a stream, and yield what comes out; closed early, it is cancelled, and its threads have ended then.

    Raises as ``Flow.run`` does.
    """
    sink = HandOver()
    engine = stream.to(sink).engine(dead_letters=letters)
    try:
        yield from sink.iterate(engine)
    finally:
        letters.close()
