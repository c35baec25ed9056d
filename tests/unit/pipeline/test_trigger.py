"""Triggers: which moments they tick at, whenever somebody asks, and whatever the clocks do."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import manifest_of

from sidestage import Cron, Daily, Every, Hourly, Monthly, Pipeline, Weekly
from sidestage.errors import DefinitionError
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.trigger import AnyTrigger, between

BERLIN = "Europe/Berlin"
steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)
zones = st.sampled_from(
    [
        "UTC", BERLIN, "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Beirut",
        "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "Antarctica/Troll",
    ]
)  # fmt: skip
minutes = st.sampled_from(["0", "30", "*", "*/20", "15,45", "59", "0-10"])
hours = st.sampled_from(["*", "0", "1", "2", "3", "0-3", "*/2", "1,2,3", "23"])
triggers = st.one_of(
    st.builds(lambda m, h, tz: Cron(f"{m} {h} * * *", tz), minutes, hours, zones),
    st.sampled_from([Cron("0 2 29 2 *"), Cron("0 12 1 * MON", BERLIN), Cron("0 0 L * *", "Asia/Beirut")]),
    st.builds(lambda seconds: Every(timedelta(seconds=seconds)), st.integers(1, 9000)),
    st.builds(
        lambda kind, tz, late: kind("2012-05-01", "2024-05-01", tz=tz).closes + timedelta(seconds=late),
        st.sampled_from([Daily, Hourly, Weekly, Monthly]),
        zones,
        st.integers(0, 100_000),
    ),
)
# Times of year at which something is likely to happen to clocks.
busy = st.builds(
    lambda year, month, day, second: datetime(year, month, day, tzinfo=UTC) + timedelta(seconds=second),
    st.integers(2011, 2025),
    st.sampled_from([3, 4, 10, 11]),
    st.integers(1, 28),
    st.integers(0, 5 * 86400),
)
spans = st.floats(0, 40_000).map(lambda seconds: timedelta(seconds=seconds))


def local(trigger: AnyTrigger, zone: str, begin: str, end: str) -> list[str]:
    """The ticks in (begin, end] as local clocks show them, with the offset that is in force."""
    bounds = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begin, end))
    return [f"{tick.astimezone(ZoneInfo(zone)):%d %H:%M %z}" for tick in between(trigger, *bounds)]


@steady
@given(triggers, busy, spans, spans)
def test_what_lies_between_does_not_depend_on_when_one_looks(trigger, first, one, two):
    second = first + one
    third = second + two
    whole = list(between(trigger, first, third))
    assert [*between(trigger, first, second), *between(trigger, second, third)] == whole
    assert all(before < after for before, after in pairwise(whole))
    assert all(first < tick <= third and tick.tzinfo is UTC for tick in whole)


@steady
@given(triggers, busy)
def test_from_one_tick_on_come_those_after_it(trigger, moment):
    found = list(islice(trigger.after(moment), 6))
    for number, tick in enumerate(found):
        assert list(islice(trigger.after(tick), 5 - number)) == found[number + 1 :]


@steady
@given(triggers)
def test_triggers_are_values_that_json_carries(trigger):
    assert msgspec.json.decode(msgspec.json.encode(trigger), type=AnyTrigger) == trigger
    assert trigger.describe()


@steady
@given(st.builds(lambda h, tz: Cron(f"30 {h} * * *", tz), st.integers(0, 23), zones), busy)
def test_a_local_time_ticks_once_on_each_date(trigger, moment):
    """Also on those on which it does not exist or exists twice; Apia skipped a whole date."""
    days = [tick.astimezone(ZoneInfo(trigger.tz)).date() for tick in islice(trigger.after(moment), 20)]
    skipped = {"Pacific/Apia": {date(2011, 12, 31)}}.get(trigger.tz, set())
    for before, after in pairwise(days):
        assert (after - before).days == 1 or after in skipped or trigger.expression.startswith("30 23")


def test_a_local_time_that_is_skipped_ticks_as_soon_as_it_was():
    nightly = Cron("30 2 * * *", BERLIN)
    assert local(nightly, BERLIN, "2024-03-30T00", "2024-04-01T12") == [
        "30 02:30 +0100", "31 03:00 +0200", "01 02:30 +0200",
    ]  # fmt: skip
    assert local(Cron("0,30 2,3 * * *", BERLIN), BERLIN, "2024-03-31T00", "2024-03-31T12") == [
        "31 03:00 +0200", "31 03:30 +0200",
    ]  # fmt: skip
    assert local(Cron("*/20 2 * * *", BERLIN), BERLIN, "2024-03-31T00", "2024-03-31T12") == ["31 03:00 +0200"]


def test_a_local_time_that_comes_twice_ticks_the_first_time():
    assert local(Cron("30 2 * * *", BERLIN), BERLIN, "2024-10-26T12", "2024-10-28T12") == [
        "27 02:30 +0200", "28 02:30 +0100",
    ]  # fmt: skip
    assert local(Cron("30 2 * * *", BERLIN), BERLIN, "2024-10-27T01", "2024-10-27T12") == []


def test_where_every_hour_is_meant_ticks_follow_the_hours_that_pass():
    hourly = Cron("0 * * * *", BERLIN)
    assert local(hourly, BERLIN, "2024-10-26T23:30", "2024-10-27T02:30") == [
        "27 02:00 +0200", "27 02:00 +0100", "27 03:00 +0100",
    ]  # fmt: skip
    assert local(hourly, BERLIN, "2024-03-30T23:30", "2024-03-31T02:30") == [
        "31 01:00 +0100", "31 03:00 +0200", "31 04:00 +0200",
    ]  # fmt: skip


def test_partitions_tick_when_they_have_ended():
    days = Daily("2024-03-30", "2024-04-01", tz=BERLIN)
    every = ("2024-01-01", "2025-01-01")
    assert local(days.closes, BERLIN, *every) == ["31 00:00 +0100", "01 00:00 +0200", "02 00:00 +0200"]
    later = days.closes + timedelta(hours=2) + timedelta(minutes=30)
    assert local(later, BERLIN, *every) == [
        "31 03:30 +0200", "01 02:30 +0200", "02 02:30 +0200",
    ], "two hours and a half that really pass"  # fmt: skip
    assert later.describe() == "2:30:00 after each day in Europe/Berlin has ended"
    assert days.closes.describe() == "when each day in Europe/Berlin has ended"
    assert local(later, BERLIN, "2024-04-02T00:30", "2025-01-01") == [], "the last one has ticked"


def test_intervals_tick_at_multiples_since_1970():
    six = Every(timedelta(hours=6))
    ticks = islice(six.after(datetime(2024, 1, 1, 5, tzinfo=UTC)), 5)
    assert [tick.hour for tick in ticks] == [6, 12, 18, 0, 6]
    assert next(six.after(datetime(1969, 12, 31, 23, tzinfo=UTC))) == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cron("0 2 * *"), "has not five fields"),
        (lambda: Cron("0 0 2 * * *"), "has not five fields"),
        (lambda: Cron(5), "has not five fields"),
        (lambda: Cron("61 2 * * *"), "bad minute"),
        (lambda: Cron("0 0 31 2 *"), "bad day-of-month"),
        (lambda: Cron("0 2 * * *", "Europe/Atlantis"), "no time zone"),
        (lambda: Every(timedelta(0)), "cannot tick every"),
        (lambda: Every(60), "cannot tick every"),
        (lambda: Daily("2024-01-01").closes + timedelta(hours=-1), "after the end of a partition"),
        (lambda: Daily("2024-01-01").closes + timedelta(days=800_000), "after the end of a partition"),
        (lambda: Every(timedelta(days=3_000_000)), "cannot tick every"),
        (lambda: Pipeline("p", trigger="0 2 * * *"), "is no trigger"),
        (lambda: next(Every(timedelta(hours=1)).after(datetime(2024, 1, 1))), "does not say in which zone"),  # noqa: DTZ001
    ],
)
def test_what_cannot_tick_is_refused(make, message):
    with pytest.raises(DefinitionError, match=message) as refused:
        make()
    assert refused.value.hint


def test_the_manifest_carries_triggers(tmp_path):
    code = """
from datetime import timedelta
from sidestage import Cron, Daily, Pipeline, Value
days = Daily("2024-01-01")
one = Pipeline("one", trigger=days.closes + timedelta(hours=2))
two = Pipeline("two", trigger=Cron("0 2 * * *", tz="Europe/Berlin"))
three = Pipeline("three")
"""
    manifest = manifest_of(tmp_path, {"flow.py": code})
    again = msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest)
    assert again == manifest
    assert {each.name: each.trigger for each in again.pipelines} == {
        "one": Daily("2024-01-01").closes + timedelta(hours=2),
        "two": Cron("0 2 * * *", BERLIN),
        "three": None,
    }
