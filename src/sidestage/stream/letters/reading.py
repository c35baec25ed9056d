"""Dead letters as they are looked through: chosen ones, each once, whatever else the file holds."""

from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from sidestage.errors import DataError
from sidestage.policy.failure import FailureClass
from sidestage.stream.letters.file import StoredLetter, decoded, files_of, whole_lines
from sidestage.stream.letters.marks import read_marks


class LetterChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are wanted: those of whom all holds that is not None.

    ``error`` is a part of the error's type or message, in capitals or not. ``since`` is included, ``until``
    is not; both are aware. Called with a letter, it says whether that is one.
    """

    stage: str | None = None
    failure_class: FailureClass | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __call__(self, letter: StoredLetter) -> bool:
        """Return whether a letter is wanted."""
        return (
            (self.stage is None or letter.stage == self.stage)
            and (self.failure_class is None or letter.failure_class == self.failure_class)
            and (self.error is None or self.error.casefold() in _said(letter))
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )


class KnownLetter(NamedTuple):
    """A letter, the ``id`` that a repetition of it has, too, and whether it was replayed."""

    letter: StoredLetter
    id: str
    is_replayed: bool


class LetterReading:
    """The letters of a file or folder as they are now, to be iterated over as often as wanted, oldest first.

    A stream that goes on from an earlier commit sets an item aside again. Such repetitions (of stage, trace
    or origin, item and number of replays) are left out, unless ``repeated``; a letter without trace and
    origin repeats nothing. Lines that are no letters are passed over. Raises DataError if nothing is there.
    """

    def __init__(
        self, path: Path | str, choice: LetterChoice | None = None, *, repeated: bool = False
    ) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"There are no letters at {path}.", hint="Is it the right place?")
        self._choice = choice or LetterChoice()
        self._with_repeated = repeated
        self.files = files_of(path)
        self._sizes = [file.stat().st_size for file in self.files]
        self._replayed = read_marks(self.files)
        self.damaged = 0
        """How many lines were passed over when it was last iterated over."""
        self.cut_off = 0
        """How many files ended within a line, or were being written to."""
        self.repetitions = 0
        """How many of the chosen letters were repetitions."""

    def __iter__(self) -> Iterator[KnownLetter]:
        self.damaged = self.cut_off = self.repetitions = 0
        seen: set[bytes] = set()
        anonymous: dict[bytes, int] = {}
        for line in self._lines():
            try:
                letter = decoded(line)
            except msgspec.DecodeError:
                self.damaged += 1
                continue
            if not self._choice(letter):
                continue
            identity = _identity(letter)
            if identity is None:
                identity = _digest(line)
                anonymous[identity] = number = anonymous.get(identity, 0) + 1
                identity = _digest(identity + number.to_bytes(8, "little"))
            if identity in seen:
                self.repetitions += 1
                if not self._with_repeated:
                    continue
            seen.add(identity)
            name = identity.hex()
            yield KnownLetter(letter, name, name in self._replayed)

    def _lines(self) -> Iterator[bytes]:
        for file, size in zip(self.files, self._sizes, strict=True):
            read = 0
            try:
                for line in whole_lines(file, size):
                    read += len(line)
                    yield line
            except FileNotFoundError:  # its day is no longer kept
                continue
            self.cut_off += read < size


def _identity(letter: StoredLetter) -> bytes | None:
    """Return what two letters have in common of which one repeats the other; None for one without a place."""
    if letter.trace is None and letter.origin is None:
        return None
    item = (
        letter.pickled
        if letter.pickled is not None
        else letter.item
        if letter.is_replayable
        else letter.shown
    )
    place = letter.trace if letter.trace is not None else letter.origin
    return _digest(msgspec.json.encode((letter.stage, place, item, letter.replays)))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _said(letter: StoredLetter) -> str:
    return f"{letter.error}: {letter.message}".casefold()
