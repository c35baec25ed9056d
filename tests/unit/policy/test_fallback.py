"""Failure budgets: when makeshift answers are allowed, and what is said about it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.fallback import FailureBudget, Spending
from sidestage.testing.turned_clock import HandClock

steady = settings(derandomize=True, database=None, deadline=None, max_examples=150)


def spending(**numbers):
    clock = HandClock()
    return Spending("users", FailureBudget(**numbers), clock), clock


def test_a_degraded_mode_begins_with_the_first_makeshift_answer_and_ends_with_a_success():
    spent, clock = spending(calm=1)
    assert spent.succeeded() is None
    spent.failed()
    assert spent.mode == "normal"
    allowed, began = spent.allow(3, "a call failed")
    assert allowed
    assert (began.lookup, began.before, began.after, began.why) == (
        "users",
        "normal",
        "degraded",
        "a call failed",
    )
    assert spent.allow(2, "a call failed") == (True, None), "told once"
    clock.advance(0.5)
    assert spent.succeeded() is None, "one has just failed"
    clock.advance(0.5)
    ended = spent.succeeded()
    assert (ended.before, ended.after, ended.seconds, ended.makeshift) == ("degraded", "normal", 1, 5)


def test_it_must_not_last_for_ever():
    spent, clock = spending(seconds=10, calm=0)
    spent.failed()
    spent.allow(1, "")
    clock.advance(10)
    assert spent.allow(1, "") == (True, None)
    clock.advance(0.5)
    allowed, turned = spent.allow(4, "")
    assert not allowed
    assert (turned.before, turned.after, turned.seconds) == ("degraded", "spent", 10.5)
    assert spent.allow(1, "") == (False, None)
    ended = spent.succeeded()
    assert (ended.before, ended.after, ended.makeshift, ended.failed) == ("spent", "normal", 2, 5)
    assert spent.allow(1, "")[0], "the next time has a budget of its own"


def test_for_ever_if_so_declared():
    spent, clock = spending(seconds=None)
    spent.allow(1, "")
    clock.advance(1e9)
    assert spent.allow(1, "") == (True, None)


def test_a_share_of_the_items_at_most_and_not_again_until_half_of_it_has_come_back():
    spent, clock = spending(share=0.1, least=100, within=10)
    spent.count(90)
    assert spent.allow(10, "")[0]
    allowed, turned = spent.allow(1, "")
    assert not allowed
    assert turned.after == "spent"
    spent.count(50)
    assert spent.allow(1, "") == (False, None), "11 of 152 are more than half of the share"
    spent.count(80)
    allowed, turned = spent.allow(1, "again")
    assert allowed
    assert turned.after == "degraded"
    clock.advance(11)
    assert spent.allow(50, "") == (True, None), "too few lately to tell a share"


@steady
@given(
    st.floats(0.01, 1),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50), st.integers(1, 50)), max_size=50),
)
def test_never_more_than_the_share_once_there_were_enough(share, chunks):
    spent, clock = spending(share=share, least=20, within=1e6, seconds=None)
    items = makeshift = 0
    for seconds, well, ill in chunks:
        clock.advance(seconds)
        spent.count(well)
        allowed, _ = spent.allow(ill, "")
        items += well + ill
        makeshift += ill * allowed
        if allowed and items >= 20:
            assert makeshift <= share * items
        assert spent.mode == ("degraded" if allowed else "spent")


@pytest.mark.parametrize(
    "numbers",
    [
        {"seconds": -1},
        {"seconds": float("nan")},
        {"share": 0},
        {"share": 1.5},
        {"share": float("nan")},
        {"within": 0},
        {"least": 0},
        {"calm": -1},
        {"calm": float("nan")},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        FailureBudget(**numbers)
