"""The clock that tests turn by hand."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sidestage.clock import Clock
from sidestage.errors import ConfigurationError
from sidestage.testing.turned_clock import HandClock


def test_time_stands_still_until_it_is_turned() -> None:
    clock: Clock = HandClock(datetime(2026, 3, 29, 0, 30, tzinfo=UTC))
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 0.0)
    assert clock.now() == clock.now()
    clock.advance(5400.0)
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 3, 29, 2, 0, tzinfo=UTC), 5400.0)


def test_a_start_elsewhere_is_told_in_utc() -> None:
    clock = HandClock(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert clock.now().tzinfo is UTC


def test_the_wall_clock_may_be_set_and_durations_do_not_care() -> None:
    clock = HandClock()
    clock.advance(10.0)
    clock.set_wall_clock(datetime(2000, 1, 1, tzinfo=UTC))
    assert (clock.now(), clock.monotonic()) == (datetime(2000, 1, 1, tzinfo=UTC), 10.0)
    clock.advance(1.0)
    assert (clock.now(), clock.monotonic()) == (datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC), 11.0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_time_does_not_go_backwards(seconds: float) -> None:
    clock = HandClock()
    with pytest.raises(ConfigurationError, match="backwards"):
        clock.advance(seconds)
    assert clock.monotonic() == 0.0


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        HandClock(datetime(2026, 1, 1))  # noqa: DTZ001  # refused on purpose
