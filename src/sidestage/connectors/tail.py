"""Follow a file of lines that grows, as ``tail -F`` does: through rotations, and across restarts.

There is one part, "all". A position names the file, by its number in the file system and a digest of how it
begins, and the byte where the next line begins. So a file is found again under the name that a rotation gave
it, and a new file that was given the number of an old one is not taken for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from sidestage.clock import Clock, SystemClock
from sidestage.connectors.files import check_encoding, text_decoder
from sidestage.connectors.files_lines import LONGEST
from sidestage.errors import DefinitionError
from sidestage.stream.contract import Positions, Reader
from sidestage.stream.failing import OnError

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


class _Placed(msgspec.Struct, frozen=True):
    """Where the file is: what is said first, and without its name."""

    path: Path | str


class Tail(_Placed, frozen=True, kw_only=True):
    """The lines of a file as they are appended, as text. It never ends by itself; there may be no file yet.

    Without a checkpoint it begins at the file's ``start``: "beginning", or "end" for what comes from now on.
    So does a restart before there is a first checkpoint. A line counts once its end is there. The file is
    looked at every ``poll`` seconds.

    When the file was renamed and there is another one, what is still appended to the old one within
    ``patience`` seconds is read first; a last line that never got an end counts then. Files that came and
    went meanwhile are looked for under ``rotated``, a pattern in the same folder (else the name with
    something after it; packed ones cannot be read) and read in the order in which they were last written to.
    A file that is cut to nothing and written anew is read from its beginning: what was appended between the
    last look and the cut is lost to whoever follows it, so rotate by renaming. If the file of a checkpoint is
    nowhere, ``if_gone`` says whether to raise DataError, or to begin with the file that is there.
    """

    start: Literal["beginning", "end"] = "beginning"
    encoding: str = "utf-8"
    errors: str = "strict"
    on_error: OnError | None = None
    poll: float = 0.2
    patience: float = 1.0
    rotated: str = ""
    if_gone: Literal["raise", "go-on"] = "raise"
    longest: int = LONGEST
    clock: Clock = msgspec.field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if not (self.poll > 0 and self.patience >= 0):
            raise DefinitionError(
                f"Tail(poll={self.poll}, patience={self.patience}) makes no sense.",
                hint="Both are seconds; poll is above zero.",
            )

    @property
    def name(self) -> str:
        """What people call it."""
        return f"tail:{self.path}"

    @property
    def decode(self) -> Callable[[bytes], str]:
        """What makes text of a line. Raises UnicodeDecodeError."""
        return text_decoder(self.encoding, self.errors)

    def open(self, resume: Positions) -> Reader[str]:
        """Begin to follow. Raises DataError if the file of the position is nowhere."""
        from sidestage.connectors.tail_reader import TailReader  # noqa: PLC0415 - they know each other

        return TailReader(self, resume)

    def relatives(self) -> list[Path]:
        """Return the files that the followed one may have become."""
        path = Path(self.path)
        patterns = (self.rotated,) if self.rotated else (f"{_literal(path.name)}?*",)
        found = {each for pattern in patterns for each in path.parent.glob(pattern)}
        return sorted(each for each in found if each != path and each.suffix not in PACKED)


def _literal(name: str) -> str:
    """Return a pattern that fits a name and nothing else."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)
