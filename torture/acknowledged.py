"""What publishing processes say, and how it is read. Light, because loading it is measured, too."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Acknowledged:
    """What a publishing process said once ``settle`` had returned. ``moment`` is on the monotonic clock."""

    moment: float
    run: int
    step: str
    version: str

    @classmethod
    def parse(cls, line: str) -> "Acknowledged":
        """Read a line. Raises ValueError."""
        moment, run, step, version = line.split(" ", 3)
        return cls(float(moment), int(run), step, version)

    def spoken(self) -> str:
        """Return the line that says it."""
        return f"{self.moment:.6f} {self.run} {self.step} {self.version}\n"


def read(said: bytes, before: float | None = None) -> list[Acknowledged]:
    """Return what was acknowledged ``before`` a moment; a line that was not finished says nothing."""
    return [
        each for each in _parsed(said.decode().split("\n")[:-1]) if before is None or each.moment < before
    ]


def _parsed(lines: Iterable[str]) -> Iterable[Acknowledged]:
    for line in lines:
        with contextlib.suppress(ValueError):
            yield Acknowledged.parse(line)
