"""Comparison rules, their verdict, and how datasets are put together."""

import math

import msgspec
import pytest

from sidestage.checks import (
    ignore,
    max_changed,
    max_extra,
    max_missing,
    null_equals,
    same_total,
    tolerance,
)
from sidestage.checks.result import ColumnComparison, DatasetComparison, Keys, SideIdentity, conclude
from sidestage.checks.rules import AnyRule
from sidestage.checks.verdict import Measured, judge, pronounce
from sidestage.errors import DefinitionError

ALL = [
    tolerance("a", absolute=0.01, relative=1e-9),
    ignore("b"),
    null_equals("c", 0),
    same_total("a", within=0.001),
    max_changed(0.1),
    max_changed(0.1, column="a"),
    max_missing(0),
    max_extra(2.5),
]
AMOUNT = ColumnComparison("a", "compared", "DOUBLE", "DOUBLE", changed=3, total_difference=-1.0)
EQUAL = Measured(100, 100, 0, 0, 0, 0, Keys(), (ColumnComparison("a", "compared", "DOUBLE", "DOUBLE"),))


def test_rules_encode():
    assert msgspec.json.decode(msgspec.json.encode(ALL), type=list[AnyRule]) == ALL
    assert len({rule.name for rule in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: tolerance("a", absolute=-1),
        lambda: tolerance("a", relative=math.nan),
        lambda: same_total("a", within=-0.1),
        lambda: max_changed(1.5),
        lambda: max_missing(-0.5),
        lambda: max_extra(-1),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(declare):
    with pytest.raises(DefinitionError):
        declare()


@pytest.mark.parametrize(
    ("difference", "total", "passed"),
    [
        (-1.0, 1000.0, True),
        (-1.0, 999.0, False),
        (1.0, -1000.0, True),
        (1.0, 0.0, False),
        (None, 1000.0, False),
    ],
)
def test_same_total(difference, total, passed):
    column = msgspec.structs.replace(AMOUNT, total_difference=difference)
    measured = msgspec.structs.replace(EQUAL, columns=(column,))
    (outcome,) = judge(measured, [same_total("a", within=0.001)], lambda _: total)
    assert outcome.passed is passed


def test_the_total_is_asked_only_for_a_difference():
    column = msgspec.structs.replace(AMOUNT, total_difference=0.0)

    def never(name):
        raise AssertionError(name)

    (outcome,) = judge(msgspec.structs.replace(EQUAL, columns=(column,)), [same_total("a")], never)
    assert outcome.passed


@pytest.mark.parametrize("role", ["added", "removed", "ignored", "key"])
def test_same_total_of_a_column_that_was_not_compared_is_broken(role):
    column = msgspec.structs.replace(AMOUNT, role=role)
    (outcome,) = judge(msgspec.structs.replace(EQUAL, columns=(column,)), [same_total("a")], lambda _: 1.0)
    assert not outcome.passed


def test_a_rule_about_an_unknown_column_is_broken():
    outcomes = judge(EQUAL, [tolerance("z"), ignore("z"), max_changed(1, column="z")], lambda _: 0.0)
    assert not any(outcome.passed for outcome in outcomes)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "identical"),
        ({"within_tolerance": 1}, "within tolerance"),
        ({"within_tolerance": 1, "changed": 1}, "different"),
        ({"missing": 1}, "different"),
        ({"extra": 1}, "different"),
        ({"columns": (ColumnComparison("n", "added", None, "INTEGER"),)}, "different"),
        ({"columns": (ColumnComparison("n", "ignored", None, "INTEGER"),)}, "identical"),
        ({"columns": (ColumnComparison("n", "key", "INTEGER", "BIGINT"),)}, "different"),
        ({"keys": Keys(duplicates_base=1, duplicates_candidate=1)}, "identical"),
        ({"keys": Keys(new=1)}, "broken"),
        ({"keys": Keys(problem="no key column")}, "broken"),
    ],
)
def test_verdicts(change, verdict):
    assert pronounce(msgspec.structs.replace(EQUAL, **change), ()) == verdict


def test_the_worst_dataset_decides():
    def dataset(name, verdict, keys):
        return DatasetComparison(
            name,
            (),
            verdict,
            verdict != "broken",
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            keys,
            (),
            (),
            (),
            (),
            (),
            (),
            None,
            0.0,
            5,
        )

    sides = (SideIdentity("fix"), SideIdentity("production"))
    good = dataset("a", "within tolerance", Keys())
    bad = dataset("b", "broken", Keys(new=1))
    assert conclude(*sides, (good,), seconds=1).passed
    both = conclude(*sides, (good, bad), seconds=1)
    assert (both.verdict, both.passed, both.broken, both.bytes_read) == ("broken", False, ("b: keys",), 10)
    assert conclude(*sides, (), seconds=0).verdict == "identical"
