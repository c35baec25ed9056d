"""Windows under stress: bad input, budgets, damaged snapshots, declarations that make no sense."""

import math
import pickle
import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter

import numpy as np
import pytest

from sidestage.errors import DataError, DefinitionError, OutputError, WindowsFull
from sidestage.stream.windows.aggregates import (
    Fold,
    collect,
    count,
    distinct,
    largest,
    mean,
    together,
    total,
)
from sidestage.stream.windows.plan import Budget, Sooner, Windowed, WindowPlan, session, sliding, tumbling
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import EventTime, Moment

NOW = Moment(1000.0, 0.0)
AT, KEY, VALUE = itemgetter(0), itemgetter(1), itemgetter(2)


def plan_of(windows=None, aggregate=None, *, key=KEY, lateness=0, **time):
    more = {name: time.pop(name) for name in ("updates", "sooner", "on_drain", "budget") if name in time}
    return WindowPlan(
        windows=windows or tumbling(60),
        aggregate=aggregate or count(),
        key=key,
        time=EventTime(**({"at": AT} | time)),
        lateness=lateness,
        **more,
    )


def brief(outcome):
    return [(each.key, each.start, each.value, each.kind, each.revision) for each in outcome.emitted]


def moment(seconds):
    return Moment(1000.0 + seconds, float(seconds))


# bad input


@pytest.mark.parametrize(
    "bad",
    [
        *(None, math.nan, math.inf, -math.inf, 10**400, -(10**400), 1_700_000_000_000, "1", b"1", True, []),
        *(Decimal(5), datetime.fromisoformat("2024-01-01"), np.float64("nan"), Fraction(10**400), 1j),
    ],
)
def test_what_is_no_time_is_named_and_the_others_are_counted(bad):
    state = WindowState(plan_of())
    outcome = state.add([(5, "a"), (bad, "a"), (6, "a")], NOW)
    ((place, error, _),) = outcome.failures
    assert (place, isinstance(error, DataError | TypeError | OverflowError)) == (1, True)
    assert brief(state.drain(NOW)) == [("a", 0, 2, "drained", 0)]


@pytest.mark.parametrize(
    "good",
    [
        *(5, 5.0, np.float64(5), np.int64(5), Fraction(5), datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)),
        datetime(1970, 1, 1, 2, 0, 5, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_are_numbers_or_aware_dates(good):
    state = WindowState(plan_of())
    assert state.add([(good, "a"), (65, "a")], NOW).emitted[0].start == 0.0


def test_times_before_the_epoch_have_windows_too():
    state = WindowState(plan_of())
    state.add([(-1, "a"), (-60, "a"), (-61, "a")], NOW)
    assert brief(state.drain(NOW))[-1] == ("a", -60, 2, "drained", 0)


@pytest.mark.parametrize("name", ["at", "key", "of"])
@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyError, RecursionError])
def test_functions_that_raise_fail_their_item_and_are_called_once_each(name, error):
    calls = Counter()

    def function(which, index):
        def call(item):
            calls[which, item] += 1
            if which == name and item[1] == "bad":
                raise error("no")
            return item[index]

        return call

    plan = plan_of(aggregate=total(function("of", 2)), key=function("key", 1), at=function("at", 0))
    state = WindowState(plan)
    items = [(second, "bad" if second % 7 == 3 else "a", 1) for second in range(50)]
    outcome = state.add(items, NOW)
    assert [each.place for each in outcome.failures] == list(range(3, 50, 7))
    assert {type(each.error) for each in outcome.failures} == {error}
    assert set(calls.values()) == {1}
    assert brief(state.drain(NOW)) == [("a", 0, 43, "drained", 0)]


@pytest.mark.parametrize("windows", [tumbling(60), sliding(60, every=20), session(gap=60)])
def test_keys_of_every_kind(windows):
    state = WindowState(plan_of(windows))
    good = [None, "", "x" * 10**6, "\ud800", "é\u0301", ("a", None), frozenset({1}), -1, b"\0"]
    bad = [[], {}, math.nan, {1}]
    outcome = state.add([(10, key) for key in good + bad], NOW)
    assert [each.place for each in outcome.failures] == [9, 10, 11, 12]
    assert [each.key for each in state.drain(NOW).emitted[-9:]] == good
    assert state.estimated_bytes < 1000


