"""Judge a measured comparison by its rules."""

from collections.abc import Callable, Sequence

import msgspec

from sidestage.checks.result import ColumnComparison, Keys, RuleOutcome, Verdict
from sidestage.checks.rules import (
    AnyRule,
    Ignore,
    MaxChanged,
    MaxExtra,
    MaxMissing,
    NullEquals,
    SameTotal,
    Tolerance,
)


class Measured(msgspec.Struct, frozen=True):
    """The figures that rules are judged by: rows of all partitions, keys and columns."""

    rows_base: int
    matched: int
    changed: int
    within_tolerance: int
    missing: int
    extra: int
    keys: Keys
    columns: tuple[ColumnComparison, ...]


def judge(
    measured: Measured, rules: Sequence[AnyRule], total: Callable[[str], float]
) -> tuple[RuleOutcome, ...]:
    """Return what became of each rule; ``total`` gives production's sum of a column, asked only if needed.

    A rule about a column that neither side has is broken.
    """
    columns = {column.name: column for column in measured.columns}
    return tuple(_judge_one(measured, columns, rule, total) for rule in rules)


def _judge_one(
    measured: Measured,
    columns: dict[str, ColumnComparison],
    rule: AnyRule,
    total: Callable[[str], float],
) -> RuleOutcome:
    name = getattr(rule, "column", None)
    column = columns.get(name) if name is not None else None
    if name is not None and column is None:
        return RuleOutcome(rule.name, passed=False, observed=f"no column {name}")
    match rule:
        case Ignore() | NullEquals():
            return RuleOutcome(rule.name, passed=True, observed="applied")
        case Tolerance():
            cells = column.within_tolerance if column else 0
            return RuleOutcome(rule.name, passed=True, observed=f"{cells:,} cells tolerated")
        case MaxChanged(rate=rate):
            changed = column.changed if column else measured.changed
            return _at_most(rule.name, changed, measured.matched, rate)
        case MaxMissing(rate=rate) | MaxExtra(rate=rate):
            count = measured.missing if isinstance(rule, MaxMissing) else measured.extra
            return _at_most(rule.name, count, measured.rows_base, rate)
        case SameTotal():
            assert column is not None
            return _same_total(rule, column, total)


def _at_most(name: str, count: int, of: int, rate: float) -> RuleOutcome:
    share = count / of if of else float(count > 0)
    return RuleOutcome(name, passed=share <= rate, observed=f"{count:,} of {of:,} = {share:.6g}")


def _same_total(rule: SameTotal, column: ColumnComparison, total: Callable[[str], float]) -> RuleOutcome:
    if column.role in {"added", "removed"}:
        return RuleOutcome(rule.name, passed=False, observed=f"the column was {column.role}")
    if column.role == "ignored":
        return RuleOutcome(rule.name, passed=False, observed="the column is ignored")
    if column.role == "key":
        return RuleOutcome(rule.name, passed=False, observed="the column is part of the key")
    difference = column.total_difference
    if difference is None:
        return RuleOutcome(rule.name, passed=False, observed="the column is not numeric")
    if difference == 0:
        return RuleOutcome(rule.name, passed=True, observed="no difference")
    base = total(rule.column)
    share = abs(difference) / abs(base) if base else float("inf")
    observed = f"{difference:+,.6g} on {base:,.6g} = {share:.3g}"
    return RuleOutcome(rule.name, passed=abs(difference) <= rule.within * abs(base), observed=observed)


def pronounce(measured: Measured, outcomes: Sequence[RuleOutcome]) -> Verdict:
    """Return the verdict: broken rules or keys first, then what differs."""
    if measured.keys.broken or not all(outcome.passed for outcome in outcomes):
        return "broken"
    if measured.changed or measured.missing or measured.extra or any(one.differs for one in measured.columns):
        return "different"
    if measured.within_tolerance:
        return "within tolerance"
    return "identical"
