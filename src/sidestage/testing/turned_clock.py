"""A clock that stands still until it is turned."""

from datetime import UTC, datetime, timedelta

from sidestage.errors import ConfigurationError

_NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)


class HandClock:
    """Time that passes only when a test says so. A ``Clock``.

    ``start`` is the aware wall-clock time at which it begins; seconds without a date begin at zero. Raises
    ConfigurationError for a ``start`` without a time zone.
    """

    def __init__(self, start: datetime = _NOON) -> None:
        if start.tzinfo is None:
            raise ConfigurationError(
                f"A clock cannot start at {start.isoformat()}, which has no time zone.",
                hint="Give it one: datetime(..., tzinfo=UTC).",
            )
        self._start = start.astimezone(UTC)
        self._seconds = 0.0
        self._wall_ahead = 0.0

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return self._start + timedelta(seconds=self._seconds + self._wall_ahead)

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for durations and leases."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises ConfigurationError for a negative number of seconds."""
        if not seconds >= 0:  # so that nan is refused, too
            raise ConfigurationError(
                f"A clock cannot be turned by {seconds} seconds: time does not go backwards.",
                hint="To set the wall clock alone, use set_wall_clock.",
            )
        self._seconds += seconds

    def set_wall_clock(self, moment: datetime) -> None:
        """Set the wall clock, forwards or backwards; durations and leases must not care."""
        self._wall_ahead = (moment.astimezone(UTC) - self._start).total_seconds() - self._seconds
