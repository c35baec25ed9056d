"""From the source's tables to delays by carrier: the tasks of the pipeline ``flights``."""

import polars as pl

from flights import source
from flights.clocks import minutes_between, with_moments
from flights.datasets import airports, clean, delays, monthly, planes, raw, weather
from sidestage import Partition, Pipeline, Playbook, Retry, all_of

pipeline = Pipeline(
    "flights",
    owner="data@airport.example",
    retry=Retry(times=3),
    playbook=Playbook.load("playbooks/flights.md"),
    description="Departures from New York City in 2013, cleaned, and their delays by route and by carrier.",
)


_CLEAN_COLUMNS = (
    *("flight_date", "carrier", "flight", "tailnum"),
    *("origin", "origin_name", "destination", "destination_name", "distance"),
    *("scheduled_departure", "departure", "arrival"),
    *("departure_delay", "block_minutes", "air_time", "cancelled", "diverted"),
    *("manufacturer", "model", "seats", "built"),
    *("temperature", "wind_speed", "precipitation", "visibility"),
)


@pipeline.task(writes=planes, name="planes")
def read_planes(_once: Partition) -> pl.DataFrame:
    """Take over the aircraft."""
    return source.planes()


@pipeline.task(writes=airports, name="airports")
def read_airports(_once: Partition) -> pl.DataFrame:
    """Take over the airports."""
    return source.airports()


@pipeline.task(writes=weather, name="weather")
def read_weather(day: Partition) -> pl.DataFrame:
    """Take over the hours that begin within the local day: 24, or 23 and 25 when clocks change."""
    return source.weather_by_day().get(day.date, source.no_weather())


@pipeline.task(writes=raw)
def extract(day: Partition) -> pl.DataFrame:
    """Take over the flights that were scheduled to leave on this day."""
    return source.flights_by_day()[day.date]


@pipeline.task(reads=[raw, planes, airports, weather], writes=clean)
def denormalise(
    _day: Partition,
    flights: pl.DataFrame,
    aircraft: pl.DataFrame,
    places: pl.DataFrame,
    hours: pl.DataFrame,
) -> pl.DataFrame:
    """Give each flight moments instead of clock times, its aircraft, its airports, and the weather.

    Weather is that of the hour in which the flight was scheduled to leave, which cancelled flights have too.
    """
    left = pl.col("departure").is_not_null()
    timed = with_moments(flights).with_columns(
        cancelled=~left,
        diverted=left & pl.col("air_time").is_null(),
        departure_delay=minutes_between("scheduled_departure", "departure"),
        block_minutes=minutes_between("departure", "arrival"),
        time_hour=pl.col("scheduled_departure").dt.truncate("1h"),
    )
    return (
        timed.join(places.select(origin="faa", origin_name="name"), on="origin", how="left")
        .join(places.select(dest="faa", destination_name="name"), on="dest", how="left")
        .join(aircraft.rename({"year": "built"}), on="tailnum", how="left")
        .join(hours, on=["origin", "time_hour"], how="left")
        .rename(
            {"dest": "destination", "temp": "temperature", "precip": "precipitation", "visib": "visibility"}
        )
        .select(_CLEAN_COLUMNS)
    )


pipeline.sql("delays_by_route", reads={"clean": clean}, writes=delays, query="sql/delays.sql")


@pipeline.task(reads=all_of(delays), writes=monthly)
def roll_up(month: Partition, routes: pl.DataFrame) -> pl.DataFrame:
    """Add up all days and routes of the month by carrier."""
    counts = (
        "flights",
        "cancelled",
        "diverted",
        "delayed",
        "after_midnight",
        "delay_minutes",
        "block_minutes",
    )
    departed = pl.col("flights") - pl.col("cancelled")
    return (
        routes.group_by("carrier")
        .agg(pl.col(*counts).sum())
        .with_columns(
            mean_delay=pl.when(departed > 0).then(pl.col("delay_minutes") / departed),
            delayed_share=pl.col("delayed") / pl.col("flights"),
        )
        .select(pl.lit(month.key).alias("month"), pl.all())
        .sort("carrier")
    )
