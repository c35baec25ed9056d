"""What a comparison found, as frozen values that encode to JSON.

*Matched* rows exist on both sides; *missing* ones only in production (the base), *extra* ones only in the
candidate. A matched row is *changed* if any compared value differs beyond its tolerance, and *within
tolerance* if all its differences are tolerated. Rates are fractions between 0 and 1. Differences are
signed: candidate minus production.
"""

from typing import Literal

import msgspec

Verdict = Literal["identical", "within tolerance", "different", "broken"]
Kind = Literal["changed", "within tolerance", "missing", "extra"]
Trouble = Literal["", "duplicate key", "null key"]

_ORDER: tuple[Verdict, ...] = ("identical", "within tolerance", "different", "broken")


class ColumnComparison(msgspec.Struct, frozen=True):
    """One column on both sides; a type is None where the column does not exist.

    ``changed`` and ``within_tolerance`` count cells of matched rows, and ``rate`` is changed cells per
    matched row. ``became_null`` and ``became_value`` count null flips from production to candidate.
    ``max_absolute`` and ``max_relative`` are the largest finite errors (seconds for times).
    ``difference`` sums the differences of matched rows, ``total_difference`` those of whole columns, with
    missing and extra rows; NULL and non-finite values count as nothing.
    """

    name: str
    role: Literal["key", "compared", "ignored", "added", "removed"]
    base_type: str | None
    candidate_type: str | None
    changed: int = 0
    rate: float = 0.0
    within_tolerance: int = 0
    became_null: int = 0
    became_value: int = 0
    max_absolute: float | None = None
    max_relative: float | None = None
    difference: float | None = None
    total_difference: float | None = None

    @property
    def type_changed(self) -> bool:
        """Whether both sides have the column, with different types."""
        both = self.base_type is not None and self.candidate_type is not None
        return both and self.base_type != self.candidate_type

    @property
    def differs(self) -> bool:
        """Whether anything about the column is different beyond tolerance."""
        if self.role == "ignored":
            return False
        return self.changed > 0 or self.role in {"added", "removed"} or self.type_changed


class PartitionComparison(msgspec.Struct, frozen=True):
    """One partition on both sides, and how it was decided: without reading, or by comparing rows."""

    partition: str
    how: Literal["same version", "equal digest", "compared"]
    rows_base: int
    rows_candidate: int
    matched: int
    changed: int = 0
    within_tolerance: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def mismatch(self) -> float:
        """Changed, missing and extra rows as a fraction of the larger side's rows."""
        worst = max(self.rows_base, self.rows_candidate, 1)
        return min(1.0, (self.changed + self.missing + self.extra) / worst)


class Segment(msgspec.Struct, frozen=True):
    """A value of a column (None: NULL) among whose production rows more differ than elsewhere.

    ``differing`` counts its changed and missing rows of ``rows`` read; ``lift`` is its rate divided by the
    rate of all rows read.
    """

    column: str
    value: str | None
    differing: int
    rows: int
    rate: float
    lift: float


class Sample(msgspec.Struct, frozen=True):
    """One differing row: its key and the values that differ, as text; long texts are cut."""

    kind: Kind
    trouble: Trouble
    partition: str
    key: dict[str, str | None]
    before: dict[str, str | None]
    after: dict[str, str | None]


class RuleOutcome(msgspec.Struct, frozen=True):
    """What became of one comparison rule; ``observed`` is the figure it is based on."""

    rule: str
    passed: bool
    observed: str


class Keys(msgspec.Struct, frozen=True):
    """Trouble with keys in the rows read: keys that occur more than once, and rows whose key has a NULL.

    ``new`` counts those of the candidate that production does not have; ``problem`` says why rows could
    not be paired at all (empty: they could, or no key is declared).
    """

    duplicates_base: int = 0
    duplicates_candidate: int = 0
    nulls_base: int = 0
    nulls_candidate: int = 0
    new: int = 0
    problem: str = ""

    @property
    def broken(self) -> bool:
        """Whether the candidate's keys are worse than production's."""
        return self.new > 0 or bool(self.problem)


class Discrepancies(msgspec.Struct, frozen=True):
    """The file that holds every difference, or the first ``written`` of ``total``."""

    path: str
    written: int
    total: int


class DatasetComparison(msgspec.Struct, frozen=True):
    """One dataset on both sides. Without ``key``, whole rows were compared as a multiset.

    ``bytes_read`` is the size of the files that had to be opened; zero if digests proved all equal.
    """

    dataset: str
    key: tuple[str, ...]
    verdict: Verdict
    passed: bool
    rows_base: int
    rows_candidate: int
    matched: int
    changed: int
    within_tolerance: int
    missing: int
    extra: int
    keys: Keys
    columns: tuple[ColumnComparison, ...]
    partitions: tuple[PartitionComparison, ...]
    segments: tuple[Segment, ...]
    samples: tuple[Sample, ...]
    rules: tuple[RuleOutcome, ...]
    notes: tuple[str, ...]
    discrepancies: Discrepancies | None
    seconds: float
    bytes_read: int

    @property
    def unread(self) -> int:
        """How many partitions were proved equal without reading them."""
        return sum(partition.how != "compared" for partition in self.partitions)


class SideIdentity(msgspec.Struct, frozen=True):
    """Who one side is: environment, code, and what its outputs cost to make.

    ``made`` counts the versions it made itself and ``reused`` those it shows of its base; ``seconds``,
    ``rows`` and ``bytes`` are sums over the versions it made.
    """

    environment: str
    code: str = ""
    made: int = 0
    reused: int = 0
    seconds: float = 0.0
    rows: int = 0
    bytes: int = 0


class Comparison(msgspec.Struct, frozen=True):
    """An environment against its base: the verdict, and every dataset's."""

    environment: SideIdentity
    base: SideIdentity
    datasets: tuple[DatasetComparison, ...]
    verdict: Verdict
    passed: bool
    broken: tuple[str, ...]
    seconds: float
    bytes_read: int


def conclude(
    environment: SideIdentity, base: SideIdentity, datasets: tuple[DatasetComparison, ...], *, seconds: float
) -> Comparison:
    """Put the datasets' comparisons together: the worst verdict wins, and all must pass.

    ``seconds`` is what comparing took as a whole.
    """
    broken = [f"{one.dataset}: {rule.rule}" for one in datasets for rule in one.rules if not rule.passed]
    broken += [f"{one.dataset}: keys" for one in datasets if one.keys.broken]
    return Comparison(
        environment=environment,
        base=base,
        datasets=datasets,
        verdict=max((one.verdict for one in datasets), key=_ORDER.index, default="identical"),
        passed=all(one.passed for one in datasets),
        broken=tuple(broken),
        seconds=seconds,
        bytes_read=sum(one.bytes_read for one in datasets),
    )
