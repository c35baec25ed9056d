"""Restarts: pauses that grow, within a budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.restart import Restart, Restarts

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def no_jitter() -> float:
    return 0.0


def test_pauses_double_then_it_crashes():
    restarts = Restarts(Restart(times=4, within=100, delay=2, longest=10), no_jitter)
    assert [restarts.next_pause(float(now)) for now in range(5)] == [1, 2, 4, 5, None]


def test_the_budget_comes_back():
    restarts = Restarts(Restart(times=2, within=10, delay=2), no_jitter)
    assert [restarts.next_pause(now) for now in (0.0, 5.0, 9.9)] == [1, 2, None]
    assert restarts.left(9.9) == 0
    assert restarts.next_pause(10.0) == 2, "one restart still counts"
    assert restarts.left(100.0) == 2
    assert restarts.next_pause(100.0) == 1


def test_jitter_is_given():
    drawn = iter([0.0, 0.5, 0.25])
    restarts = Restarts(Restart(delay=4), lambda: next(drawn))
    assert [restarts.next_pause(now) for now in (0.0, 1.0, 2.0)] == [2, 6, 10]


def test_crash_and_let_somebody_look():
    assert Restarts(Restart(times=0), no_jitter).next_pause(0.0) is None


@steady
@given(
    st.integers(0, 5),
    st.floats(1, 100),
    st.lists(st.floats(0, 50), max_size=40),
    st.floats(0, 1, exclude_max=True),
)
def test_never_more_than_the_budget_in_any_period(times, within, gaps, jitter):
    restart = Restart(times=times, within=within)
    restarts = Restarts(restart, lambda: jitter)
    now, made = 0.0, []
    for gap in gaps:
        now += gap
        left = restarts.left(now)
        pause = restarts.next_pause(now)
        assert (pause is None) == (left == 0)
        if pause is not None:
            assert 0 <= pause <= restart.longest
            made.append(now)
        assert sum(each > now - within for each in made) <= times


@pytest.mark.parametrize(
    "numbers",
    [
        {"times": -1},
        {"within": 0},
        {"within": float("nan")},
        {"within": float("inf")},
        {"delay": -1},
        {"delay": 5, "longest": 1},
        {"longest": float("inf")},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        Restart(**numbers)
