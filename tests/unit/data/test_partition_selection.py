"""Selections: what an expression names, and what is refused."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.calendar import Daily, Hourly, Monthly, Weekly
from sidestage.data.keyed import Product, Single, Static
from sidestage.errors import PartitionKeyError

NOW = datetime(2013, 3, 10, 12, tzinfo=UTC)
DAYS = Daily("2013-01-01", tz="America/New_York")
REGIONS = Static(["eu", "us", "asia"])
BOTH = Product({"region": REGIONS, "day": DAYS})

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def keys(partitions):
    return [partition.key for partition in partitions]


@pytest.mark.parametrize(
    ("partitions", "expression", "first", "last", "count"),
    [
        (DAYS, "2013-02-01", "2013-02-01", "2013-02-01", 1),
        (DAYS, "2013-02-01:2013-02-03", "2013-02-01", "2013-02-03", 3),
        (DAYS, "2013-03-01:", "2013-03-01", "2013-03-09", 9),
        (DAYS, ":2013-01-05", "2013-01-01", "2013-01-05", 5),
        (DAYS, "*", "2013-01-01", "2013-03-09", 68),
        (DAYS, "2013-02", "2013-02-01", "2013-02-28", 28),
        (DAYS, "2013-02:2013-03-02", "2013-02-01", "2013-03-02", 30),
        (DAYS, "2013", "2013-01-01", "2013-12-31", 365),
        (DAYS, "2012:2013-01", "2013-01-01", "2013-01-31", 31),
        (DAYS, "2013-W05", "2013-01-28", "2013-02-03", 7),
        (DAYS, "2013-02-01T05", "2013-02-01", "2013-02-01", 1),
        (DAYS, "2013-02-01T01+0000", "2013-01-31", "2013-01-31", 1),
        (DAYS, "2013-02-03, 2013-02-01:2013-02-03", "2013-02-01", "2013-02-03", 3),
        (DAYS, "2013-02-03,2013-01-05", "2013-01-05", "2013-02-03", 2),
        (Monthly("2013"), "2013-02-14:2013-04-01", "2013-02", "2013-04", 3),
        (Weekly("2013"), "2013-02", "2013-W05", "2013-W09", 5),
        (Weekly("2013"), "2013-W05:2013-W06", "2013-W05", "2013-W06", 2),
        (Hourly("2013", tz="America/New_York"), "2013-03-10", "2013-03-10T00-0500", "2013-03-10T23-0400", 23),
        (REGIONS, "us", "us", "us", 1),
        (REGIONS, "us:", "us", "asia", 2),
        (REGIONS, "asia,eu", "eu", "asia", 2),
        (REGIONS, "*", "eu", "asia", 3),
        (Single(), "*", "all", "all", 1),
        (Single(), "all", "all", "all", 1),
        (BOTH, "eu|2013-02-01:2013-02-03", "eu|2013-02-01", "eu|2013-02-03", 3),
        (BOTH, "*|2013-02", "eu|2013-02-01", "asia|2013-02-28", 84),
        (BOTH, "2013-02-01", "eu|2013-02-01", "asia|2013-02-01", 3),
        (BOTH, "us|*", "us|2013-01-01", "us|2013-03-09", 68),
        (BOTH, "*", "eu|2013-01-01", "asia|2013-03-09", 204),
        (BOTH, "us|2013-02-02,eu|2013-02-01,us|2013-02-02", "eu|2013-02-01", "us|2013-02-02", 2),
        (Product({"a": REGIONS, "b": REGIONS}), "*", "eu|eu", "asia|asia", 9),
    ],
)
def test_selected(partitions, expression, first, last, count):
    found = partitions.select(expression, NOW)
    assert (found[0].key, found[-1].key, len(found)) == (first, last, count)
    assert [partitions.parse(part.key) for part in found] == list(found)
    assert len(set(keys(found))) == count


@pytest.mark.parametrize(
    ("partitions", "expression"),
    [
        *(
            (DAYS, wrong)
            for wrong in ["", " ", ",", "2013-02-01,", ":", "::", "2013-01-01:2013-01-02:", "**", None, 5]
        ),
        *(
            (DAYS, wrong)
            for wrong in ["2013-02-30", "2013-1-1", "next week", "2013-02-03:2013-02-01", "0", "20130201"]
        ),
        *(
            (DAYS, wrong)
            for wrong in ["2012", "2012-12-31", ":2012", "2013-04-01:", "2013-02-01,2012", "2013-W60"]
        ),
        *((DAYS, wrong) for wrong in ["x" * 10_000, "😀", "\0", "٢٠١٣", "2013-02-01|eu", "9999", "0001"]),
        (Hourly("2013", tz="America/New_York"), "2013-03-10T02"),
        (Hourly("1000"), "1000:9998"),
        *((REGIONS, wrong) for wrong in ["EU", "us:eu", "mars", "eu:mars", "e"]),
        *((Single(), wrong) for wrong in ["2013", "ALL"]),
        *(
            (BOTH, wrong)
            for wrong in ["eu", "2013-02-01|eu", "eu|2013-02-01|x", "|", "eu|", "mars|2013-02-01"]
        ),
        (Product({"a": REGIONS, "b": REGIONS}), "eu"),
    ],
)
def test_refused_in_a_few_words(partitions, expression):
    with pytest.raises(PartitionKeyError) as refused:
        partitions.select(expression, NOW)
    assert refused.value.hint
    assert len(str(refused.value)) < 400


def test_before_anything_has_ended_nothing_is_selected():
    with pytest.raises(PartitionKeyError, match="selects none of the days since 2013-01-01"):
        DAYS.select("*", datetime(2013, 1, 1, 12, tzinfo=UTC))


def test_only_open_ends_look_at_now():
    assert keys(DAYS.select("2013-03-09:2013-03-12", NOW))[-1] == "2013-03-12"
    assert keys(DAYS.select("2013-03-09:", NOW))[-1] == "2013-03-09"


@steady
@given(st.data())
def test_days_agree_with_brute_force(data):
    days = [date(2013, 1, 1) + timedelta(days=n) for n in range(120)]
    partitions = Daily("2013-01-01", "2013-04-30", tz="Europe/Berlin")
    now = datetime(2013, 4, 15, tzinfo=UTC)

    def period():
        day = data.draw(st.sampled_from(days))
        year, week, _ = day.isocalendar()
        return data.draw(st.sampled_from([f"{day}", f"{day:%Y-%m}", f"{year}-W{week:02}", "2013"]))

    def matches(day, text):
        if "W" in text:
            return f"{day.isocalendar().year}-W{day.isocalendar().week:02}" == text
        return day.isoformat().startswith(text)

    parts, wanted = [], set()
    for _ in range(data.draw(st.integers(1, 3))):
        first, last = period(), period()
        begins = [day for day in days if matches(day, first)]
        ends = [day for day in days if matches(day, last)]
        form = data.draw(st.sampled_from(["one", "range", "open", "until", "all"]))
        if form == "one":
            part, named = first, set(begins)
        elif form == "range":
            part, named = f"{first}:{last}", {day for day in days if begins[0] <= day <= ends[-1]}
        elif form == "open":
            part, named = f"{first}:", {day for day in days if begins[0] <= day < date(2013, 4, 15)}
        elif form == "until":
            part, named = f":{last}", {day for day in days if day <= ends[-1]}
        else:
            part, named = "*", {day for day in days if day < date(2013, 4, 15)}
        parts.append(part)
        if not named:
            with pytest.raises(PartitionKeyError):
                partitions.select(",".join(parts), now)
            return
        wanted |= named
    assert keys(partitions.select(",".join(parts), now)) == [day.isoformat() for day in sorted(wanted)]
