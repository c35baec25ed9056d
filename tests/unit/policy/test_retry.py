"""Retries: which failures, how often, after how long."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.failure import RETRYABLE
from sidestage.policy.retry import Retry

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)
NEVER = ["authentication", "schema", "validation", "disk-full", "stale", "cancelled", "bug"]


@pytest.mark.parametrize("failure", sorted(RETRYABLE))
def test_curable_failures_are_tried_again_so_many_times(failure):
    retry = Retry(times=3)
    waits = [retry.wait_before(attempt, failure, 0.5) for attempt in range(1, 6)]
    assert [wait is not None for wait in waits] == [True, True, True, False, False]


@pytest.mark.parametrize("failure", NEVER)
def test_others_never(failure):
    assert Retry(times=10).wait_before(1, failure, 0.5) is None


def test_every_class_is_either():
    from typing import get_args

    from sidestage.policy.failure import FailureClass

    assert {*RETRYABLE, *NEVER} == set(get_args(FailureClass))


def test_waits_double_up_to_the_longest():
    retry = Retry(times=6, delay=2, longest=20)
    assert [retry.wait_before(attempt, "transient", 0.0) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_no_retries():
    assert Retry(times=0).wait_before(1, "transient", 0.0) is None


@steady
@given(
    st.integers(0, 10_000),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_waits_are_bounded_and_jitter_spreads_half(times, delay, extra, attempt, jitter):
    retry = Retry(times=times, delay=delay, longest=delay + extra)
    wait = retry.wait_before(attempt, "transient", jitter)
    if attempt > times:
        assert wait is None
        return
    assert wait is not None
    least = retry.wait_before(attempt, "transient", 0.0)
    assert least is not None
    assert least <= wait <= 2 * least
    assert 0 <= wait <= retry.longest


@steady
@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_waits_never_shrink(times, jitter):
    retry = Retry(times=times)
    waits = [retry.wait_before(attempt, "transient", jitter) for attempt in range(1, times + 1)]
    assert all(first <= second for first, second in itertools.pairwise(waits))


@pytest.mark.parametrize(
    "values",
    [
        {"times": -1},
        {"delay": -0.1},
        {"delay": 10, "longest": 5},
        {"delay": float("nan")},
        {"longest": float("nan")},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(DefinitionError, match="makes no sense") as caught:
        Retry(**values)
    assert caught.value.hint
