"""How far ahead processes are given work."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.run.pace import Pace

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def paced(*seconds):
    pace = Pace()
    for each in seconds:
        pace.took(each)
    return pace.ahead


def test_nothing_waits_behind_an_attempt_of_unknown_length():
    assert paced() == 1


def test_nothing_waits_behind_a_long_attempt():
    assert paced(1.0) == paced(0.031) == 1


def test_tiny_attempts_are_given_ahead_but_never_without_bound():
    assert paced(0.010) == 4
    assert paced(0.0) == paced(1e-9) == 33


def test_one_long_attempt_is_heeded_at_once_and_forgotten_slowly():
    pace = Pace()
    pace.took(0.001)
    assert pace.ahead == 31
    pace.took(1.0)
    assert pace.ahead == 1
    for _ in range(10):
        pace.took(0.001)
        assert pace.ahead == 1
    for _ in range(100):
        pace.took(0.001)
    assert pace.ahead > 28


@steady
@given(st.lists(st.floats(0, 100), min_size=1))
def test_what_waits_is_worth_less_than_a_moment_at_the_longest_recent_pace(seconds):
    ahead = paced(*seconds)
    assert 1 <= ahead <= 33
    assert (ahead - 1) * seconds[-1] <= 0.03 + 1e-9
