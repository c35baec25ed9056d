"""Compare one dataset's partitions of production with those of a candidate.

Digests first: partitions shown to be equal by them are never opened. All others are read together in one
pass that finds the keys whose rows differ, and only these are looked at again, value by value. Memory is
bounded by DuckDB's limit, whatever the number of rows; what does not fit is spilled.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sidestage.checks.detail import build_detail
from sidestage.checks.measure import (
    base_total,
    measure_columns,
    measure_keys,
    measure_partitions,
    measure_segments,
    unmeasured,
)
from sidestage.checks.result import (
    ColumnComparison,
    DatasetComparison,
    Discrepancies,
    Keys,
    PartitionComparison,
    RuleOutcome,
    Sample,
    Segment,
)
from sidestage.checks.rules import AnyRule, Ignore
from sidestage.checks.samples import take_samples, write_discrepancies
from sidestage.checks.sides import Pair, Resources, Side, Stage, opened
from sidestage.checks.sql import identifier, parquet
from sidestage.checks.suspects import find_suspects
from sidestage.checks.verdict import Measured, judge, pronounce

__all__ = ["Pair", "Side", "compare_dataset"]

_ARROW_NUMBERS = re.compile(r"u?int\d+|float|double|halffloat|decimal.*")
_NO_KEY = "No key is declared: whole rows were compared; a changed row counts as one missing and one extra."
_LOOSE = "Rows whose key is duplicated or NULL were compared as whole rows, without tolerance."


class _Findings(msgspec.Struct, frozen=True):
    """What is known of a dataset before its verdict."""

    measured: Measured
    outcomes: tuple[RuleOutcome, ...]
    partitions: tuple[PartitionComparison, ...] = ()
    segments: tuple[Segment, ...] = ()
    samples: tuple[Sample, ...] = ()
    discrepancies: Discrepancies | None = None


class _Request(msgspec.Struct, frozen=True):
    """What is asked of one comparison."""

    dataset: str
    pairs: tuple[Pair, ...]
    key: tuple[str, ...]
    rules: tuple[AnyRule, ...]
    samples: int
    discrepancies: Path | None


def compare_dataset(  # noqa: PLR0913 -- all but the first four have defaults or are resources
    dataset: str,
    pairs: Sequence[Pair],
    key: tuple[str, ...],
    rules: Sequence[AnyRule],
    *,
    temp_dir: Path,
    memory_limit: str = "750MB",
    threads: int | None = None,
    samples: int = 20,
    discrepancies: Path | None = None,
) -> DatasetComparison:
    """Compare a dataset, partition by partition, by its key (empty: as a multiset of whole rows).

    ``memory_limit`` is DuckDB's, as text with a unit; the process needs some 200 MB beside it. What does
    not fit is spilled below ``temp_dir``. Up to ``samples`` rows of each class of difference are shown;
    with ``discrepancies`` all of them are written to that Parquet file (only if there are any).
    Raises DataError if a file cannot be read, DefinitionError if a rule does not fit its column.
    """
    started = time.perf_counter()
    there = tuple(pair for pair in pairs if pair.base is not None or pair.candidate is not None)
    request = _Request(dataset, there, key, tuple(rules), samples, discrepancies)
    proved = {pair.partition: how for pair in there if (how := _proved(pair))}
    unequal = [pair for pair in there if pair.partition not in proved]
    equal = [_unread(pair, proved[pair.partition]) for pair in there if pair.partition in proved]
    if unequal:
        temp_dir.mkdir(parents=True, exist_ok=True)
        with opened(unequal, key, rules, Resources(memory_limit, threads, temp_dir)) as stage:
            findings = _read(stage, request, equal)
    else:
        measured = _measured(equal, _declared(there, key, rules), Keys())
        findings = _Findings(measured, judge(measured, rules, lambda _: 0.0), tuple(equal))
    return _result(request, findings, time.perf_counter() - started, _bytes(unequal))


def _proved(pair: Pair) -> str | None:
    """Say how a pair is proved equal without reading, or None."""
    if pair.base is None or pair.candidate is None:
        return None
    if pair.base.version == pair.candidate.version:
        return "same version"
    return "equal digest" if pair.base.digest.proves_equal(pair.candidate.digest) else None


def _unread(pair: Pair, how: str) -> PartitionComparison:
    assert pair.base is not None
    rows = pair.base.rows
    return PartitionComparison(pair.partition, how, rows, rows, rows)  # type: ignore[arg-type]


def _read(stage: Stage, request: _Request, equal: list[PartitionComparison]) -> _Findings:
    find_suspects(stage)
    build_detail(stage)
    compared = measure_partitions(stage)
    order = {pair.partition: number for number, pair in enumerate(request.pairs)}
    partitions = sorted([*compared, *equal], key=lambda one: order[one.partition])
    matched = sum(one.matched for one in partitions)
    keys = measure_keys(stage)
    if request.key and not stage.layout.key:
        keys = msgspec.structs.replace(keys, problem=_absent(request.key, stage))
    measured = _measured(partitions, measure_columns(stage, matched), keys)
    files = parquet([pair.base.path for pair in request.pairs if pair.base is not None])
    outcomes = judge(measured, request.rules, lambda column: base_total(stage, identifier(column), files))
    cells = sum(column.changed + column.within_tolerance for column in measured.columns)
    total = cells + measured.missing + measured.extra
    written = None
    if request.discrepancies is not None and total:
        written = write_discrepancies(stage, request.dataset, request.discrepancies, total)
    segments = measure_segments(stage, compared)
    samples = take_samples(stage, request.samples) if request.samples else ()
    return _Findings(measured, outcomes, tuple(partitions), segments, samples, written)


def _absent(key: Sequence[str], stage: Stage) -> str:
    layout = stage.layout
    sides = (("production", layout.base), ("the candidate", layout.candidate))
    absent = [f"{column} in {side}" for side, schema in sides for column in key if column not in schema]
    return f"there is no key column {', '.join(absent)}"


def _measured(
    partitions: Sequence[PartitionComparison], columns: tuple[ColumnComparison, ...], keys: Keys
) -> Measured:
    return Measured(
        rows_base=sum(one.rows_base for one in partitions),
        matched=sum(one.matched for one in partitions),
        changed=sum(one.changed for one in partitions),
        within_tolerance=sum(one.within_tolerance for one in partitions),
        missing=sum(one.missing for one in partitions),
        extra=sum(one.extra for one in partitions),
        keys=keys,
        columns=columns,
    )


def _declared(
    pairs: Sequence[Pair], key: Sequence[str], rules: Sequence[AnyRule]
) -> tuple[ColumnComparison, ...]:
    """Return the columns as the digests of equal partitions name them; nothing differs in any."""
    types: dict[str, str] = {}
    for pair in pairs:
        if pair.base is not None:
            types |= {column.name: column.type for column in pair.base.digest.columns}
    ignored = {rule.column for rule in rules if isinstance(rule, Ignore)} - set(key)
    columns = []
    for name, kind in types.items():
        column = unmeasured(name, kind, kind, key, ignored)
        if column.role == "compared" and _ARROW_NUMBERS.fullmatch(kind):
            column = msgspec.structs.replace(column, difference=0.0, total_difference=0.0)
        columns.append(column)
    return tuple(columns)


def _result(request: _Request, findings: _Findings, seconds: float, bytes_read: int) -> DatasetComparison:
    measured, partitions = findings.measured, findings.partitions
    verdict = pronounce(measured, findings.outcomes)
    keys = measured.keys
    notes = [_NO_KEY] if not request.key else []
    if keys.duplicates_base or keys.duplicates_candidate or keys.nulls_base or keys.nulls_candidate:
        notes.append(_LOOSE)
    written = findings.discrepancies
    if written is not None and written.written < written.total:
        notes.append(f"The file of discrepancies holds {written.written:,} of {written.total:,} lines.")
    return DatasetComparison(
        dataset=request.dataset,
        key=request.key,
        verdict=verdict,
        passed=verdict != "broken",
        rows_base=measured.rows_base,
        rows_candidate=sum(one.rows_candidate for one in partitions),
        matched=measured.matched,
        changed=measured.changed,
        within_tolerance=measured.within_tolerance,
        missing=measured.missing,
        extra=measured.extra,
        keys=keys,
        columns=measured.columns,
        partitions=partitions,
        segments=findings.segments,
        samples=findings.samples,
        rules=findings.outcomes,
        notes=tuple(notes),
        discrepancies=written,
        seconds=seconds,
        bytes_read=bytes_read,
    )


def _bytes(pairs: Sequence[Pair]) -> int:
    paths = {side.path for pair in pairs for side in (pair.base, pair.candidate) if side is not None}
    return sum(Path(path).stat().st_size for path in paths)
