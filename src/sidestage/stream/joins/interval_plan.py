"""What is declared of a join of two streams: which times belong together, and how much may wait."""

from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from sidestage.errors import DefinitionError, MemoryRefused
from sidestage.stream.shape_nodes import How
from sidestage.stream.windows.event_times import seconds_of
from sidestage.stream.windows.ledger import check_key
from sidestage.stream.windows.watermarks import EventTime

_LONGEST = 1e10


class JoinFull(MemoryRefused):
    """More rows wait for the other side than the budget allows; the item was not joined."""

    failure_class = "resource"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the other side of a join.

    A row is kept until the other side's watermark says that nothing it could be joined with comes any more,
    and ``lateness`` seconds longer. Each worker keeps at most ``rows``, and ``rows_per_key`` of each key and
    side, and of ``bytes``, as estimated: an item that would be more is refused with JoinFull. ``on_drain``:
    at the end of the stream forget what waits (``flush``), or leave it for the checkpoint (``keep``).
    A side that is more than ``ahead`` seconds of event time ahead of the other waits for it: its sources are
    not read, where nothing else depends on them (``explain`` says so). None: neither side waits.

    Raises DefinitionError for what makes no sense.
    """

    lateness: float = 0
    rows: int = 1_000_000
    rows_per_key: int = 100_000
    bytes: int | None = None
    on_drain: Literal["flush", "keep"] = "flush"
    ahead: float | None = None

    def __post_init__(self) -> None:
        least = min(self.rows, self.rows_per_key, 1 if self.bytes is None else self.bytes)
        seconds = (self.lateness, 0 if self.ahead is None else self.ahead)
        if not (all(0 <= each <= _LONGEST for each in seconds) and least >= 1):
            raise DefinitionError(
                f"{self} makes no sense.", hint="lateness and ahead are seconds; rows and bytes are counted."
            )
        if self.on_drain not in {"flush", "keep"}:
            raise DefinitionError(f"{self} makes no sense.", hint="on_drain is 'flush' or 'keep'.")


class IntervalPlan(msgspec.Struct, frozen=True):
    """Rows of the right whose time lies from ``before`` seconds before to ``after`` after that of the left.

    Both ends belong to it. Raises DefinitionError for what makes no sense.
    """

    before: float
    after: float
    times: tuple[EventTime, EventTime]
    how: How
    waiting: Waiting

    def __post_init__(self) -> None:
        if not (
            abs(self.before) <= _LONGEST and abs(self.after) <= _LONGEST and self.before + self.after >= 0
        ):
            raise DefinitionError(
                f"join(within=({self.before}, {self.after})) makes no sense.",
                hint="Give seconds before and after the left item, such as within=(0, 60).",
            )
        if any(time.at is None for time in self.times):
            raise DefinitionError(
                "join() needs the times of items.",
                hint="Give functions, or EventTime(at=...), for both sides.",
            )
        if self.waiting.ahead is not None and any(time.idle is None for time in self.times):
            raise DefinitionError(
                "join(waiting=Waiting(ahead=...)) could wait for ever for a side from which nothing comes.",
                hint="Declare for both sides after how many seconds they are idle: EventTime(idle=...).",
            )
        if self.how not in {"inner", "left"}:
            raise DefinitionError(f"There is no join(how={self.how!r}).", hint='Give "inner" or "left".')

    @property
    def shape(self) -> str:
        """What must be the same for a snapshot to fit."""
        return (
            f"a {self.how} join within {self.before:g} and {self.after:g} s,"
            f" lateness {self.waiting.lateness:g}"
        )


class Keyed(NamedTuple):
    """An item on its way to a join."""

    side: int
    key: Hashable
    time: float
    item: Any


class Unjoined(NamedTuple):
    """An item that came too late, or too early, to be joined with anything."""

    side: Literal["left", "right"]
    item: Any
    key: Any
    time: float
    reason: str


def keyed(
    side: int, key: Callable[[Any], Hashable], at: Callable[[Any], float | datetime]
) -> Callable[[Any], Keyed]:
    """Return what prepares the items of a side."""

    def with_key(item: Any) -> Keyed:
        its_key = key(item)
        check_key(its_key)
        return Keyed(side, its_key, seconds_of(at(item)), item)

    return with_key
