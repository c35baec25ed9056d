"""Calendars: keys, bounds, and the days on which clocks do something strange."""

import pickle
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.calendar import Daily, Hourly, Monthly, Weekly
from sidestage.data.keyed import AnyPartitions
from sidestage.data.partition import Partition
from sidestage.errors import DefinitionError, PartitionKeyError

NOW = datetime(2014, 1, 1, 12, tzinfo=UTC)
NEW_YORK = "America/New_York"
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)

steady = settings(derandomize=True, database=None, deadline=None, max_examples=150)
zones = st.sampled_from(
    [
        *(
            "UTC",
            "America/New_York",
            "Europe/Berlin",
            "Asia/Kolkata",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
        ),
        *("America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "America/Havana", "America/St_Johns"),
        *("Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "America/Juneau", "Asia/Manila"),
        *("Africa/Monrovia", "Antarctica/Troll", "Africa/Casablanca", "America/Caracas", "Asia/Pyongyang"),
    ]
)
moments = st.integers(0, 260 * 365 * 24 * 3600).map(
    lambda seconds: datetime(1840, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
# Times of year and years in which something is likely to happen to clocks.
busy = st.builds(
    lambda year, month, day, hour, minute: datetime(year, month, day, hour, minute, tzinfo=UTC),
    st.integers(1985, 2024),
    st.sampled_from([3, 4, 10, 11]),
    st.integers(1, 30),
    st.integers(0, 23),
    st.sampled_from([0, 1, 29, 30, 31, 59]),
)
kinds = st.sampled_from([Daily, Weekly, Monthly, Hourly])


def keys(partitions):
    return [partition.key for partition in partitions]


def hours(partition):
    return (partition.end - partition.start) / HOUR


class TestDays:
    def test_a_plain_day(self):
        day = Daily("2013-01-01", tz=NEW_YORK).parse("2013-01-31")
        assert day.key == str(day) == "2013-01-31"
        assert day.start == datetime(2013, 1, 31, 5, tzinfo=UTC)
        assert day.end == datetime(2013, 2, 1, 5, tzinfo=UTC)
        assert day.start.isoformat() == "2013-01-31T00:00:00-05:00"
        assert day.date == date(2013, 1, 31)

    @pytest.mark.parametrize(("key", "length"), [("2013-03-10", 23), ("2013-11-03", 25), ("2013-07-01", 24)])
    def test_days_on_which_clocks_are_changed(self, key, length):
        assert hours(Daily("2013-01-01", tz=NEW_YORK).parse(key)) == length

    @pytest.mark.parametrize(
        ("zone", "key", "start"),
        [
            ("America/Sao_Paulo", "2018-11-04", "2018-11-04T01:00:00-02:00"),
            ("Africa/Cairo", "2014-05-16", "2014-05-16T01:00:00+03:00"),
            ("Asia/Beirut", "2022-03-27", "2022-03-27T01:00:00+03:00"),
        ],
    )
    def test_midnight_that_does_not_exist(self, zone, key, start):
        day = Daily("2000-01-01", tz=zone).parse(key)
        assert day.start.isoformat() == start
        assert hours(day) == 23
        assert day.date.isoformat() == key

    def test_midnight_that_comes_twice_begins_its_day_once(self):
        day = Daily("2013-01-01", tz="America/Havana").parse("2013-11-03")
        assert day.start.isoformat() == "2013-11-03T00:00:00-04:00"
        assert hours(day) == 25

    def test_a_day_left_again_after_one_minute_has_begun(self):
        days = Daily("1990-01-01", tz="America/St_Johns")
        moment = datetime(1990, 10, 28, 2, 45, tzinfo=UTC)
        assert moment.astimezone(ZoneInfo("America/St_Johns")).date() == date(1990, 10, 27)
        assert keys(days.overlapping(moment, moment + TICK)) == ["1990-10-28"]
        assert hours(days.parse("1990-10-28")) == 25

    def test_a_day_that_never_was(self):
        days = Daily("2011-12-28", tz="Pacific/Apia")
        assert keys(days.select("2011-12", NOW)) == ["2011-12-28", "2011-12-29", "2011-12-31"]
        assert days.next(days.parse("2011-12-29")) == days.parse("2011-12-31")
        assert days.previous(days.parse("2011-12-31")) == days.parse("2011-12-29")
        assert keys(days.around("2011-12-31", 1, 1)) == ["2011-12-29", "2011-12-31", "2012-01-01"]
        with pytest.raises(PartitionKeyError, match="did not exist in Pacific/Apia"):
            days.parse("2011-12-30")
        with pytest.raises(PartitionKeyError, match="did not exist"):
            Daily("2011-12-30", tz="Pacific/Apia")

    def test_the_date_line_moved_eastward(self):
        days = Daily("1867-10-01", tz="America/Juneau")
        assert hours(days.parse("1867-10-18")) == 24
        assert hours(days.parse("1867-10-19")) == 48
        moment = days.parse("1867-10-19").start
        assert keys(days.overlapping(moment, moment + 49 * HOUR)) == ["1867-10-19", "1867-10-20"]

    def test_offsets_with_seconds_keep_date_and_moment_in_json(self):
        day = Daily("1850-01-01", tz=NEW_YORK).parse("1850-06-01")
        assert day.start == datetime(1850, 6, 1, 4, 56, 2, tzinfo=UTC)
        assert day.date == date(1850, 6, 1)
        assert msgspec.json.decode(msgspec.json.encode(day), type=Partition) == day


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            *(
                "2013-1-1",
                "2013-02-30",
                " 2013-01-01",
                "2013-01-01 ",
                "2013-01-01\n",
                "20130101",
                "2013-W01-1",
            ),
            *(
                "2013-01",
                "2013",
                "",
                "\0",
                "2013-01-01\0",
                "😀",
                "\u0662\u0660\u0661\u0663-\u0660\u0661-\u0660\u0661",
                "2013-01-01T00",
                "0000-00-00",
            ),
            *(
                "9999-12-31",
                "0013-01-01",
                "x" * 10_000,
                "2013-01-01" * 1000,
                None,
                5,
                date(2013, 1, 1),
                "\ud800",
            ),
        ],
    )
    def test_only_the_one_spelling_is_read(self, key):
        with pytest.raises(PartitionKeyError) as refused:
            Daily("2013-01-01").parse(key)
        assert len(str(refused.value)) < 300
        assert "Write it like '2013-01-01'" in refused.value.hint
        assert "\0" not in str(refused.value)

    @pytest.mark.parametrize(
        ("partitions", "key"),
        [
            (Weekly("2013"), "2013-W53"),
            (Weekly("2013"), "2013-W00"),
            (Weekly("2013"), "2013-w05"),
            (Weekly("2013"), "2013-W5"),
            (Weekly("2013"), "2013W005"),
            (Monthly("2013"), "2013-13"),
            (Monthly("2013"), "2013-1"),
            (Monthly("2013"), "2013-01-01"),
            (Hourly("2013"), "2013-01-01T24+0000"),
            (Hourly("2013"), "2013-01-01T00-0000"),
            (Hourly("2013"), "2013-01-01T00+00:00"),
            (Hourly("2013"), "2013-01-01 00+0000"),
            (Hourly("2013"), "2013-01-01T00+000000"),
            (Hourly("2013"), "2013-01-01T00+0100"),
        ],
    )
    def test_other_calendars_too(self, partitions, key):
        with pytest.raises(PartitionKeyError):
            partitions.parse(key)

    def test_keys_outside_the_bounds_say_which_bound(self):
        days = Daily("2013-01-02", "2013-01-05")
        with pytest.raises(PartitionKeyError, match="before the first day, 2013-01-02"):
            days.parse("2013-01-01")
        with pytest.raises(PartitionKeyError, match="after the last day, 2013-01-05"):
            days.parse("2013-01-06")
        assert days.parse("2013-01-05").date == date(2013, 1, 5)

    def test_iso_weeks_at_the_turn_of_the_year(self):
        week = Weekly("2012-12-31").parse("2013-W01")
        assert week.date == date(2012, 12, 31)
        assert Weekly("2020").parse("2020-W53").date == date(2020, 12, 28)

    def test_months(self):
        months = Monthly("2012-11", tz=NEW_YORK)
        assert hours(months.parse("2013-03")) == 31 * 24 - 1
        assert months.next(months.parse("2012-12")).key == "2013-01"
        assert months.previous(months.parse("2013-01")).key == "2012-12"


class TestHours:
    def test_the_repeated_hour_is_two(self):
        hourly = Hourly("2013-01-01", tz=NEW_YORK)
        found = hourly.select("2013-11-03T01", NOW)
        assert keys(found) == ["2013-11-03T01-0400", "2013-11-03T01-0500"]
        assert [part.start.hour for part in found] == [1, 1]
        assert found[0] != found[1]
        assert found[1].start - found[0].start == HOUR

    def test_the_skipped_hour_does_not_exist(self):
        hourly = Hourly("2013-01-01", tz=NEW_YORK)
        assert hourly.next(hourly.parse("2013-03-10T01-0500")).key == "2013-03-10T03-0400"
        for key in ("2013-03-10T02-0500", "2013-03-10T02-0400"):
            with pytest.raises(PartitionKeyError, match="did not exist"):
                hourly.parse(key)

    def test_a_missing_offset_is_named(self):
        with pytest.raises(PartitionKeyError, match="'2013-11-03T01-0400' or '2013-11-03T01-0500'"):
            Hourly("2013-01-01", tz=NEW_YORK).parse("2013-11-03T01")

    def test_clocks_changed_by_half_an_hour(self):
        hourly = Hourly("2013-01-01", tz="Australia/Lord_Howe")
        back = hourly.select("2013-04-07T01", NOW)
        assert [(part.key, hours(part)) for part in back] == [
            ("2013-04-07T01+1100", 1.0),
            ("2013-04-07T01+1030", 0.5),
        ]
        forward = hourly.select("2013-10-06T02", NOW)
        assert [(part.key, hours(part)) for part in forward] == [("2013-10-06T02+1100", 0.5)]

    def test_clocks_changed_inside_an_hour_cut_it(self):
        korea = Hourly("2018-05-01", tz="Asia/Pyongyang")
        last = korea.parse("2018-05-04T23+0830")
        assert hours(last) == 0.5
        assert korea.next(last).key == "2018-05-05T00+0900"
        newfoundland = Hourly("1990-10-01", tz="America/St_Johns")
        minute = newfoundland.parse("1990-10-28T00-0230")
        assert minute.end - minute.start == timedelta(minutes=1)
        assert hours(newfoundland.next(minute)) == 59 / 60
        assert newfoundland.next(minute).key == "1990-10-27T23-0330"

    def test_bounds_given_as_days(self):
        hourly = Hourly("2013-03-10", "2013-03-10", tz=NEW_YORK)
        assert (hourly.start, hourly.end) == ("2013-03-10T00-0500", "2013-03-10T23-0400")
        assert len(list(hourly.closed(NOW))) == 23

    def test_offsets_with_seconds(self):
        key = "1971-06-01T00-004430"
        assert Hourly("1971-06-01", tz="Africa/Monrovia").start == key


class TestDefinition:
    @pytest.mark.parametrize(
        "zone",
        [
            "",
            "Mars/Olympus",
            "America",
            "../UTC",
            "/etc/passwd",
            "UTC\0",
            "localtime",
            "right/UTC",
            "x" * 999,
            5,
        ],
    )
    def test_unknown_zones(self, zone):
        with pytest.raises(DefinitionError, match="There is no time zone") as refused:
            Daily("2013-01-01", tz=zone)
        assert len(str(refused.value)) < 200

    @pytest.mark.parametrize(
        "start",
        [
            "",
            "2013-02-30",
            "yesterday",
            "2013-1-1",
            "0999-12-31",
            "9999-01-01",
            None,
            20130101,
            "2013-01-01:",
            "*",
        ],
    )
    def test_bad_starts(self, start):
        with pytest.raises(PartitionKeyError, match="The start of these days"):
            Daily(start)

    def test_end_before_start(self):
        with pytest.raises(DefinitionError, match=r"2012-12-31, lies before the first, 2013-01-01"):
            Daily("2013-01-01", "2012-12-31")
        assert keys(Daily("2013-01-01", "2013-01-01").closed(NOW)) == ["2013-01-01"]

    @pytest.mark.parametrize(
        ("partitions", "start", "end"),
        [
            (Daily("2013", "2013-02"), "2013-01-01", "2013-02-28"),
            (Daily(date(2013, 1, 1), date(2013, 1, 2)), "2013-01-01", "2013-01-02"),
            (Daily(datetime(2013, 1, 1, 3, tzinfo=UTC), tz=NEW_YORK), "2012-12-31", None),
            (Weekly("2013-01-01", "2013-01-31"), "2013-W01", "2013-W05"),
            (Monthly("2013-01-15", "2013"), "2013-01", "2013-12"),
        ],
    )
    def test_bounds_are_kept_as_keys(self, partitions, start, end):
        assert (partitions.start, partitions.end) == (start, end)
        assert msgspec.json.decode(msgspec.json.encode(partitions), type=AnyPartitions) == partitions

    def test_times_without_zone_are_refused(self):
        naive = datetime(2013, 1, 1, tzinfo=UTC).replace(tzinfo=None)
        days = Daily("2013-01-01")
        for wrong in (
            lambda: Daily(naive),
            lambda: list(days.closed(naive)),
            lambda: days.overlapping(naive, NOW),
            lambda: days.select("*", naive),
        ):
            with pytest.raises(DefinitionError, match="does not say in which zone"):
                wrong()

    def test_description(self):
        assert Daily("2013-01-01").describe() == "days since 2013-01-01 in UTC"
        assert Monthly("2013", "2013").describe() == "months from 2013-01 to 2013-12 in UTC"

    def test_a_set_can_be_hashed_and_pickled(self):
        days = Daily("2013-01-01", tz=NEW_YORK)
        days.parse("2013-01-01")
        assert pickle.loads(pickle.dumps(days)) == days
        assert hash(days) == hash(Daily("2013", tz=NEW_YORK))

    def test_covers(self):
        wide, narrow = Daily("2013"), Daily("2013-02", "2013-03")
        assert wide.covers(narrow)
        assert not narrow.covers(wide)
        assert not wide.covers(Daily("2013", tz=NEW_YORK))
        assert not wide.covers(Monthly("2013"))


class TestTime:
    def test_closed_is_cut_at_now_and_at_the_end(self):
        days = Daily("2013-12-30", tz=NEW_YORK)
        assert keys(days.closed(datetime(2014, 1, 1, 4, 59, 59, tzinfo=UTC))) == ["2013-12-30"]
        assert keys(days.closed(datetime(2014, 1, 1, 5, tzinfo=UTC))) == ["2013-12-30", "2013-12-31"]
        assert keys(Daily("2013-12-30", "2013-12-30").closed(NOW)) == ["2013-12-30"]
        assert keys(days.closed(datetime(2013, 1, 1, tzinfo=UTC))) == []

    def test_neighbours_end_at_the_bounds(self):
        days = Daily("2013-01-01", "2013-01-02")
        first, last = days.closed(NOW)
        assert days.previous(first) is None
        assert days.next(first) == last
        assert days.next(last) is None

    def test_around_is_cut_at_the_bounds_even_from_outside(self):
        days = Daily("2013-01-03", "2013-01-05")
        assert keys(days.around("2013-01-04", 5, 5)) == ["2013-01-03", "2013-01-04", "2013-01-05"]
        assert keys(days.around("2013-01-01", 5, 2)) == ["2013-01-03"]
        assert keys(days.around("2013-01-07", 2, 9)) == ["2013-01-05"]
        assert keys(days.around("2013-01-04", 10**12, 0)) == ["2013-01-03", "2013-01-04"]

    def test_bounds_of_time_itself(self):
        days = Daily("2013-01-01", "2013-01-02")
        everything = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        assert keys(days.overlapping(*everything)) == keys(days.within(*everything)) == keys(days.closed(NOW))
        assert keys(days.newest(everything[1])) == ["2013-01-02"]
        assert days.newest(everything[0]) == ()


class TestProperties:
    @steady
    @given(kinds, zones, st.one_of(moments, busy))
    def test_partitions_tile_time(self, kind, zone, moment):
        partitions = kind(moment, tz=zone)
        found = list(islice(partitions.closed(datetime(2200, 1, 1, tzinfo=UTC)), 30))
        assert found[0].start <= moment < found[0].end
        assert all(one.start < one.end == other.start for one, other in pairwise(found))
        assert len({part.key for part in found}) == len(found)
        assert [partitions.parse(part.key) for part in found] == found
        assert all(partitions.next(one) == other for one, other in pairwise(found))
        assert all(partitions.previous(other) == one for one, other in pairwise(found))

    @steady
    @given(zones, st.one_of(moments, busy))
    def test_a_day_begins_when_its_date_is_first_shown(self, zone, moment):
        info = ZoneInfo(zone)
        (day,) = Daily("1839", tz=zone).overlapping(moment, moment + TICK)
        wanted = date.fromisoformat(day.key)
        assert day.date == wanted
        assert day.start.astimezone(info).date() == wanted
        assert (day.start - TICK).astimezone(info).date() < wanted

    @steady
    @given(zones, st.one_of(moments, busy))
    def test_an_hour_is_what_clocks_show_with_one_offset(self, zone, moment):
        info = ZoneInfo(zone)

        def shown(at):
            local = at.astimezone(info)
            return local.replace(tzinfo=None).isoformat(timespec="hours"), local.utcoffset()

        (hour,) = Hourly("1839", tz=zone).overlapping(moment, moment + TICK)
        assert hour.key.startswith(shown(moment)[0])
        assert shown(hour.start) == shown(moment) == shown(hour.end - TICK)
        assert shown(hour.start - TICK) != shown(moment) != shown(hour.end)

    @steady
    @given(kinds, zones, busy, st.integers(0, 60 * 24 * 70), st.integers(0, 60 * 24 * 70))
    def test_ranges_agree_with_looking_at_each(self, kind, zone, moment, before, length):
        partitions = kind(moment, moment + timedelta(days=80), tz=zone)
        start = moment + timedelta(minutes=before)
        end = start + timedelta(minutes=length)
        every = list(partitions.closed(datetime(2100, 1, 1, tzinfo=UTC)))
        overlapping = [p for p in every if p.start < end and start < p.end and start < end]
        assert list(partitions.overlapping(start, end)) == overlapping
        within = [p for p in every if start <= p.start and p.end <= end and start < end]
        assert list(partitions.within(start, end)) == within
        assert list(partitions.newest(start)) == [p for p in every if p.end <= start][-1:]
        assert list(partitions.closed(start)) == [p for p in every if p.end <= start]

    @steady
    @given(kinds, zones, moments)
    def test_json(self, kind, zone, moment):
        partitions = kind(moment, tz=zone)
        assert msgspec.json.decode(msgspec.json.encode(partitions), type=AnyPartitions) == partitions
        part = partitions.parse(partitions.start)
        assert msgspec.json.decode(msgspec.json.encode(part), type=Partition) == part
