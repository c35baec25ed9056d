"""Windows against a plain reference, cut into chunks in every way, taken up again from snapshots."""

import math
import random
from operator import itemgetter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.stream.window_reference import Reference

from sidestage.stream.windows.aggregates import (
    Fold,
    collect,
    count,
    distinct,
    largest,
    mean,
    smallest,
    together,
    total,
)
from sidestage.stream.windows.plan import Sooner, WindowPlan, session, sliding, tumbling
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import EventTime, Moment

VALUE = itemgetter(2)


def twice(state, value):
    return state + 2 * value


def zero():
    return 0


def plus(one, other):
    return one + other


def same(state):
    return state


AGGREGATES = {
    "count": (count(), len),
    "total": (total(VALUE), sum),
    "smallest": (smallest(VALUE), min),
    "largest": (largest(VALUE), max),
    "mean": (mean(VALUE), lambda values: sum(values) / len(values)),
    "collect": (collect(3, VALUE), lambda values: tuple(values[:3])),
    "distinct": (distinct(VALUE), lambda values: len(set(values))),
    "together": (
        together(n=count(), sum=total(VALUE), some=collect(2, VALUE)),
        lambda values: {"n": len(values), "sum": sum(values), "some": tuple(values[:2])},
    ),
    "fold": (Fold(zero, twice, plus, same, of=VALUE), lambda values: 2 * sum(values)),
}
# count needs no value, so a missing one is no failure there; these refuse it
REFUSING_NONE = {"total", "smallest", "largest", "mean", "together", "fold"}

steps = st.one_of(st.integers(-3, 12), st.sampled_from([-70, -25, 40, 130]))
odd_times = st.sampled_from([None, math.nan, math.inf, 10**15, -(10**400), 1e300])
keys = st.sampled_from(["a", "b", "ключ", None, "x" * 2000])


@st.composite
def batches(draw, *, dirty):
    """Chunks with clock readings and partitions; times wander about."""
    found, now, mono = [], 100.0, 0.0
    for _ in range(draw(st.integers(1, 6))):
        mono += draw(st.sampled_from([0.0, 1.0, 7.0, 30.0]))
        partition = draw(st.sampled_from(["p", "p", "q", None]))
        items, pace = [], draw(st.sampled_from([1, 0.25, 0.0625]))
        for _ in range(draw(st.integers(1, 24))):
            now += draw(steps) * pace
            time = draw(odd_times) if dirty and draw(st.integers(0, 9)) == 0 else now
            key = math.nan if dirty and draw(st.integers(0, 19)) == 0 else draw(keys)
            value = None if dirty and draw(st.integers(0, 14)) == 0 else draw(st.integers(-5, 50))
            items.append((time, key, value))
        found.append((partition, 100.0 + mono * 5, mono, items))
    return found


@st.composite
def plans(draw, *, names=tuple(AGGREGATES)):
    windows = draw(
        st.sampled_from(
            [
                *(
                    tumbling(10),
                    tumbling(60),
                    tumbling(7, offset=3),
                    tumbling(0.5),
                    tumbling(2.5, offset=-1.25),
                ),
                *(sliding(20, every=5), sliding(10, every=4), sliding(1.5, every=0.5)),
                *(session(gap=4), session(gap=15), session(gap=0.75)),
            ]
        )
    )
    name = draw(st.sampled_from(names))
    aggregate, compute = AGGREGATES[name]
    plan = WindowPlan(
        windows=windows,
        aggregate=aggregate,
        key=itemgetter(1),
        time=EventTime(
            at=itemgetter(0),
            disorder=draw(st.sampled_from([0, 3, 12.5])),
            idle=draw(st.sampled_from([None, 5.0])),
            ahead=draw(st.sampled_from([None, None, 60.0])),
            beyond=draw(st.sampled_from(["aside", "stamp"])),
        ),
        lateness=draw(st.sampled_from([0, 10, 45.5])),
        updates=draw(st.sampled_from(["each", "once"])),
        sooner=Sooner(
            every_seconds=draw(st.sampled_from([None, None, 5.0])),
            every_items=draw(st.sampled_from([None, None, 3])),
        ),
    )
    return name, plan, compute


def row(windowed):
    return tuple(getattr(windowed, name) for name in windowed.__struct_fields__)


