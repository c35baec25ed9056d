"""Mappings: what each partition reads, and what is refused when the graph is built."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.calendar import Daily, Hourly, Monthly, Weekly
from sidestage.data.keyed import Product, Single, Static
from sidestage.data.mapping import AllOf, AnyMapping, Fixed, Latest, Same, Window, default_mapping
from sidestage.errors import DefinitionError, PartitionKeyError

NOW = datetime(2013, 6, 15, 12, tzinfo=UTC)
NEW_YORK = "America/New_York"
HOURS = Hourly("2013-01-01", tz=NEW_YORK)
DAYS = Daily("2013-01-01", tz=NEW_YORK)
WEEKS = Weekly("2013-01-01", tz=NEW_YORK)
MONTHS = Monthly("2013-01", tz=NEW_YORK)
REGIONS = Static(["eu", "us"])
PLACES = Product({"day": DAYS, "region": REGIONS})
MONTHLY_PLACES = Product({"month": MONTHS, "region": REGIONS})

steady = settings(derandomize=True, database=None, deadline=None, max_examples=60)


def read(mapping, key, downstream, upstream, now=NOW):
    """What the mapping leads to, after the check that always comes first."""
    mapping.check(downstream, upstream)
    return [part.key for part in mapping.upstream(downstream.parse(key), downstream, upstream, now)]


class TestSame:
    @pytest.mark.parametrize(
        ("key", "downstream", "upstream", "wanted"),
        [
            ("2013-02-01", DAYS, DAYS, "2013-02-01"),
            ("2013-02-01", DAYS, Daily("2013-01-01", tz=NEW_YORK), "2013-02-01"),
            ("2013-02-01", Daily("2013-02", "2013-03", tz=NEW_YORK), DAYS, "2013-02-01"),
            ("eu", Static(["eu"]), REGIONS, "eu"),
            ("all", Single(), Single(), "all"),
            ("2013-02-01|eu", PLACES, DAYS, "2013-02-01"),
            ("2013-02-01|eu", PLACES, REGIONS, "eu"),
            ("2013-02-01|eu", PLACES, PLACES, "2013-02-01|eu"),
            ("2013-02-01|eu", PLACES, Product({"region": REGIONS, "day": DAYS}), "eu|2013-02-01"),
            (
                "2013-02-01|eu|x",
                Product({"day": DAYS, "region": REGIONS, "model": Static(["x"])}),
                PLACES,
                "2013-02-01|eu",
            ),
        ],
    )
    def test_the_same_key(self, key, downstream, upstream, wanted):
        assert read(Same(), key, downstream, upstream) == [wanted]

    @pytest.mark.parametrize(
        ("downstream", "upstream", "hint"),
        [
            (DAYS, MONTHS, r"Write latest\(\.\.\.\).* or fixed\(\.\.\., '2013-01'\)"),
            (MONTHS, DAYS, r"Write all_of\(\.\.\.\) for those inside"),
            (DAYS, Daily("2013-01-01"), r"Write all_of\(\.\.\.\)"),
            (DAYS, Daily("2013-02-01", tz=NEW_YORK), r"or write window\(\.\.\.\)"),
            (Single(), DAYS, r"Write all_of\(\.\.\.\) for all that have ended"),
            (DAYS, Single(), r"Write fixed\(\.\.\., 'all'\)"),
            (DAYS, REGIONS, r"Write all_of\(\.\.\.\) for all of them, or fixed\(\.\.\., 'eu'\)"),
            (REGIONS, Static(["eu", "asia"]), r"all_of"),
            (DAYS, PLACES, r"Write all_of\(\.\.\.\)"),
            (REGIONS, PLACES, r"Write all_of\(\.\.\.\)"),
            (Product({"origin": REGIONS, "destination": REGIONS}), REGIONS, r"all_of"),
            (PLACES, Product({"day": DAYS, "place": REGIONS}), r"all_of"),
            (PLACES, Daily("2013-02-01", tz=NEW_YORK), r"or write window\(\.\.\.\)"),
        ],
    )
    def test_refused_with_advice(self, downstream, upstream, hint):
        with pytest.raises(DefinitionError, match=hint):
            Same().check(downstream, upstream)


class TestWindow:
    def test_counts_partitions_and_is_cut_at_the_bounds(self):
        assert read(Window(before=2), "2013-02-01", DAYS, DAYS) == ["2013-01-30", "2013-01-31", "2013-02-01"]
        assert read(Window(before=2, after=1), "2013-01-02", DAYS, DAYS) == [
            *("2013-01-01", "2013-01-02", "2013-01-03")
        ]
        assert read(Window(), "2013-02-01", DAYS, DAYS) == ["2013-02-01"]
        assert read(Window(before=1), "2013-03-10T03-0400", HOURS, HOURS) == [
            *("2013-03-10T01-0500", "2013-03-10T03-0400")
        ]

    def test_an_input_with_other_bounds(self):
        later = Daily("2013-01-03", tz=NEW_YORK)
        assert read(Window(before=2), "2013-01-04", DAYS, later) == ["2013-01-03", "2013-01-04"]
        assert read(Window(before=2), "2013-01-01", DAYS, later) == []

    def test_products(self):
        assert read(Window(before=1), "2013-02-01|eu", PLACES, DAYS) == ["2013-01-31", "2013-02-01"]
        assert read(Window(before=1), "2013-02-01|eu", PLACES, PLACES) == ["2013-01-31|eu", "2013-02-01|eu"]

    @pytest.mark.parametrize(
        ("downstream", "upstream"),
        [(DAYS, HOURS), (DAYS, Daily("2013-01-01")), (REGIONS, REGIONS), (Single(), DAYS), (DAYS, PLACES)],
    )
    def test_refused_unless_cut_alike(self, downstream, upstream):
        with pytest.raises(DefinitionError, match=r"cut by time as the output is.*Write|have no time"):
            Window(before=1).check(downstream, upstream)

    @pytest.mark.parametrize("wrong", [{"before": -1}, {"after": -1}, {"before": 1.5}, {"before": True}])
    def test_refused_numbers(self, wrong):
        with pytest.raises(DefinitionError, match="whole partitions"):
            Window(**wrong)


class TestAllOf:
    def test_days_of_a_month_and_hours_of_a_day(self):
        assert read(AllOf(), "2013-02", MONTHS, DAYS) == [f"2013-02-{day:02}" for day in range(1, 29)]
        assert len(read(AllOf(), "2013-03-10", DAYS, HOURS)) == 23
        assert len(read(AllOf(), "2013-11-03", DAYS, HOURS)) == 25

    def test_what_starts_inside_counts(self):
        assert read(AllOf(), "2013-02", MONTHS, WEEKS) == ["2013-W06", "2013-W07", "2013-W08", "2013-W09"]
        # Midnight in UTC is evening in New York.
        assert read(AllOf(), "2013-02-01", DAYS, Daily("2013-01-01")) == ["2013-02-02"]

    def test_without_time_all_that_have_ended(self):
        early = datetime(2013, 1, 3, 12, tzinfo=UTC)
        for downstream, key in ((Single(), "all"), (REGIONS, "eu")):
            assert read(AllOf(), key, downstream, DAYS, early) == ["2013-01-01", "2013-01-02"]
        assert read(AllOf(), "2013-02-01", DAYS, REGIONS) == ["eu", "us"]
        assert read(AllOf(), "all", Single(), REGIONS) == ["eu", "us"]

    def test_products_keep_what_both_have(self):
        february = [f"2013-02-{day:02}" for day in range(1, 29)]
        assert read(AllOf(), "2013-02|us", MONTHLY_PLACES, PLACES) == [f"{day}|us" for day in february]
        assert read(AllOf(), "2013-02|us", MONTHLY_PLACES, DAYS) == february
        assert read(AllOf(), "2013-02-01", DAYS, PLACES) == ["2013-02-01|eu", "2013-02-01|us"]
        early = datetime(2013, 1, 3, 12, tzinfo=UTC)
        assert read(AllOf(), "us", REGIONS, PLACES, early) == ["2013-01-01|us", "2013-01-02|us"]
        assert len(read(AllOf(), "all", Single(), PLACES, early)) == 4

    @pytest.mark.parametrize(
        ("downstream", "upstream"), [(DAYS, MONTHS), (DAYS, WEEKS), (HOURS, DAYS), (PLACES, MONTHLY_PLACES)]
    )
    def test_longer_inputs_are_refused(self, downstream, upstream):
        with pytest.raises(DefinitionError, match=r"Write latest\(\.\.\.\)"):
            AllOf().check(downstream, upstream)

    @steady
    @given(
        st.sampled_from(
            ["UTC", NEW_YORK, "Pacific/Apia", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut"]
        ),
        st.integers(1985, 2024),
        st.sampled_from([(Monthly, Daily), (Weekly, Daily), (Weekly, Hourly), (Daily, Hourly)]),
    )
    def test_in_one_zone_the_parts_make_the_whole(self, zone, year, kinds):
        downstream, upstream = (kind(str(year - 1), tz=zone) for kind in kinds)
        start = datetime(year, 1, 1, tzinfo=UTC)
        for whole in downstream.overlapping(start, start + timedelta(days=40)):
            parts = AllOf().upstream(whole, downstream, upstream, NOW)
            assert (parts[0].start, parts[-1].end) == (whole.start, whole.end)
            assert all(one.end == other.start for one, other in pairwise(parts))


class TestLatest:
    def test_what_had_ended_with_the_partition(self):
        assert read(Latest(), "2013-03-15", DAYS, MONTHS) == ["2013-02"]
        assert read(Latest(), "2013-03-31", DAYS, MONTHS) == ["2013-03"]
        assert read(Latest(), "2013-03-31", DAYS, DAYS) == ["2013-03-31"]

    def test_never_what_has_not_ended_by_now(self):
        assert read(Latest(), "2013-08-31", DAYS, MONTHS) == ["2013-05"]
        assert read(Latest(), "all", Single(), DAYS) == ["2013-06-14"]
        assert read(Latest(), "eu", REGIONS, MONTHS) == ["2013-05"]

    def test_nothing_has_ended_yet(self):
        assert read(Latest(), "2013-01-15", DAYS, MONTHS) == []

    def test_products(self):
        assert read(Latest(), "2013-03-15|us", PLACES, MONTHLY_PLACES) == ["2013-02|us"]
        assert read(Latest(), "2013-03-15", DAYS, MONTHLY_PLACES) == ["2013-02|eu", "2013-02|us"]

    @pytest.mark.parametrize(("upstream", "hint"), [(REGIONS, "all_of"), (Single(), "fixed")])
    def test_refused_without_time(self, upstream, hint):
        with pytest.raises(DefinitionError, match=hint):
            Latest().check(DAYS, upstream)


class TestFixed:
    def test_always_that_one(self):
        assert read(Fixed("eu"), "2013-02-01", DAYS, REGIONS) == ["eu"]
        assert read(Fixed("all"), "2013-02-01", DAYS, Single()) == ["all"]

    def test_an_unknown_key_is_refused(self):
        with pytest.raises(PartitionKeyError, match="'mars' is not one of"):
            Fixed("mars").check(DAYS, REGIONS)


@pytest.mark.parametrize(
    ("downstream", "upstream", "mapping"),
    [
        (DAYS, DAYS, Same()),
        (Single(), Single(), Same()),
        (DAYS, Single(), Fixed("all")),
        (PLACES, Single(), Fixed("all")),
        (PLACES, DAYS, Same()),
        (PLACES, REGIONS, Same()),
        (REGIONS, Static(["us", "eu", "asia"]), Same()),
    ],
)
def test_default(downstream, upstream, mapping):
    assert default_mapping(downstream, upstream) == mapping
    mapping.check(downstream, upstream)


@pytest.mark.parametrize(
    ("downstream", "upstream"), [(MONTHS, DAYS), (DAYS, MONTHS), (Single(), DAYS), (DAYS, PLACES)]
)
def test_no_default_where_there_is_a_choice(downstream, upstream):
    with pytest.raises(DefinitionError, match="Write "):
        default_mapping(downstream, upstream)


@pytest.mark.parametrize(
    "mapping", [Same(), Window(before=6), Window(after=1), AllOf(), Latest(), Fixed("Köln")]
)
def test_json(mapping):
    again = msgspec.json.decode(msgspec.json.encode(mapping), type=AnyMapping)
    assert again == mapping
    assert type(again) is type(mapping)


def test_a_manifest_with_a_bad_window_is_refused():
    with pytest.raises(DefinitionError):
        msgspec.json.decode(b'{"type":"window","before":-1}', type=AnyMapping)
