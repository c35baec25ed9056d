"""Each task, called as the plain function it is, on days of the real data."""

from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest
from flights import pipeline, source
from flights.datasets import days, months
from year import clean_of, delays_of, flight


def test_the_source_has_all_flights_of_all_days() -> None:
    by_day = source.flights_by_day()

    assert len(by_day) == 365
    assert sum(rows.height for rows in by_day.values()) == 336_776


@pytest.mark.parametrize(("day", "hours"), [("2013-03-09", 24), ("2013-03-10", 23), ("2013-07-01", 24)])
def test_weather_of_a_local_day(day: str, hours: int) -> None:
    at = days.parse(day)
    weather = pipeline.read_weather(at)

    assert weather.height == 3 * hours
    assert weather["time_hour"].min() == at.start
    assert weather.filter(pl.col("time_hour") >= at.end).is_empty()


def test_the_last_day_of_the_year_has_no_weather_but_its_columns() -> None:
    weather = pipeline.read_weather(days.parse("2013-12-31"))

    assert weather.is_empty()
    assert weather.schema == pipeline.read_weather(days.parse("2013-12-30")).schema


def test_every_flight_of_the_day_is_cleaned_once() -> None:
    raw, clean = pipeline.extract(days.parse("2013-12-31")), clean_of("2013-12-31")

    key = ["carrier", "flight", "origin"]
    assert clean.height == raw.height == clean.select(key).n_unique()
    assert clean["distance"].sum() == raw["distance"].sum()


def test_a_flight_on_time_within_one_zone() -> None:
    found = flight("2013-01-01", "AA", 1141)

    assert found["scheduled_departure"] == datetime(2013, 1, 1, 10, 40, tzinfo=UTC)
    assert found["departure"] == datetime(2013, 1, 1, 10, 42, tzinfo=UTC)
    assert found["arrival"] == datetime(2013, 1, 1, 14, 23, tzinfo=UTC)
    assert (found["departure_delay"], found["block_minutes"], found["air_time"]) == (2, 221, 160)
    assert found["destination_name"] == "Miami Intl"
    assert (found["manufacturer"], found["built"]) == ("BOEING", 1990)


def test_weather_is_that_of_the_hour_in_which_the_flight_was_due_to_leave() -> None:
    at = days.parse("2013-07-01")
    nine = pipeline.read_weather(at).filter(
        pl.col("origin") == "JFK", pl.col("time_hour") == datetime(2013, 7, 1, 13, tzinfo=UTC)
    )
    due = clean_of("2013-07-01").filter(
        pl.col("origin") == "JFK",
        pl.col("scheduled_departure").dt.truncate("1h") == datetime(2013, 7, 1, 13, tzinfo=UTC),
    )

    assert due.height > 1
    assert due["temperature"].unique().to_list() == nine["temp"].to_list()


def test_cancelled_and_diverted_flights() -> None:
    clean = clean_of("2013-02-08")
    cancelled, diverted = clean.filter("cancelled"), clean.filter("diverted")

    assert cancelled.height == 472
    assert cancelled["departure"].null_count() == cancelled["departure_delay"].null_count() == 472
    assert diverted.height > 0
    assert diverted["departure"].null_count() == 0
    assert diverted["arrival"].null_count() == diverted.height


def test_delays_count_each_flight_once() -> None:
    with duckdb.connect() as duck:
        clean = clean_of("2013-02-08")
        delays = delays_of(days.parse("2013-02-08"), clean, duck)

    assert delays.select("carrier", "origin", "destination").is_unique().all()
    assert delays["flights"].sum() == clean.height
    assert delays["cancelled"].sum() == 472
    assert delays["delay_minutes"].sum() == clean["departure_delay"].sum()


def test_delays_of_a_small_day() -> None:
    day = days.parse("2013-05-05")
    leaves = datetime(2013, 5, 6, 3, 0, tzinfo=UTC)
    clean = pl.DataFrame(
        {
            "carrier": ["B6", "B6", "B6", "B6"],
            "origin": ["JFK"] * 4,
            "destination": ["BOS"] * 4,
            "departure": [leaves, leaves.replace(hour=4), leaves.replace(hour=3, minute=59), None],
            "departure_delay": [-5, 15, 14, None],
            "block_minutes": [60, 70, None, None],
            "cancelled": [False, False, False, True],
            "diverted": [False, False, True, False],
        }
    )

    with duckdb.connect() as duck:
        (row,) = delays_of(day, clean, duck).rows(named=True)

    assert (row["flights"], row["cancelled"], row["diverted"]) == (4, 1, 1)
    assert (row["delayed"], row["after_midnight"]) == (1, 1)
    assert (row["delay_minutes"], row["mean_delay"]) == (24, 8)
    assert (row["block_minutes"], row["mean_block"]) == (130, 65)


def test_a_month_adds_up_its_days() -> None:
    with duckdb.connect() as duck:
        routes = pl.concat(
            delays_of(days.parse(day), clean_of(day), duck) for day in ("2013-02-08", "2013-02-09")
        )
    month = pipeline.roll_up(months.parse("2013-02"), routes)

    assert month["month"].unique().to_list() == ["2013-02"]
    assert month["carrier"].is_unique().all()
    assert month["flights"].sum() == routes["flights"].sum()
    assert month["delay_minutes"].sum() == routes["delay_minutes"].sum()
    jetblue = month.row(by_predicate=pl.col("carrier") == "B6", named=True)
    assert jetblue["mean_delay"] == jetblue["delay_minutes"] / (jetblue["flights"] - jetblue["cancelled"])
    assert jetblue["delayed_share"] == jetblue["delayed"] / jetblue["flights"]


def test_a_carrier_whose_flights_were_all_cancelled_has_no_mean() -> None:
    routes = pl.DataFrame(
        {
            "carrier": ["HA"],
            "flights": [2],
            "cancelled": [2],
            "diverted": [0],
            "delayed": [0],
            "after_midnight": [0],
            "delay_minutes": [0],
            "block_minutes": [0],
        }
    )

    assert pipeline.roll_up(months.parse("2013-02"), routes)["mean_delay"].to_list() == [None]
