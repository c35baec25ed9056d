"""Surges of errors: when they begin, when they are over, and what is usual."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.surge import Surge, SurgeBegan, SurgeEnded, SurgeWatch
from sidestage.testing.turned_clock import HandClock

steady = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def watch(**numbers):
    clock, heard = HandClock(), []
    return SurgeWatch("parse", Surge(**numbers), clock, heard.append), clock, heard


def test_it_begins_at_a_share_among_enough_items():
    watched, _, heard = watch(share=0.5, least=100)
    assert watched.count(99, {"schema": 99}) is None, "too few to tell"
    began = watched.count(1, {})
    assert isinstance(began, SurgeBegan)
    assert (began.stage, began.items, began.failed, began.classes) == ("parse", 100, 99, {"schema": 99})
    assert (began.bound, began.usual, began.then) == (0.5, None, "alert")
    assert heard == [began]
    assert watched.surging


def test_below_the_share_nothing_is_said():
    watched, _, heard = watch(share=0.5, least=100, times_usual=None)
    for _ in range(100):
        watched.count(100, {"schema": 49})
    assert heard == []


def test_it_says_what_to_do():
    watched, _, _ = watch(least=1, then="stop")
    assert watched.count(1, {"bug": 1}).then == "stop"


def test_it_is_over_when_the_share_has_fallen_to_half():
    watched, clock, heard = watch(share=0.5, least=10, within=10)
    watched.count(10, {"schema": 10})
    clock.advance(1)
    assert watched.count(10) is None, "half of them still fail"
    clock.advance(1)
    assert watched.count(19) is None
    ended = watched.count(1, {})
    assert isinstance(ended, SurgeEnded)
    assert (ended.seconds, ended.items, ended.failed) == (2, 30, 0)
    assert [type(each) for each in heard] == [SurgeBegan, SurgeEnded]
    assert not watched.surging


def test_it_is_over_when_nothing_comes_any_more():
    watched, clock, _ = watch(least=10, within=10)
    watched.count(10, {"schema": 10})
    clock.advance(9)
    assert watched.count(0) is None
    clock.advance(2)
    assert isinstance(watched.count(0), SurgeEnded)


def usual(watched, clock, share: int, minutes: int = 3) -> None:
    for _ in range(minutes * 60):
        assert watched.count(1000, {"validation": share}) is None
        clock.advance(1)


def test_far_above_what_is_usual_is_a_surge_too():
    watched, clock, _ = watch(share=0.5, times_usual=10, floor=0.01, within=60, least=100)
    usual(watched, clock, share=5)
    assert watched.usual == pytest.approx(0.005)
    for _ in range(60):
        clock.advance(1)
        began = watched.count(1000, {"validation": 5, "schema": 60})
        if began:
            break
    assert isinstance(began, SurgeBegan)
    assert began.bound == pytest.approx(0.05)
    assert began.failed / began.items == pytest.approx(0.05, abs=0.002)
    before = watched.usual
    for _ in range(300):
        clock.advance(1)
        watched.count(1000, {"schema": 65})
    assert watched.surging
    assert watched.usual == before, "a surge does not become usual"


def test_where_errors_are_rare_a_few_are_no_surge():
    watched, clock, heard = watch(floor=0.01)
    usual(watched, clock, share=0)
    assert watched.usual == 0
    watched.count(1000, {"bug": 100})
    assert heard == [], "under one in a hundred in the last minute"


def test_what_is_usual_is_not_known_at_once():
    watched, clock, _ = watch(share=0.9, least=100, within=10)
    watched.count(999)
    clock.advance(20)
    assert watched.count(100, {"bug": 80}) is None
    assert watched.usual is None


@steady
@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 100), st.floats(0, 1)), max_size=60),
    st.floats(0.05, 1),
    st.integers(1, 200),
)
def test_begins_and_ends_take_turns_and_begins_have_their_reason(chunks, share, least):
    watched, clock, heard = watch(share=share, least=least, within=30, times_usual=None)
    for seconds, items, bad in chunks:
        clock.advance(seconds)
        event = watched.count(items, {"schema": int(items * bad)})
        if isinstance(event, SurgeBegan):
            assert event.items >= least
            assert event.failed >= share * event.items
        assert watched.surging == (len(heard) % 2 == 1)
    assert [type(each) for each in heard] == ([SurgeBegan, SurgeEnded] * 60)[: len(heard)]


@pytest.mark.parametrize(
    "numbers",
    [
        {"share": 0},
        {"share": 2},
        {"share": float("nan")},
        {"least": 0},
        {"within": 0},
        {"within": float("inf")},
        {"times_usual": 1},
        {"floor": 0},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        Surge(**numbers)