def feed(state, chunks, cut):
    """Give chunks to a state, each cut into pieces of ``cut`` items; return all that came out, with places."""
    emitted, late, early, failed = [], [], [], []
    for number, (partition, wall, mono, items) in enumerate(chunks):
        for begin in range(0, len(items), cut):
            piece = items[begin : begin + cut]
            outcome = state.add(piece, Moment(wall, mono), partition)
            emitted += [row(each) for each in outcome.emitted]
            late += [(number, begin + each.place, each.start, each.end) for each in outcome.late]
            early += [(number, begin + each.place, each.time) for each in outcome.early]
            failed += [(number, begin + each.place, type(each.error)) for each in outcome.failures]
    return emitted, late, early, failed


@settings(max_examples=150, deadline=None)
@given(plans(), batches(dirty=False), st.sampled_from([1, 2, 5, 100]))
def test_same_as_the_reference(planned, chunks, cut):
    _, plan, compute = planned
    state, reference = WindowState(plan), Reference(plan, compute)
    found = feed(state, chunks, cut)
    for partition, wall, mono, items in chunks:
        reference.batch(items, wall, mono, partition)
    late = [chunks[number][3][place] for number, place, *_ in found[1]]
    early = [chunks[number][3][place] for number, place, _ in found[2]]
    assert found[0] == reference.emitted
    assert (late, early, found[3]) == (reference.late, reference.early, [])
    assert (state.watermark or -math.inf) == reference.watermark
    reference.emitted.clear()
    reference.drain()
    assert [row(each) for each in state.drain(Moment(0, 0)).emitted] == reference.emitted
    assert (state.open_windows, state.estimated_bytes < 1500) == (0, True)


@settings(max_examples=80, deadline=None)
@given(plans(names=sorted(REFUSING_NONE)), batches(dirty=True), st.sampled_from([1, 3, 100]))
def test_bad_items_are_named_and_touch_no_other(planned, chunks, cut):
    _, plan, compute = planned
    state, reference = WindowState(plan), Reference(plan, compute)
    emitted, late, early, failed = feed(state, chunks, cut)
    for partition, wall, mono, items in chunks:
        reference.batch(items, wall, mono, partition)
    assert emitted == reference.emitted
    named = [chunks[number][3][place] for number, place, _ in failed]
    assert sorted(map(id, named)) == sorted(map(id, reference.failed))
    everything = sum(len(items) for *_, items in chunks)
    counts = state.counts
    assert counts.items == everything
    assert (counts.late, counts.early, counts.failed) == (len(late), len(early), len(failed))


@settings(max_examples=80, deadline=None)
@given(plans(), batches(dirty=True), st.integers(1, 20), st.integers(1, 20))
def test_chunks_make_no_difference(planned, chunks, one, other):
    _, plan, _ = planned
    assert repr(feed(WindowState(plan), chunks, one)) == repr(feed(WindowState(plan), chunks, other))


@settings(max_examples=80, deadline=None)
@given(plans(), batches(dirty=True), st.integers(1, 20), st.data())
def test_goes_on_from_a_snapshot_at_any_boundary(planned, chunks, cut, data):
    _, plan, _ = planned
    whole = feed(WindowState(plan), chunks, cut)
    state, parts = WindowState(plan), ([], [], [], [])
    for number, chunk in enumerate(chunks):
        partition, wall, mono, items = chunk
        for begin in range(0, len(items), cut):
            piece = (partition, wall, mono, items[begin : begin + cut])
            for part, found in zip(parts, feed(state, [piece], len(items)), strict=True):
                shifted = (
                    [(number, begin + each[1], *each[2:]) for each in found]
                    if part is not parts[0]
                    else found
                )
                part.extend(shifted)
            if data.draw(st.booleans()):
                snapshot, old = state.snapshot(), state
                state = WindowState(plan)
                state.restore(snapshot, Moment(wall, mono))
                assert (state.counts, state.watermark) == (old.counts, old.watermark)
                assert (state.open_windows, state.estimated_bytes) == (old.open_windows, old.estimated_bytes)
    assert repr(parts) == repr(whole)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.sampled_from("abc"), st.floats(-1e9, 1e9)), min_size=1, max_size=200
    ),
    st.sampled_from([tumbling(60), tumbling(0.1), tumbling(3, offset=1), sliding(60, every=20)]),
    st.integers(1, 64),
)
@example([(60.0, "a", 1.0)] * 20, tumbling(60), 20)
def test_totals_of_floats_do_not_depend_on_chunks(items, windows, cut):
    plan = WindowPlan(
        windows=windows,
        aggregate=total(VALUE),
        key=itemgetter(1),
        time=EventTime(at=itemgetter(0), disorder=50),
    )
    states = WindowState(plan), WindowState(plan)
    chunks = [(0, 0.0, 0.0, items)]
    found = [
        feed(state, chunks, size)[0] + [row(each) for each in state.drain(Moment(0, 0)).emitted]
        for state, size in zip(states, (1, cut), strict=True)
    ]
    assert found[0] == found[1]


