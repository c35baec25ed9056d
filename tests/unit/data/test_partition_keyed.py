"""Partitions by name, products, and the partition itself."""

import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.calendar import Daily, Hourly, Monthly
from sidestage.data.keyed import AnyPartitions, Product, Single, Static
from sidestage.data.partition import Partition
from sidestage.errors import DefinitionError, PartitionKeyError

NOW = datetime(2013, 1, 4, tzinfo=UTC)
DAYS = Daily("2013-01-01")
REGIONS = Static(["eu", "us"])
PLACES = Product({"day": DAYS, "region": REGIONS})

steady = settings(derandomize=True, database=None, deadline=None, max_examples=100)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="|,:/\\"), min_size=1
)


def keys(partitions):
    return [partition.key for partition in partitions]


class TestPartition:
    def test_without_time_there_is_no_date(self):
        with pytest.raises(DefinitionError, match="Partition 'eu' has no date"):
            _ = REGIONS.parse("eu").date

    def test_dimensions(self):
        part = PLACES.parse("2013-01-02|eu")
        assert part.dimension("region") == "eu"
        assert part.dimension("day") == "2013-01-02"
        with pytest.raises(
            DefinitionError, match=r"no dimension 'carrier'\. Its dimensions are: day, region\."
        ):
            part.dimension("carrier")
        with pytest.raises(DefinitionError, match="Its dimensions are: none"):
            REGIONS.parse("eu").dimension("region")


class TestStatic:
    @pytest.mark.parametrize(
        "key",
        [
            *(
                "",
                " eu",
                "eu ",
                "a|b",
                "a,b",
                "a:b",
                "a/b",
                "a\\b",
                ".",
                "..",
                "*",
                "a\nb",
                "a\0",
                "\x7f",
                "\u200b",
            ),
            *("x" * 201, "e\u0301", "\u202eeu", "a\u00a0b", "\ud800", 5, None),
        ],
    )
    def test_bad_keys(self, key):
        with pytest.raises(PartitionKeyError, match="cannot be a partition key") as refused:
            Static(["good", key])
        assert len(str(refused.value)) < 200

    @pytest.mark.parametrize("pair", [("eu", "eu"), ("EU", "eu"), ("straße", "STRASSE"), ("É", "é")])
    def test_keys_that_cannot_be_told_apart(self, pair):
        with pytest.raises(PartitionKeyError, match="cannot be told apart"):
            Static(pair)

    @pytest.mark.parametrize("wrong", [(), [], "eu", None, {"eu", "us"}])
    def test_not_a_list_of_keys(self, wrong):
        with pytest.raises(DefinitionError, match="at least one key"):
            Static(wrong)

    def test_good_keys(self):
        assert keys(Static(["Köln", "new york", "x" * 200, "😀"]).closed(NOW)) == [
            *("Köln", "new york", "x" * 200, "😀")
        ]

    @pytest.mark.parametrize("key", ["EU", "", "eu ", "mars", None, 5, "x" * 10_000, "\0"])
    def test_unknown_keys(self, key):
        with pytest.raises(PartitionKeyError, match="Write it like 'eu'") as refused:
            REGIONS.parse(key)
        assert len(str(refused.value)) < 200

    def test_all_exist_at_any_time(self):
        every = REGIONS.closed(NOW)
        assert keys(every) == ["eu", "us"]
        assert keys(REGIONS.overlapping(NOW, NOW)) == keys(REGIONS.within(NOW, NOW)) == ["eu", "us"]
        assert keys(REGIONS.newest(NOW)) == ["eu", "us"]
        assert REGIONS.usual_length is None

    def test_no_neighbours(self):
        assert REGIONS.next(REGIONS.parse("eu")) is None
        assert REGIONS.previous(REGIONS.parse("us")) is None
        with pytest.raises(DefinitionError, match="no before and after"):
            REGIONS.around("eu", 1, 1)

    def test_description_stays_short(self):
        assert REGIONS.describe() == "2 fixed keys ('eu', 'us')"
        assert Static([f"k{n}" for n in range(10_000)]).describe() == (
            "10000 fixed keys ('k0', 'k1', 'k2', 'k3', 'k4', ...)"
        )

    def test_parsing_does_not_scan(self):
        small, large = Static(["k0", "k19999"]), Static([f"k{n}" for n in range(20_000)])
        took = []
        for each in (small, large):
            each.parse("k0")
            started = time.process_time()
            for _ in range(1000):
                each.parse("k19999")
            took.append(time.process_time() - started)
        assert took[1] < 50 * took[0] + 0.05, "ten thousand times as many keys cost no more"

    def test_single(self):
        assert Single().parse("all") == Partition("all")
        assert Single().describe() == "a single partition, 'all'"
        with pytest.raises(PartitionKeyError):
            Single().parse("*")


