"""What a family of faults did, and what it found: one row each."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torture.oracle import Findings

FAILS = "fails as it must"
DOES_NOT_FAIL = "DOES NOT FAIL"
NO_CONTROL = "-"


@dataclass
class Row:
    """One family's result. ``injected`` counts faults by kind; ``recovery`` is in seconds."""

    family: str
    injected: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    findings: Findings = field(default_factory=Findings)
    manual: int = 0
    """How often something else than the plain command was needed to go on."""
    recovery: list[float] = field(default_factory=list)
    """From the start of a process after a fault to its first publication."""
    control: str = NO_CONTROL
    skipped: str = ""
    """Why nothing was done at all."""
    missing: str = ""
    """What could be installed, and was needed for some of it. Where tools are required that is a failure."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept, and the control was found guilty."""
        return not self.findings.all() and not self.manual and DOES_NOT_FAIL not in self.control

    def judge_control(self, name: str, guilty: Sequence[str]) -> None:
        """Note the verdict on a Sidestage without a safeguard, given what the oracle found wrong with it."""
        verdict = f"{name}: {FAILS if guilty else DOES_NOT_FAIL}"
        self.control = verdict if self.control == NO_CONTROL else f"{self.control}; {verdict}"
        if guilty:
            self.notes.append(f"control {name}: {len(guilty)} findings, such as: {guilty[0]}")

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of ``HEAD``."""
        if self.skipped:
            return (self.family, "SKIPPED", *[""] * (len(HEAD) - 3), self.skipped)
        found = self.findings
        counts = (found.lost, found.twice, found.torn, found.stuck, found.orphans)
        return (
            self.family,
            f"{self.injected.total():,}",
            f"{self.acknowledged:,}",
            *(str(len(entries)) for entries in counts),
            str(self.manual),
            f"{quantile(self.recovery, 50):.2f}" if self.recovery else "-",
            f"{quantile(self.recovery, 99):.2f}" if self.recovery else "-",
            self.control,
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything, for machines."""
        found = self.findings
        return {
            "family": self.family,
            "good": self.is_good,
            "skipped": self.skipped,
            "missing": self.missing,
            "injected": dict(self.injected),
            "acknowledged": self.acknowledged,
            **{kind: list(entries) for kind, entries in found.by_kind().items()},
            "manual": self.manual,
            "recovery_p50": quantile(self.recovery, 50) if self.recovery else None,
            "recovery_p99": quantile(self.recovery, 99) if self.recovery else None,
            "recoveries": len(self.recovery),
            "control": self.control,
            "seconds": round(self.seconds, 1),
            "notes": self.notes,
        }


HEAD = (
    *("family", "injected", "acknowl.", "lost", "twice", "torn", "stuck", "orphans", "manual"),
    *("p50 s", "p99 s", "control"),
)


def quantile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, by linear interpolation between what was measured."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD) - 1)]
    lines = []
    for line in cells:
        head, *middle, last = line
        numbers = (text.rjust(width) for text, width in zip(middle, widths[1:], strict=True))
        lines.append("  ".join((head.ljust(widths[0]), *numbers, last)).rstrip())
    return "\n".join(lines)
