"""What the pipeline makes: partitions, keys, checks, and rules by which a candidate is judged."""

from sidestage import Daily, Dataset, Monthly, Single
from sidestage.checks import (
    between,
    expect,
    max_changed,
    max_extra,
    max_missing,
    not_null,
    row_count,
    same_total,
    tolerance,
    unique,
)

NEW_YORK = "America/New_York"

days = Daily(start="2013-01-01", end="2013-12-31", tz=NEW_YORK)
months = Monthly(start="2013-01", end="2013-12", tz=NEW_YORK)

planes = Dataset(
    "flights/planes",
    Single(),
    key=["tailnum"],
    checks=[unique("tailnum"), not_null("tailnum"), row_count(at_least=1000)],
    compare=[max_changed(0.0)],
    description="Aircraft by tail number.",
)

airports = Dataset(
    "flights/airports",
    Single(),
    key=["faa"],
    checks=[
        unique("faa"),
        not_null("faa", "name", "tz"),
        row_count(at_least=1000),
    ],
    compare=[max_changed(0.0)],
    description="Airports by FAA code, with offset from UTC (tz, hours, winter) and time zone (tzone).",
)

weather = Dataset(
    "flights/weather",
    days,
    key=["origin", "time_hour"],
    checks=[
        unique("origin", "time_hour"),
        not_null("origin", "time_hour"),
        # The source ends on 30 December, and flights without weather are still flights.
        row_count(at_least=1, at_most=3 * 25, blocking=False),
        between("temp", -40, 130, blocking=False),
    ],
    compare=[max_changed(0.0)],
    description="Hourly weather at EWR, JFK and LGA: degrees Fahrenheit, miles per hour, inches, miles.",
)

raw = Dataset(
    "flights/raw",
    days,
    key=["carrier", "flight", "origin"],
    checks=[
        row_count(at_least=1),
        row_count(at_least=500, blocking=False),
        unique("carrier", "flight", "origin"),
        not_null("flight_date", "carrier", "flight", "origin", "dest", "sched_dep_time"),
        expect("a flight with a departure has a delay", "(dep_time IS NULL) = (dep_delay IS NULL)"),
    ],
    compare=[max_changed(0.0)],
    description="Flights by scheduled day as the source has them: clock times such as 1730, without a date.",
)

clean = Dataset(
    "flights/clean",
    days,
    key=["carrier", "flight", "origin"],
    checks=[
        row_count(at_least=1),
        unique("carrier", "flight", "origin"),
        not_null("flight_date", "scheduled_departure", "cancelled", "diverted", "distance"),
        expect("a flight departs unless it is cancelled", "cancelled = (departure IS NULL)"),
        expect("arrives after it departs", "arrival IS NULL OR arrival > departure", blocking=False),
        not_null("temperature", blocking=False),
    ],
    # Whatever a change does to the times that flights kept, it has to leave the timetable alone.
    compare=[
        max_missing(0.0),
        max_extra(0.0),
        max_changed(0.0, column="scheduled_departure"),
        max_changed(0.0, column="cancelled"),
        same_total("distance"),
        same_total("air_time"),
    ],
    description="Flights with moments instead of clock times, aircraft, airports, weather when due to leave.",
)

delays = Dataset(
    "flights/delays",
    days,
    key=["carrier", "origin", "destination"],
    checks=[
        row_count(at_least=1),
        unique("carrier", "origin", "destination"),
        not_null("flights", "cancelled", "delayed", "delay_minutes"),
        expect("no more cancelled or delayed than flights", "cancelled + delayed <= flights"),
        between("mean_delay", -60, 1440, blocking=False),
    ],
    compare=[
        same_total("flights"),
        same_total("cancelled"),
        same_total("diverted"),
        tolerance("mean_delay", absolute=1e-9),
        tolerance("mean_block", absolute=1e-9),
    ],
    description="Delays of a day by carrier and route.",
)

monthly = Dataset(
    "flights/monthly",
    months,
    key=["carrier"],
    checks=[
        row_count(at_least=1),
        unique("carrier"),
        not_null("flights", "delay_minutes"),
        between("delayed_share", 0, 1),
    ],
    compare=[same_total("flights"), same_total("cancelled"), tolerance("mean_delay", absolute=1e-9)],
    description="Delays of a month by carrier.",
)