on_boundaries = st.builds(
    lambda number, size, towards: math.nextafter(number * size, towards),
    st.integers(-(10**6), 2 * 10**9),
    st.sampled_from([0.1, 0.7, 1.7]),
    st.sampled_from([-1e12, 1e12]),
) | st.builds(
    lambda number, size: number * size, st.integers(-(10**6), 2 * 10**9), st.sampled_from([0.1, 1.7])
)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-1e10, 1e10) | on_boundaries,
    st.sampled_from(
        [tumbling(0.1), tumbling(0.001), tumbling(7, offset=-3), tumbling(1.7), tumbling(60, offset=0.1)]
    ),
)
def test_each_time_lies_in_the_window_that_says_so(time, windows):
    state = WindowState(WindowPlan(windows=windows, aggregate=count(), time=EventTime(at=float)))
    state.add([time], Moment(0, 0))
    (found,) = state.drain(Moment(0, 0)).emitted
    assert found.start <= time < found.end


@given(
    st.floats(0, 1e9), st.sampled_from([sliding(0.3, every=0.1), sliding(60, every=7), sliding(5, every=5)])
)
def test_an_item_lies_in_all_sliding_windows_around_it(time, windows):
    state = WindowState(WindowPlan(windows=windows, aggregate=count(), time=EventTime(at=float)))
    state.add([time], Moment(0, 0))
    found = state.drain(Moment(0, 0)).emitted
    assert all(each.start <= time < each.end for each in found)
    assert abs(len(found) - windows.size / windows.every) < 1


@pytest.mark.parametrize(
    "windows", [tumbling(60), sliding(60, every=20), sliding(30, every=7), session(gap=2)]
)
@pytest.mark.parametrize("name", ["count", "total", "together"])
@pytest.mark.parametrize(("disorder", "lateness"), [(2, 30), (100, 0), (0, 0)])
def test_a_long_stream_is_the_same_in_chunks_and_one_by_one(windows, name, disorder, lateness):
    chance = random.Random(5)
    aggregate = together(most=largest(VALUE), mean=mean(VALUE)) if name == "together" else AGGREGATES[name][0]
    items = [
        (
            number * 0.25 - chance.randrange(70) * (chance.random() < 0.05),
            chance.choice("abcdef"),
            chance.random(),
        )
        for number in range(1500)
    ]
    time = EventTime(at=itemgetter(0), disorder=disorder)
    plan = WindowPlan(windows=windows, aggregate=aggregate, key=itemgetter(1), time=time, lateness=lateness)
    found = []
    for cut in (1, 40, 1500):
        state = WindowState(plan)
        found.append((feed(state, [(0, 0.0, 0.0, items)], cut), state.drain(Moment(0, 0)).emitted))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("size", [1, 7, 64, 1024])
def test_the_few_late_ones_are_the_same_for_every_chunk_size(size):
    # one in a hundred lies 50 s back: late once the watermark of its own moment has passed its window
    items = [(second - (50 if second % 100 == 99 else 0), "r", 1) for second in range(5000)]
    plan = WindowPlan(
        windows=tumbling(10), aggregate=count(), time=EventTime(at=itemgetter(0), disorder=3), lateness=30
    )
    emitted, late, _, _ = feed(WindowState(plan), [(0, 0, 0, items)], size)
    assert len(late) == 50
    assert len(emitted) == 499
