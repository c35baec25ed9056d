"""Columns give what the same items give one by one."""

import math
import random
from datetime import UTC, datetime
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.stream.windows.aggregates import count, largest, total
from sidestage.stream.windows.plan import WindowPlan, session, sliding, tumbling
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import EventTime, Moment

VALUE = itemgetter(2)
NOW = Moment(500.0, 0.0)


def plan_of(windows, aggregate, **more):
    time = {"at": itemgetter(0), "disorder": 4, "ahead": 600} | more.pop("time", {})
    return WindowPlan(windows=windows, aggregate=aggregate, key=itemgetter(1), time=EventTime(**time), **more)


def comparable(outcome):
    late = [(each.place, each.key, each.time, each.start, each.end) for each in outcome.late]
    early = [(each.place, each.key, each.time, each.reason) for each in outcome.early]
    failed = [(each.place, type(each.error), str(each.error)) for each in outcome.failures]
    return repr((outcome.emitted, late, early, failed, outcome.watermark))


def columns_of(items, form):
    times, keys, values = (list(column) for column in zip(*items, strict=True))
    if form == "lists":
        return times, keys, values
    arrow = [pa.array(column, from_pandas=False) for column in (times, keys, values)]
    if form == "arrow":
        return arrow
    if form == "chunked":
        half = len(items) // 2
        return [pa.chunked_array([column[:half], column[half:]]) for column in arrow]
    if form == "dictionary":
        return [arrow[0], arrow[1].dictionary_encode(), arrow[2]]
    return np.array(times), np.array(keys, dtype=object), np.array(values)


whole = st.integers(0, 400)
broken = st.floats(0, 400) | st.sampled_from([math.nan, math.inf, 1e300, 5000.0, 60.0, 120.0])
amounts = st.integers(-(2**62), 2**62) | st.integers(-9, 9)
floats = st.floats(allow_nan=False) | st.floats(-10, 10)
keys = st.sampled_from(["a", "b", "c", None, "é"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(whole, keys, amounts), min_size=1, max_size=60)
    | st.lists(st.tuples(broken, keys, floats), min_size=1, max_size=60)
    | st.lists(st.tuples(whole, st.integers(0, 5), floats), min_size=1, max_size=60),
    st.sampled_from(
        [tumbling(60), tumbling(7, offset=2), tumbling(0.1), sliding(30, every=10), session(gap=9)]
    ),
    st.sampled_from([count(), total(VALUE), largest(VALUE)]),
    st.sampled_from(["lists", "arrow", "chunked", "dictionary", "numpy"]),
    st.sampled_from([{}, {"beyond": "stamp"}, {"disorder": 100}]),
    st.sampled_from([1, 7, 60]),
)
def test_the_same_as_items(items, windows, aggregate, form, time, cut):
    plan = plan_of(windows, aggregate, lateness=20, time=time)
    by_item, by_column = WindowState(plan), WindowState(plan)
    for begin in range(0, len(items), cut):
        piece = items[begin : begin + cut]
        one = by_item.add(piece, NOW)
        other = by_column.add_columns(*columns_of(piece, form), NOW)
        assert comparable(one) == comparable(other)
    assert by_item.counts == by_column.counts
    assert by_item.estimated_bytes == by_column.estimated_bytes
    assert comparable(by_item.drain(NOW)) == comparable(by_column.drain(NOW))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(broken, keys, floats), min_size=1, max_size=80), st.integers(1, 80))
def test_chunks_of_columns_make_no_difference(items, cut):
    plan = plan_of(tumbling(10), total(VALUE), lateness=15)
    results = []
    for size in (cut, len(items)):
        state, emitted = WindowState(plan), []
        for begin in range(0, len(items), size):
            emitted += state.add_columns(*columns_of(items[begin : begin + size], "numpy"), NOW).emitted
        results.append((emitted, state.drain(NOW).emitted, state.counts))
    assert repr(results[0]) == repr(results[1])