@pytest.mark.parametrize(
    "aggregate", [total(VALUE), mean(VALUE), largest(VALUE), together(n=count(), sum=total(VALUE))]
)
def test_values_that_cannot_be_added_fail_alone(aggregate):
    state = WindowState(plan_of(aggregate=aggregate))
    items = [(second, "a", 1) for second in range(40)]
    items[17] = (17, "a", None)
    outcome = state.add(items, NOW)
    assert [each.place for each in outcome.failures] == [17]
    assert state.drain(NOW).emitted[0].count == 39


def test_aggregates_that_fail_leave_every_window_as_it_was():
    parts = together(some=collect(5, VALUE), kinds=distinct(VALUE, limit=2), sum=total(VALUE))
    state = WindowState(plan_of(sliding(60, every=20), parts))
    outcome = state.add([(50, "a", 1), (51, "a", "text"), (52, "a", 2), (53, "a", 3), (54, "a", [])], NOW)
    assert [each.place for each in outcome.failures] == [1, 3, 4]
    assert {str(each.value) for each in state.drain(NOW).emitted} == {
        str({"some": (1, 2), "kinds": 2, "sum": 3})
    }


def test_a_result_that_raises_is_reported_and_the_others_are_given_out():
    fold = Fold(
        lambda: 0, lambda state, value: state + value, int.__add__, lambda state: 1 // state, of=VALUE
    )
    state = WindowState(plan_of(aggregate=fold))
    outcome = state.add([(1, "a", 0), (2, "b", 1), (70, "b", 1)], NOW)
    assert brief(outcome) == [("b", 0, 1, "on time", 0)]
    ((place, error, window),) = outcome.failures
    assert (place, type(error)) == (None, ZeroDivisionError)
    assert window == Windowed("a", 0.0, 60.0, None, 1, "on time", 0)
    assert state.counts.failed == 0


# budgets


@pytest.mark.parametrize("windows", [tumbling(60), session(gap=60), sliding(60, every=60)])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_keys_beyond_the_budget_are_refused_clearly_and_known_ones_go_on(windows, size):
    state = WindowState(plan_of(windows, budget=Budget(cells=30)))
    items = [(1, f"key {number % 50}") for number in range(100)]
    failed = []
    for begin in range(0, 100, size):
        outcome = state.add(items[begin : begin + size], NOW)
        failed += [(begin + each.place, each.error) for each in outcome.failures]
    assert [place for place, _ in failed] == [*range(30, 50), *range(80, 100)]
    assert all(isinstance(error, WindowsFull) for _, error in failed)
    assert "30 windows of keys are open" in str(failed[0][1])
    assert state.open_windows == 30
    assert sum(each.value for each in state.drain(NOW).emitted) == 60


def test_the_budget_in_bytes_bounds_lists_that_grow():
    state = WindowState(plan_of(aggregate=collect(10**6, VALUE), budget=Budget(bytes=100_000)))
    outcome = state.add([(1, "a", "x" * 1000) for _ in range(200)], NOW)
    assert {type(each.error) for each in outcome.failures} == {WindowsFull}
    assert 90_000 < state.estimated_bytes < 103_000
    assert len(outcome.failures) == 200 - state.drain(NOW).emitted[0].count


@pytest.mark.parametrize(
    ("windows", "aggregate", "keys"),
    [
        (tumbling(60), count(), 20_000),
        (tumbling(60), together(n=count(), sum=total(VALUE)), 20_000),
        (session(gap=60), count(), 10_000),
        (tumbling(60), collect(100, VALUE), 500),
        (tumbling(60), distinct(VALUE), 500),
    ],
)
def test_estimates_are_near_the_memory_that_is_used(windows, aggregate, keys):
    rounds = 20_000 // keys
    state = WindowState(plan_of(windows, aggregate))
    tracemalloc.start()
    try:
        for number in range(rounds):
            state.add([(1.0, f"customer {key}", 1e9 + number + key / 7) for key in range(keys)], NOW)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # One estimate for all interpreters: 3.13 needs 9 % less for these than 3.11, for which it was made.
    assert 0.6 < state.estimated_bytes / used < 1.9


