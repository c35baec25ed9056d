"""The items of dead letters once more: a source that notes what was dealt with."""

import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec

from sidestage.clock import Clock, SystemClock
from sidestage.stream.contract import Batch, Positions
from sidestage.stream.failing import DeadLetter
from sidestage.stream.letters.file import LetterFile, StoredLetter, stored
from sidestage.stream.letters.folder import LetterFolder, letters_at
from sidestage.stream.letters.marks import Marks
from sidestage.stream.letters.reading import KnownLetter, LetterChoice, LetterReading


class LetterReplay:
    """Letters as a source of their items, and the place for those that fail again.

    ``flow(Stream(replay)).run(fail="soft", dead_letters=replay)`` does the items again: all that are wanted,
    each once, no more than ``limit``, and without those replayed before unless ``again``. Once an item
    has been dealt with, its letter is marked as replayed, safely. If it failed again it is a new letter then,
    in the same place, with the origin and trace that the old one had. What was under way in a crash is
    replayed again the next time: at least once. Items that were pickled are unpickled: replay only what you
    trust. Close it, or use it with ``with``. Raises DataError if nothing is there, OSError.
    """

    name = "letters"

    def __init__(
        self,
        path: Path | str,
        choice: LetterChoice | None = None,
        *,
        again: bool = False,
        limit: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path)
        self.reading = LetterReading(path, choice)
        self.part = uuid.uuid4().hex  # a place of its own: no sink that keeps positions has seen this one
        self._again = again
        self._limit = limit
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._under_way: dict[int, KnownLetter] = {}
        files = self.reading.files
        self._marks = Marks(files[-1] if files else self.path / "none")  # the newest file goes last
        self._letters: LetterFile | LetterFolder | None = None
        self.replayed = 0
        """How many letters have been dealt with, those that failed again among them."""
        self.failed = 0
        """How many items have become letters again."""
        self.lost: list[tuple[KnownLetter, Exception]] = []
        """Letters whose items cannot be had any more, and why not: they stay as they are."""

    def open(self, resume: Positions) -> "ReplayReader":
        """Begin to read."""
        with self._lock:
            self._under_way.clear()
            self.lost = []
        return ReplayReader(self, int(resume.get(self.part, 0)))

    def wanted(self) -> Iterator[KnownLetter]:
        """Yield the letters whose items are to be done again."""
        return islice((each for each in self.reading if self._again or not each.is_replayed), self._limit)

    def begin(self, number: int, letter: KnownLetter) -> None:
        """Note that an item is under way."""
        with self._lock:
            self._under_way[number] = letter

    def done(self, before: int) -> None:
        """Mark, safely, the letters whose items have a number below this one."""
        with self._lock:
            numbers = [each for each in self._under_way if each < before]
            ids = [self._under_way.pop(each).id for each in numbers]
            if ids:
                self._marks.add(ids, self._clock.now())
                self.replayed += len(ids)

    def __call__(self, letter: DeadLetter) -> None:
        """Append an item that failed again, as a letter; it is safe once ``sync`` returns."""
        kept = stored(letter, self._clock.now())
        with self._lock:
            before = self._before(kept)
            changes: dict[str, Any] = {"replays": 1}
            if before is not None:
                changes = {"origin": before.origin, "trace": before.trace, "replays": before.replays + 1}
            if self._letters is None:
                self._letters = letters_at(self.path)
            self._letters.keep(msgspec.structs.replace(kept, **changes))
            self.failed += 1

    def sync(self) -> None:
        """Make safe what was appended."""
        with self._lock:
            if self._letters is not None:
                self._letters.sync()

    def close(self) -> None:
        """Make safe what was appended, and close the files."""
        with self._lock:
            self._marks.close()
            if self._letters is not None:
                self._letters.close()
                self._letters = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _before(self, letter: StoredLetter) -> StoredLetter | None:
        """Return the letter whose item has now become this one, None if nobody knows."""
        origin = letter.origin
        if origin is None or origin.part != self.part:
            return None
        found = self._under_way.get(int(origin.first) + origin.index)
        return None if found is None else found.letter


class ReplayReader:
    """Reads the items of letters. Their positions count them."""

    def __init__(self, replay: LetterReplay, at: int) -> None:
        self._replay = replay
        self._letters = self._readable()
        self._at = 0
        while self._at < at and next(self._letters, None) is not None:
            self._at += 1
        self._is_stopped = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:  # noqa: ARG002 - nothing is waited for
        """Return the next items; None when there are no more."""
        if self._is_stopped:
            return None
        first = self._at
        items: list[Any] = []
        for letter, item in islice(self._letters, limit):
            self._replay.begin(self._at, letter)
            items.append(item)
            self._at += 1
        return (Batch(self._replay.part, first, items, self._at),) if items else None

    def stop(self) -> None:
        """Read nothing more."""
        self._is_stopped = True

    def commit(self, positions: Positions) -> None:
        """Mark what was dealt with. Raises OSError."""
        if self._replay.part in positions:
            self._replay.done(int(positions[self._replay.part]))

    def lost(self) -> Collection[str]:
        """Return nothing: nobody takes letters away."""
        return ()

    def close(self) -> None:
        """Read nothing more."""
        self._is_stopped = True

    def _readable(self) -> Iterator[tuple[KnownLetter, Any]]:
        for each in self._replay.wanted():
            try:
                item = each.letter.value()
            except Exception as error:  # noqa: BLE001 - of some item's own code, or of a class that is gone
                self._replay.lost.append((each, error))
                continue
            yield each, item
