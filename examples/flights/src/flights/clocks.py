"""Turn the source's clock times, such as 1730, into moments."""

import polars as pl

NEW_YORK = "America/New_York"


def with_moments(flights: pl.DataFrame) -> pl.DataFrame:
    """Add the columns ``scheduled_departure``, ``departure`` and ``arrival``, in UTC.

    A cancelled flight has no departure. A cancelled or diverted one has no arrival: nobody recorded on which
    day a diverted flight reached its destination.
    """
    flown = pl.col("air_time").is_not_null()
    return flights.with_columns(
        scheduled_departure=_moment("sched_dep_time"),
        departure=_moment("dep_time"),
        arrival=pl.when(flown).then(_moment("arr_time")),
    )


def minutes_between(start: str, end: str) -> pl.Expr:
    """Return the whole minutes from one column of moments to another."""
    return (pl.col(end) - pl.col(start)).dt.total_minutes().cast(pl.Int32)


def _moment(column: str) -> pl.Expr:
    """Return when clocks showed this on the day of the flight; 2400 is the midnight that ends it."""
    shown = pl.col("flight_date").cast(pl.Datetime("us")) + pl.duration(minutes=_minutes(column))
    # The hour that clocks skip in March stopped the pipeline once.
    local = shown.dt.replace_time_zone(NEW_YORK, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _minutes(column: str) -> pl.Expr:
    clock = pl.col(column).cast(pl.Int32)
    return clock // 100 * 60 + clock % 100