def test_an_item_costs_the_same_however_many_its_key_has():
    state = WindowState(plan_of(aggregate=together(n=count(), sum=total(VALUE))))
    chunk = [(1, "huge", 1)] * 1000

    def cost():
        begun = time.thread_time()
        for _ in range(20):
            state.add(chunk, NOW)
        return time.thread_time() - begun

    first = min(cost() for _ in range(3))
    for _ in range(100):
        state.add(chunk, NOW)
    assert min(cost() for _ in range(3)) < 3 * first
    outcome = state.add([(2, "small", 1), (61, "huge", 1)], NOW)
    assert (outcome.late, [each.key for each in outcome.emitted]) == ([], ["huge", "small"])


# snapshots


def test_a_damaged_snapshot_is_refused_and_changes_nothing():
    state = WindowState(plan_of())
    state.add([(1, "a")], NOW)
    snapshot = state.snapshot()
    broken = [
        snapshot[:place] + bytes([snapshot[place] ^ 1]) + snapshot[place + 1 :]
        for place in range(len(snapshot))
    ]
    for damaged in [*broken, b"", snapshot[:-1], snapshot[:20], snapshot + b"x", b"\0" * 100]:
        with pytest.raises(DataError, match="snapshot"):
            state.restore(damaged, NOW)
    assert brief(state.drain(NOW)) == [("a", 0, 1, "drained", 0)]


def test_a_snapshot_of_another_declaration_is_refused():
    snapshot = WindowState(plan_of()).snapshot()
    for other in (
        plan_of(tumbling(30)),
        plan_of(aggregate=total(VALUE)),
        plan_of(session(gap=60)),
        plan_of(lateness=1),
    ):
        with pytest.raises(DataError, match=r"Tumbling\(size=60, offset=0\), lateness 0, of count"):
            WindowState(other).restore(snapshot, NOW)


def test_a_key_that_cannot_be_pickled_is_said():
    state = WindowState(plan_of())
    state.add([(1, lambda: 0)], NOW)
    with pytest.raises(OutputError, match="snapshot") as caught:
        state.snapshot()
    assert isinstance(caught.value.__cause__, pickle.PicklingError | AttributeError)


def test_a_snapshot_shares_nothing_with_the_state():
    state = WindowState(plan_of(aggregate=collect(9, VALUE)))
    state.add([(1, "a", 1)], NOW)
    snapshot = state.snapshot()
    state.add([(1, "a", 2)], NOW)
    other = WindowState(state.plan)
    other.restore(snapshot, NOW)
    assert brief(other.drain(NOW)) == [("a", 0, (1,), "drained", 0)]


# declarations


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, "60", None, True, 1e-9, 10**400])
def test_windows_are_checked(bad):
    for declare in (
        tumbling,
        session,
        lambda size: sliding(60, every=size),
        lambda size: sliding(size, every=60),
    ):
        with pytest.raises(DefinitionError):
            declare(bad)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: tumbling(60, offset=60),
        lambda: tumbling(60, offset=math.nan),
        lambda: sliding(60, every=61),
        lambda: sliding(10**6, every=1),
        lambda: Budget(cells=0),
        lambda: Budget(bytes=1.5),
        lambda: Sooner(every_items=0),
        lambda: Sooner(every_seconds=-1),
        lambda: EventTime(disorder=-1),
        lambda: EventTime(disorder=None),
        lambda: EventTime(idle=math.nan),
        lambda: EventTime(beyond="elsewhere"),
        lambda: EventTime(at="time"),
        lambda: plan_of(lateness=-1),
        lambda: plan_of(updates="sometimes"),
        lambda: plan_of(on_drain="drop"),
        lambda: plan_of(windows="minutes"),
        lambda: collect(0),
        lambda: distinct(limit=True),
        together,
    ],
)
def test_declarations_are_checked(declare):
    with pytest.raises(DefinitionError):
        declare()


def test_descriptions_are_values():
    assert tumbling(60) == tumbling(60.0)
    assert hash(sliding(60, every=5)) == hash(sliding(60, every=5))
    assert {session(gap=3): "kept"}[session(gap=3.0)] == "kept"
