"""What the store knows of triggers: their ticks, and how far each is."""

from datetime import datetime, timedelta

import msgspec

from sidestage.errors import StoreError


class NewTick(msgspec.Struct, frozen=True):
    """A tick to be begun: a moment (UTC) at which a pipeline's trigger made it due.

    ``previous`` is the moment of the tick before it, or the one since which ticks are due. Raises StoreError
    if that is not earlier.
    """

    pipeline: str
    at: datetime
    previous: datetime

    def __post_init__(self) -> None:
        if self.at <= self.previous:
            raise StoreError(f"The tick of {self.pipeline!r} at {self.at} is not later than {self.previous}.")


class Tick(msgspec.Struct, frozen=True):
    """A tick that was begun. ``run`` is the run that was begun for it, None if there was nothing to do."""

    pipeline: str
    at: datetime
    run: int | None
    made_at: datetime


TRIGGER_COMES_BACK = timedelta(days=1)
"""A trigger that is declared again, unchanged, within this time was never away: no tick of it is lost.

A worker that still runs older code, or newer code that is taken back, must not make ticks vanish.
"""


class TriggerState(msgspec.Struct, frozen=True):
    """How far the ticks of a pipeline are. ``trigger`` is the JSON of its trigger, None if it has none now.

    Ticks later than ``since`` are due in their time. ``held`` says why the next one, though due, could not be
    begun when it was last tried.
    """

    pipeline: str
    trigger: str | None
    since: datetime
    last: Tick | None = None
    held: str | None = None

    @property
    def reached(self) -> datetime:
        """The moment up to which every tick was begun."""
        return self.since if self.last is None else max(self.since, self.last.at)