@pytest.mark.parametrize(
    "windows", [tumbling(60), tumbling(0.1), tumbling(1.7, offset=0.3), tumbling(60, offset=7)]
)
@pytest.mark.parametrize("aggregate", [count(), total(VALUE)])
@pytest.mark.parametrize(("disorder", "lateness"), [(2, 90), (100, 0), (0, 0.5)])
@pytest.mark.parametrize("cut", [7, 1000])
def test_the_same_over_a_long_stream(windows, aggregate, disorder, lateness, cut):
    chance = random.Random(3)
    places = [number + chance.randrange(-900, 5) * (chance.random() < 0.2) for number in range(1000)]
    items = [(place * 0.1, chance.choice("abcdef"), chance.uniform(-1, 1)) for place in places]
    plan = plan_of(windows, aggregate, lateness=lateness, time={"disorder": disorder})
    by_item, by_column = WindowState(plan), WindowState(plan)
    once = by_item.add(items, NOW)
    emitted, late = [], 0
    for begin in range(0, len(items), cut):
        outcome = by_column.add_columns(*columns_of(items[begin : begin + cut], "arrow"), NOW)
        emitted += outcome.emitted
        late += len(outcome.late)
    assert emitted == once.emitted
    assert (late, by_column.counts) == (len(once.late), by_item.counts)
    assert by_column.drain(NOW).emitted == by_item.drain(NOW).emitted


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_timestamps_become_seconds(unit, zone):
    moments = [datetime(2024, 5, 1, 12, 0, second, tzinfo=UTC) for second in (1, 59)]
    column = (
        pa.array(moments, pa.timestamp("us", "UTC"))
        .cast(pa.timestamp(unit, "UTC"))
        .cast(pa.timestamp(unit, zone))
    )
    state = WindowState(plan_of(tumbling(60), count(), time={"ahead": None}))
    state.add_columns(column, None, None, NOW)
    (found,) = state.drain(NOW).emitted
    assert (found.start, found.count, found.key) == (moments[0].timestamp() - 1, 2, None)
    state.add_columns(column.cast(pa.timestamp(unit)).to_numpy(), None, None, NOW)
    assert state.drain(NOW).emitted[0].count == 2


def test_missing_times_and_values_are_named():
    state = WindowState(plan_of(tumbling(60), total()))
    times = pa.array([1, None, 3, 4], pa.int64())
    outcome = state.add_columns(times, pa.array(["a", "b", None, "a"]), pa.array([1, 2, 3, None]), NOW)
    assert [each.place for each in outcome.failures] == [1, 3]
    assert [(each.key, each.value) for each in state.drain(NOW).emitted] == [("a", 1), (None, 3)]


def test_missing_timestamps_are_named():
    state = WindowState(plan_of(tumbling(60), count()))
    column = np.array(["1970-01-01T00:00:05", "NaT"], "M8[us]")
    assert [each.place for each in state.add_columns(column, None, None, NOW).failures] == [1]
    outcome = state.add_columns(pa.array([None, 0], pa.timestamp("us")), None, None, NOW)
    assert [each.place for each in outcome.failures] == [0]
    assert state.drain(NOW).emitted[0].count == 2


def test_totals_beyond_64_bits_are_exact():
    state = WindowState(plan_of(tumbling(60), total()))
    big = 2**63 - 1
    for _ in range(3):
        state.add_columns(np.array([1, 2]), None, np.array([big, big]), NOW)
    assert state.drain(NOW).emitted[0].value == 6 * big


def test_keys_of_mixed_types_are_kept_apart_as_python_does():
    state = WindowState(plan_of(tumbling(60), count()))
    state.add_columns([1, 2, 3, 4, 5], [1, 1.0, True, "1", 2.5], None, NOW)
    assert [(each.key, each.count) for each in state.drain(NOW).emitted] == [(1, 3), ("1", 1), (2.5, 1)]


def test_the_clock_gives_the_times_where_there_are_none():
    state = WindowState(WindowPlan(windows=tumbling(60), aggregate=count()))
    state.add_columns(None, pa.array(["a", "a"]), None, Moment(90.0, 0.0))
    (found,) = state.tick(Moment(130.0, 1.0)).emitted
    assert (found.start, found.count, found.kind) == (60.0, 2, "on time")


def test_columns_that_do_not_fit_are_refused():
    state = WindowState(plan_of(tumbling(60), count()))
    with pytest.raises(DefinitionError, match=r"\[2, 3\] rows"):
        state.add_columns([1, 2], ["a", "b", "c"], None, NOW)
    with pytest.raises(DefinitionError, match="do not agree"):
        state.add_columns(None, ["a"], None, NOW)
    with pytest.raises(DefinitionError, match="total needs some"):
        WindowState(plan_of(tumbling(60), total())).add_columns([1], ["a"], None, NOW)
    assert state.add_columns([], [], None, NOW).emitted == []
    assert state.counts.items == 0
