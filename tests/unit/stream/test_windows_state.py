"""Windows by example: watermarks, idle partitions, lateness, early and late results, sessions that merge."""

from datetime import UTC, datetime
from operator import itemgetter

from sidestage.stream.windows.aggregates import (
    collect,
    count,
    distinct,
    largest,
    mean,
    smallest,
    total,
)
from sidestage.stream.windows.plan import Sooner, WindowPlan, session, sliding, tumbling
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import EventTime, Moment
from sidestage.testing.turned_clock import HandClock

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


# watermarks


def test_the_watermark_is_that_of_the_slowest_partition_and_never_goes_back():
    state = WindowState(plan_of(disorder=5))
    assert state.watermark is None
    state.add([(100, "a")], NOW, "p")
    assert state.watermark == 95
    state.add([(40, "a")], NOW, "q")
    assert state.watermark == 95
    state.add([(300, "a")], NOW, "p")
    assert state.watermark == 95
    state.add([(200, "a")], NOW, "q")
    assert state.watermark == 195
    state.add([(1, "a")], NOW, "p")
    assert state.watermark == 195


def test_a_window_is_given_out_at_the_item_that_brings_the_slowest_partition_to_its_end():
    state = WindowState(plan_of())
    state.watch("q", NOW)
    state.add([(1, "a"), (60, "a")], NOW, "p")
    outcome = state.add([(59, "a"), (60, "a"), (59, "a")], NOW, "q")
    assert brief(outcome) == [("a", 0, 2, "on time", 0)]
    assert [each.place for each in outcome.late] == [2]


def test_a_watched_partition_holds_back_until_it_speaks_or_is_forgotten():
    state = WindowState(plan_of())
    state.watch("q", NOW)
    assert brief(state.add([(10, "a"), (500, "a")], NOW, "p")) == []
    assert state.watermark is None
    state.add([(70, "a")], NOW, "q")
    assert state.watermark == 70
    state.forget("q")
    assert brief(state.tick(NOW)) == [("a", 60, 1, "on time", 0)]
    assert state.watermark == 500


def test_an_idle_partition_holds_nobody_back_and_comes_again_without_going_back():
    state = WindowState(plan_of(idle=30))
    state.add([(10, "a")], moment(0), "slow")
    state.add([(500, "a")], moment(20), "fast")
    state.tick(moment(30))
    assert (state.watermark, state.idle_partitions) == (10, frozenset())
    state.add([(510, "a")], moment(31), "fast")
    assert (state.watermark, state.idle_partitions) == (510, {"slow"})
    outcome = state.add([(20, "late"), (505, "in time")], moment(32), "slow")
    assert [each.key for each in outcome.late] == ["late"]
    assert (state.watermark, state.idle_partitions) == (510, frozenset())
    state.add([(900, "a")], moment(33), "fast")
    assert state.watermark == 510  # "slow" counts again
    state.tick(moment(100))
    assert (state.watermark, state.idle_partitions) == (900, {"slow", "fast"})


def test_time_between_snapshot_and_restore_makes_no_partition_idle():
    state = WindowState(plan_of(idle=30))
    state.add([(10, "a")], moment(0), "p")
    state.add([(500, "a")], moment(20), "q")
    other = WindowState(state.plan)
    other.restore(state.snapshot(), Moment(99999.0, 3.0))  # another host, another clock
    other.tick(Moment(100000.0, 12.0))
    assert other.idle_partitions == frozenset()
    other.tick(Moment(100000.0, 14.5))
    assert (other.idle_partitions, other.watermark) == ({"p"}, 500)


def test_time_between_snapshot_and_restore_is_no_time_for_early_results():
    state = WindowState(plan_of(sooner=Sooner(every_seconds=10)))
    state.add([(1, "a")], moment(100))
    state.tick(moment(104))
    other = WindowState(state.plan)
    other.restore(state.snapshot(), moment(3))
    assert brief(other.tick(moment(8.5))) == []
    assert brief(other.tick(moment(9))) == [("a", 0, 1, "early", 0)]


def test_items_far_ahead_of_the_clock_do_not_drag_the_watermark():
    state = WindowState(plan_of(ahead=60, disorder=10))
    outcome = state.add([(1000, "a"), (1061, "skewed"), (1060, "a"), (10**9, "years ahead")], NOW)
    assert [(each.place, each.key, each.time) for each in outcome.early] == [
        (1, "skewed", 1061),
        (3, "years ahead", 10**9),
    ]
    assert "61.000 s ahead of the clock; 60 s are allowed" in outcome.early[0].reason
    assert state.watermark == 1050
    assert state.counts.early == 2


def test_items_far_ahead_can_be_stamped_with_the_clock():
    state = WindowState(plan_of(ahead=60, beyond="stamp"))
    state.add([(10**9, "a")], Moment(1000.0, 0.0))
    assert state.watermark == 1000
    assert brief(state.drain(NOW)) == [("a", 960, 1, "drained", 0)]


def test_times_of_the_clock_close_windows_without_items_and_never_go_back():
    state = WindowState(plan_of(at=None))
    state.add([("", "a"), ("", "a")], Moment(100.0, 0.0))
    state.add([("", "a")], Moment(50.0, 1.0))  # somebody set the wall clock back
    assert brief(state.tick(Moment(119.0, 2.0))) == []
    assert brief(state.tick(Moment(120.0, 3.0))) == [("a", 60, 3, "on time", 0)]


