"""Dead letters in a folder: a file for each day, and an end to how many days are kept."""

import threading
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import Self

from sidestage.clock import Clock, SystemClock
from sidestage.errors import ConfigurationError
from sidestage.stream.failing import DeadLetter
from sidestage.stream.letters.file import LetterFile, StoredLetter, stored
from sidestage.stream.letters.marks import marks_beside

_ENDING = ".jsonl"


class LetterFolder:
    """A folder to give to ``run(dead_letters=...)``: letters lie in ``2026-01-31.jsonl``, by their day (UTC).

    ``keep_days`` says how many days are kept, today among them; files of earlier days are removed when the
    day turns, and when it is opened. None: all are kept. Other files are left alone. Safe for threads, and
    for several processes at once. Close it, or use it with ``with``. Raises OSError, ConfigurationError.
    """

    def __init__(self, path: Path | str, keep_days: int | None = None, clock: Clock | None = None) -> None:
        if keep_days is not None and keep_days < 1:
            raise ConfigurationError(
                f"keep_days={keep_days} would keep nothing.", hint="Give at least 1, or None to keep all."
            )
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._keep_days = keep_days
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._day: date | None = None
        self._file: LetterFile | None = None
        self._is_closed = False
        self._remove_before(self._clock.now().astimezone(UTC).date())

    def __call__(self, letter: DeadLetter) -> None:
        """Append a letter; it is safe once ``sync`` returns."""
        self.keep(stored(letter, self._clock.now()))

    def keep(self, letter: StoredLetter) -> None:
        """Append a letter that is as it is to be read again, to the file of its day."""
        with self._lock:
            self._of(letter.at.astimezone(UTC).date()).keep(letter)

    def sync(self) -> None:
        """Make safe what was appended."""
        with self._lock:
            if self._file is not None:
                self._file.sync()

    def close(self) -> None:
        """Make safe what was appended, and close the file of the day."""
        with self._lock:
            self._is_closed = True
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _of(self, day: date) -> LetterFile:
        if self._is_closed:
            raise ValueError(f"{self.path} is closed.")
        if self._file is not None and self._day == day:
            return self._file
        if self._file is not None:
            self._file.close()
            self._file = None
        self._file = LetterFile(self.path / f"{day.isoformat()}{_ENDING}")
        self._day = day
        self._remove_before(day)
        return self._file

    def _remove_before(self, today: date) -> None:
        if self._keep_days is None:
            return
        first = today - timedelta(days=self._keep_days - 1)
        for file in self.path.glob(f"*{_ENDING}"):
            day = _day_of(file)
            if day is not None and day < first:
                file.unlink(missing_ok=True)
                marks_beside(file).unlink(missing_ok=True)


def letters_at(path: Path | str) -> LetterFile | LetterFolder:
    """Return what appends letters to a file, or to a folder that is there. Raises OSError."""
    return LetterFolder(path) if Path(path).is_dir() else LetterFile(path)


def _day_of(file: Path) -> date | None:
    try:
        day = date.fromisoformat(file.stem)
    except ValueError:
        return None
    return day if day.isoformat() == file.stem else None