class TestProduct:
    def test_keys_and_time(self):
        part = PLACES.parse("2013-01-02|eu")
        assert part.start == datetime(2013, 1, 2, tzinfo=UTC)
        assert part.end == datetime(2013, 1, 3, tzinfo=UTC)
        assert part.dimensions == (("day", "2013-01-02"), ("region", "eu"))
        assert PLACES.usual_length == timedelta(days=1)

    @pytest.mark.parametrize(
        "key",
        [
            "2013-01-02",
            "2013-01-02|",
            "|eu",
            "eu|2013-01-02",
            "2013-01-02|eu|",
            "2013-01-02|EU",
            "|" * 10_000,
            5,
            None,
        ],
    )
    def test_bad_keys(self, key):
        with pytest.raises(PartitionKeyError) as refused:
            PLACES.parse(key)
        assert len(str(refused.value)) < 300

    def test_oldest_first_whichever_dimension_has_time(self):
        swapped = Product({"region": REGIONS, "day": DAYS})
        assert keys(swapped.closed(datetime(2013, 1, 3, tzinfo=UTC))) == [
            *("eu|2013-01-01", "us|2013-01-01", "eu|2013-01-02", "us|2013-01-02")
        ]
        assert keys(swapped.newest(NOW)) == ["eu|2013-01-03", "us|2013-01-03"]
        start = datetime(2013, 1, 2, 23, tzinfo=UTC)
        assert keys(swapped.overlapping(start, start + timedelta(hours=2))) == [
            *("eu|2013-01-02", "us|2013-01-02", "eu|2013-01-03", "us|2013-01-03")
        ]
        assert swapped.within(start, start + timedelta(hours=2)) == ()

    def test_three_dimensions_with_time_in_the_middle(self):
        three = Product({"a": REGIONS, "day": DAYS, "b": Static(["x", "y"])})
        found = list(three.closed(datetime(2013, 1, 2, tzinfo=UTC)))
        assert keys(found) == ["eu|2013-01-01|x", "eu|2013-01-01|y", "us|2013-01-01|x", "us|2013-01-01|y"]
        assert [three.parse(part.key) for part in found] == found

    def test_neighbours_keep_the_other_dimensions(self):
        second = PLACES.parse("2013-01-02|eu")
        assert PLACES.next(second).key == "2013-01-03|eu"
        assert PLACES.previous(second).key == "2013-01-01|eu"
        assert PLACES.previous(PLACES.previous(second)) is None
        assert keys(PLACES.around("2013-01-02|us", 5, 1)) == [
            *("2013-01-01|us", "2013-01-02|us", "2013-01-03|us")
        ]

    def test_without_time(self):
        plain = Product({"a": REGIONS, "b": REGIONS})
        assert plain.usual_length is None
        assert plain.parse("eu|us").start is None
        assert plain.next(plain.parse("eu|us")) is None
        with pytest.raises(DefinitionError, match="no before and after"):
            plain.around("eu|us", 1, 1)

    @pytest.mark.parametrize(
        ("dimensions", "why"),
        [
            ({}, "two or more"),
            ({"day": DAYS}, "two or more"),
            ({"day": DAYS, "hour": Hourly("2013")}, "only one of them may have time"),
            ({"day": DAYS, "re|gion": REGIONS}, "is no name"),
            ({"day": DAYS, "": REGIONS}, "is no name"),
            ({"day": DAYS, "région": REGIONS}, "is no name"),
            ({"day": DAYS, "places": PLACES}, "places is a value of type Product"),
            ({"day": DAYS, "region": ["eu"]}, "region is a value of type list"),
            ((("a", REGIONS), ("A", REGIONS)), "the same name"),
        ],
    )
    def test_bad_dimensions(self, dimensions, why):
        with pytest.raises(DefinitionError, match=why):
            Product(dimensions)

    def test_narrowed(self):
        assert keys(PLACES.narrowed({"region": "us"}).newest(NOW)) == ["2013-01-03|us"]
        with pytest.raises(PartitionKeyError):
            PLACES.narrowed({"region": "mars"})

    def test_covers(self):
        assert PLACES.covers(Product({"day": Daily("2013-02"), "region": Static(["us"])}))
        assert not PLACES.covers(Product({"region": REGIONS, "day": DAYS}))
        assert not PLACES.covers(Product({"day": DAYS, "region": Static(["mars"])}))
        assert not PLACES.covers(DAYS)

    def test_description(self):
        assert PLACES.describe() == "day (days since 2013-01-01 in UTC) by region (2 fixed keys ('eu', 'us'))"


class TestJson:
    @pytest.mark.parametrize(
        "partitions",
        [
            Single(),
            REGIONS,
            PLACES,
            DAYS,
            Product({"month": Monthly("2013"), "a": REGIONS, "b": Static(["x"])}),
        ],
    )
    def test_there_and_back(self, partitions):
        again = msgspec.json.decode(msgspec.json.encode(partitions), type=AnyPartitions)
        assert again == partitions
        assert type(again) is type(partitions)
        assert hash(again) == hash(partitions)
        assert keys(again.closed(NOW)) == keys(partitions.closed(NOW))

    def test_what_is_wrong_in_a_manifest_is_refused(self):
        for wrong in (
            b'{"type":"daily","start":"2013-01-01","tz":"Mars/Olympus"}',
            b'{"type":"daily","start":"2013-02-30"}',
            b'{"type":"static","keys":["eu","EU"]}',
        ):
            with pytest.raises(DefinitionError):
                msgspec.json.decode(wrong, type=AnyPartitions)

    @steady
    @given(st.lists(names, min_size=1, max_size=10))
    def test_any_static_keys_that_are_accepted(self, given_keys):
        try:
            partitions = Static(given_keys)
        except PartitionKeyError:
            return
        assert keys(partitions.closed(NOW)) == given_keys
        assert [partitions.parse(key).key for key in given_keys] == given_keys
        assert [partitions.select(key, NOW)[0].key for key in given_keys] == given_keys
        assert msgspec.json.decode(msgspec.json.encode(partitions), type=AnyPartitions) == partitions