def test_a_moment_is_read_from_a_clock():
    clock = HandClock(datetime(2024, 1, 1, tzinfo=UTC))
    clock.advance(2.5)
    assert Moment.of(clock) == Moment(datetime(2024, 1, 1, tzinfo=UTC).timestamp() + 2.5, 2.5)


# lateness and results


def test_a_late_item_gives_its_window_out_again_and_a_very_late_one_is_set_aside():
    state = WindowState(plan_of(lateness=100))
    first = state.add([(10, "a"), (60, "a"), (20, "a"), (159, "a"), (30, "b"), (160, "a"), (40, "a")], NOW)
    assert brief(first) == [
        ("a", 0, 1, "on time", 0),
        ("a", 0, 2, "late update", 1),
        ("a", 60, 1, "on time", 0),
        ("b", 0, 1, "late update", 0),
    ]
    (late,) = first.late
    assert (late.place, late.item, late.key, late.time, late.start, late.end) == (
        6,
        (40, "a"),
        "a",
        40,
        0,
        60,
    )
    assert (state.counts.late, state.counts.updates, state.open_windows) == (1, 2, 2)


def test_items_of_a_window_that_passed_and_of_open_ones_count_in_all_however_they_are_cut():
    items = [(45, "ab"[number % 2]) for number in range(20)]
    found = []
    for cut in (1, 20):
        state = WindowState(plan_of(sliding(60, every=20), lateness=100))
        state.add([(65, "a")], NOW)
        outcomes = [state.add(items[begin : begin + cut], NOW) for begin in range(0, 20, cut)]
        found.append([row for outcome in outcomes for row in brief(outcome)] + brief(state.drain(NOW)))
    assert found[0] == found[1]
    assert found[0][:3] == [
        ("a", 0, 1, "late update", 0),
        ("b", 0, 1, "late update", 0),
        ("a", 0, 2, "late update", 1),
    ]


def test_late_updates_can_wait_until_the_lateness_is_over():
    state = WindowState(plan_of(lateness=100, updates="once"))
    assert brief(state.add([(10, "a"), (60, "a"), (20, "a"), (30, "a")], NOW)) == [("a", 0, 1, "on time", 0)]
    assert brief(state.add([(160, "a")], NOW)) == [("a", 60, 1, "on time", 0), ("a", 0, 3, "late update", 1)]


def test_windows_are_given_out_early_by_items_and_by_the_clock():
    state = WindowState(plan_of(sooner=Sooner(every_items=2, every_seconds=10)))
    assert brief(state.add([(1, "a"), (2, "a"), (3, "b")], moment(0))) == [("a", 0, 2, "early", 0)]
    assert brief(state.tick(moment(9))) == []
    assert brief(state.add([(4, "b")], moment(10))) == [("b", 0, 1, "early", 0), ("b", 0, 2, "early", 1)]
    assert brief(state.tick(moment(20))) == []  # nothing changed
    assert brief(state.add([(70, "a")], moment(21))) == [("a", 0, 2, "on time", 1), ("b", 0, 2, "on time", 2)]


def test_the_end_of_the_stream_gives_out_or_keeps():
    for choice, expected in (("flush", [("a", 0, 2, "drained", 0)]), ("keep", [])):
        state = WindowState(plan_of(on_drain=choice))
        state.add([(1, "a"), (2, "a")], NOW)
        assert brief(state.drain(NOW)) == expected
        assert state.open_windows == (choice == "keep")


def test_sessions_that_become_one_withdraw_what_was_given_out():
    state = WindowState(plan_of(session(gap=10), total(VALUE), lateness=1000))
    state.add([(100, "a", 1), (115, "a", 2)], NOW)
    state.add([(200, "b", 0)], NOW)
    outcome = state.add([(107, "a", 4), (95, "a", 8)], NOW)
    assert [
        (each.start, each.end, each.value, each.count, each.kind, each.revision) for each in outcome.emitted
    ] == [
        (115, 125, None, 0, "withdrawn", 1),
        (100, 125, 7, 3, "late update", 1),
        (100, 125, None, 0, "withdrawn", 2),
        (95, 125, 15, 4, "late update", 0),
    ]


def test_a_session_ends_after_its_gap_to_the_instant():
    state = WindowState(plan_of(session(gap=10)))
    outcome = state.add([(0, "a"), (9.5, "a"), (19.5, "a"), (40, "a")], NOW)
    assert [(each.start, each.end, each.count) for each in outcome.emitted] == [(0, 19.5, 2), (19.5, 29.5, 1)]


def test_aggregates_of_nothing_and_of_merged_sessions():
    aggregates = (count(), total(), smallest(), largest(), mean(), collect(2), distinct())
    assert [each.result(each.zero()) for each in aggregates] == [0, 0, None, None, None, (), 0]
    merged = [
        each.result(each.merge(each.add(each.zero(), 4), each.add(each.zero(), 6))) for each in aggregates
    ]
    assert merged == [2, 10, 4, 6, 5, (4, 6), 2]


def test_a_late_item_that_prolongs_a_session_prolongs_its_lateness():
    state = WindowState(plan_of(session(gap=10), lateness=100))
    state.add([(0, "a"), (50, "b"), (5, "a"), (112, "b")], NOW)
    outcome = state.add([(9, "a"), (119, "b"), (9, "a")], NOW)
    assert [(each.start, each.end, each.value, each.kind, each.revision) for each in outcome.emitted][:1] == [
        (0, 19, 3, "late update", 2)
    ]
    assert [each.place for each in outcome.late] == [2]
