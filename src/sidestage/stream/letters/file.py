"""Dead letters in a file: one line of JSON for each, to be looked at with any tool, and replayed.

Lines are appended, and synced before a source is told that the items need not be read again. A line that a
crash left half-written is passed over by whoever reads: its item was not acknowledged and comes again.
"""

import base64
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from sidestage.clock import Clock, SystemClock
from sidestage.errors import DataError
from sidestage.policy.failure import FailureClass
from sidestage.stream.chunk import Origin
from sidestage.stream.failing import DeadLetter, shown
from sidestage.stream.letters.line_log import LineLog


class StoredLetter(msgspec.Struct, frozen=True):
    """A dead letter as it lies in the file.

    ``item`` holds an item that JSON can express, ``pickled`` any other that can be pickled (base64), and
    ``shown`` what it looks like. ``key`` is the key if JSON can express it, else what that looks like. Lines
    written by earlier releases have neither ``trace`` nor ``key``. ``replays`` counts how often its item had
    been replayed before it failed this time.
    """

    at: Annotated[datetime, msgspec.Meta(tz=True)]
    stage: str
    failure_class: FailureClass
    error: str
    message: str
    attempt: int
    origin: Origin | None
    shown: str
    item: Any = None
    pickled: str | None = None
    is_replayable: bool = True
    trace: str | None = None
    key: Any = None
    replays: int = 0

    def value(self) -> Any:
        """Return the item. Raises DataError if it could not be kept; unpickles what was pickled."""
        if not self.is_replayable:
            raise DataError(
                f"The item {self.shown} could be kept neither as JSON nor by pickle.",
                hint="Read it again from its source.",
            )
        return self.item if self.pickled is None else pickle.loads(base64.b64decode(self.pickled))  # noqa: S301


_SHOWN = 500
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StoredLetter)


class LetterFile:
    """A file to give to ``run(dead_letters=...)``. Safe for threads, and for several processes at once.

    Close it, or use it with ``with``. Raises OSError if it cannot be opened or written to.
    """

    def __init__(self, path: Path | str, clock: Clock | None = None) -> None:
        self.path = Path(path)
        self._clock = clock or SystemClock()
        self._lines = LineLog(self.path)

    def __call__(self, letter: DeadLetter) -> None:
        """Append a letter; it is safe once ``sync`` returns."""
        self.keep(stored(letter, self._clock.now()))

    def keep(self, letter: StoredLetter) -> None:
        """Append a letter that is as it is to be read again."""
        self._lines.add(_encoder.encode(letter))

    def sync(self) -> None:
        """Make safe what was appended."""
        self._lines.sync()

    def close(self) -> None:
        """Make safe what was appended, and close the file."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def files_of(path: Path | str) -> list[Path]:
    """Return the files with letters that a path stands for: itself, or those of a folder, oldest first."""
    path = Path(path)
    return sorted(path.glob("*.jsonl")) if path.is_dir() else [path]


def read_letters(path: Path | str) -> Iterator[StoredLetter]:
    """Yield the letters of a file or folder, oldest first.

    Raises OSError, DataError for a line that is none; ``LetterReading`` passes over it.
    """
    for file in files_of(path):
        for number, line in enumerate(whole_lines(file, file.stat().st_size), 1):
            try:
                yield decoded(line)
            except msgspec.DecodeError as error:
                raise DataError(
                    f"{file}, line {number}, is not a dead letter: {error}.",
                    hint="Was the file edited, or is it another one?",
                ) from error


def whole_lines(path: Path, size: int) -> Iterator[bytes]:
    """Yield the lines of a file that end within its first ``size`` bytes. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            size -= len(line)
            if size < 0 or not line.endswith(b"\n"):  # later than this began, or cut off
                return
            yield line


def decoded(line: bytes) -> StoredLetter:
    """Return the letter in a line. Raises msgspec.DecodeError."""
    try:
        return _decoder.decode(line)
    except (RecursionError, UnicodeDecodeError) as error:  # whatever somebody wrote there
        raise msgspec.DecodeError(str(error)) from error


def replay(path: Path | str, wanted: Callable[[StoredLetter], bool] | None = None) -> Iterator[Any]:
    """Yield the items of a file's or folder's letters again, all or those wanted: what a stream can read.

    Nothing is noted; ``LetterReplay`` notes what was replayed. Raises DataError for an item that could not be
    kept.
    """
    for letter in read_letters(path):
        if wanted is None or wanted(letter):
            yield letter.value()


def stored(letter: DeadLetter, at: datetime) -> StoredLetter:
    """Return a letter as it is kept, set aside at this moment."""
    item, pickled, is_replayable = _kept(letter.item)
    return StoredLetter(
        at.astimezone(UTC),
        _sayable(letter.stage),
        letter.failure_class,
        type(letter.error).__name__,
        _sayable(_message(letter.error)),
        letter.attempt,
        letter.origin,
        _sayable(shown(letter.item, _SHOWN)),
        item,
        pickled,
        is_replayable,
        letter.trace,
        _key(letter.key),
    )


def _key(key: Any) -> Any:
    plain, pickled, is_kept = _kept(key)
    return plain if is_kept and pickled is None else _sayable(shown(key, _SHOWN))


def _sayable(text: str) -> str:
    """Return a text that can be written: half a character is shown by its number."""
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: Exception) -> str:
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001
        return f"<its text raised {type(another).__name__}>"


def _kept(item: Any) -> tuple[Any, str | None, bool]:
    try:
        if _is_same(msgspec.json.decode(msgspec.json.encode(item)), item):
            return item, None, True
    except Exception:  # noqa: BLE001, S110 - whatever its own code raises; pickle is next
        pass
    try:
        return None, base64.b64encode(pickle.dumps(item, 5)).decode(), True
    except Exception:  # noqa: BLE001
        return None, None, False


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types all through: (1,) is not [1]."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)
