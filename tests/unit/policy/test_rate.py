"""Rate limits: how many may pass, when the next may, and which keys are remembered."""

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidestage.errors import DefinitionError
from sidestage.policy.rate import Bucket, Buckets, Passing, Rate
from sidestage.testing.turned_clock import HandClock

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def test_a_burst_passes_then_the_steady_rate():
    clock = HandClock()
    bucket = Bucket(Rate(10, burst=3), clock)
    assert bucket.take(2) == Passing(2, 0.0)
    assert bucket.take(5) == (1, pytest.approx(0.1))
    clock.advance(0.25)
    assert bucket.take(5) == (2, pytest.approx(0.05))
    clock.advance(100)
    assert bucket.take(5).passed == 3, "no more than a burst is saved up"


def test_a_burst_is_what_passes_in_the_time_named():
    assert Rate(100).most_at_once == 100
    assert Rate(30, 60).most_at_once == 30
    assert Rate(0.5).most_at_once == 1


@pytest.mark.parametrize("wanted", [0, -1])
def test_nothing_wanted_nothing_taken(wanted):
    bucket = Bucket(Rate(1), HandClock())
    assert bucket.take(wanted) == (0, 0.0)
    assert bucket.take(1).passed == 1


def test_keys_do_not_share():
    buckets: Buckets[str] = Buckets(Rate(1), HandClock())
    assert buckets.take("ann", 5) == (1, 1.0)
    assert buckets.take("bob", 5) == (1, 1.0)
    assert buckets.take("ann", 5) == (0, 1.0)


def test_idle_keys_are_forgotten():
    clock = HandClock()
    buckets: Buckets[int] = Buckets(Rate(1), clock, most=1000)
    for key in range(1000):
        buckets.take(key, 1)
    clock.advance(1)
    for _ in range(500):
        buckets.take(0, 0)
    assert len(buckets) == 0


def test_a_new_key_waits_while_all_that_are_remembered_are_in_use():
    clock = HandClock()
    buckets: Buckets[str] = Buckets(Rate(1), clock, most=2)
    buckets.take("ann", 1)
    clock.advance(0.5)
    buckets.take("bob", 1)
    assert buckets.take("eve", 1) == (0, 0.5)
    assert len(buckets) == 2
    clock.advance(0.5)
    assert buckets.take("eve", 1).passed == 1


def test_a_busy_key_does_not_keep_idle_ones_from_being_forgotten():
    clock = HandClock()
    buckets: Buckets[str] = Buckets(Rate(1, burst=2), clock, most=2)
    buckets.take("ann", 1)
    buckets.take("bob", 1)
    clock.advance(0.9)
    buckets.take("ann", 1)
    clock.advance(0.1)
    assert buckets.take("eve", 1).passed == 1


def test_many_threads_pass_no_more_than_may():
    bucket = Bucket(Rate(1, burst=1000), HandClock())
    passed = []
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        passed.extend(bucket.take(3).passed for _ in range(500))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(passed) == 1000


@pytest.mark.parametrize(
    "numbers",
    [(0,), (-1,), (math.nan,), (math.inf,), (1, 0), (1, math.nan), (1, math.inf), (1, 1.0, 0)],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        Rate(*numbers)


def test_a_limit_by_key_needs_room_for_one():
    with pytest.raises(DefinitionError, match="0 keys"):
        Buckets(Rate(1), HandClock(), most=0)


@steady
@given(
    st.floats(0.001, 1e6),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 80)), max_size=30),
    st.floats(0, 1e7),
)
def test_never_more_than_a_burst_and_the_rate_and_whoever_waits_gets_on(rate, burst, asked, start):
    clock = HandClock()
    clock.advance(start)
    bucket = Bucket(Rate(rate, burst=burst), clock)
    passed, began = 0, clock.monotonic()
    for seconds, wanted in asked:
        clock.advance(seconds)
        answer = bucket.take(wanted)
        passed += answer.passed
        assert 0 <= answer.passed <= wanted
        slack = 1e-6 + 40 * math.ulp(clock.monotonic()) * rate
        assert passed <= burst + (clock.monotonic() - began) * rate + slack
        if answer.passed < wanted:
            assert answer.wait > 0
        waits = 0
        while answer.wait > 0:
            waits += 1
            assert waits < 10, "asking again and again"
            clock.advance(answer.wait)
            answer = bucket.take(0)


class ManyKeys(RuleBasedStateMachine):
    """A limit by key is the same as a bucket for each key, but for those it has no room for."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.rate = Rate(2, burst=3)
        self.buckets: Buckets[int] = Buckets(self.rate, self.clock, most=4)
        self.models: dict[int, Bucket] = {}

    @rule(key=st.integers(0, 7), wanted=st.integers(0, 5))
    def take(self, key, wanted) -> None:
        model = self.models.setdefault(key, Bucket(self.rate, self.clock))
        room = len(self.buckets) < 4
        answer = self.buckets.take(key, wanted)
        if answer.passed == 0 and wanted and not room:
            assert answer.wait > 0
            return
        assert answer == model.take(wanted)

    @rule(ticks=st.integers(0, 12))
    def pass_time(self, ticks) -> None:
        self.clock.advance(ticks / 4)

    @invariant()
    def bounded(self) -> None:
        assert len(self.buckets) <= 4


TestManyKeys = ManyKeys.TestCase
TestManyKeys.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=80, stateful_step_count=40
)
