"""Surges of errors: a share of failures that is too high, or far above what is usual.

A new schema makes every record fail, and a stream that was told to carry on carries on. Somebody has to
notice.
"""

import math
import threading
from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Event, Listener
from sidestage.policy.failure import FailureClass
from sidestage.policy.news import News
from sidestage.policy.tally import Slot, Tally

OnSurge = Literal["alert", "stop"]

_LEARNT_AFTER = 10  # times the least number of items: then what is usual is known
_KEPT = (
    1 - 1 / 600
)  # of what was learnt, for each tenth of the time: a memory of about sixty times ``within``
_NONE: Mapping[FailureClass, int] = {}


class Surge(msgspec.Struct, frozen=True, kw_only=True):
    """What share of errors is too much, and what to do about it.

    It is a surge when at least ``share`` (0 to 1) of the items of the last ``within`` seconds failed, or at
    least ``times_usual`` as large a share as is usual (None: that is not looked at) and no less than
    ``floor``; in either case among at least ``least`` items. It is over when the share has fallen to half of
    the bound that it broke. ``then`` says whether to alert or to stop the stream.

    Raises DefinitionError for numbers that make no sense.
    """

    share: float = 0.5
    least: int = 100
    within: float = 60.0
    times_usual: float | None = 10.0
    floor: float = 0.01
    then: OnSurge = "alert"

    def __post_init__(self) -> None:
        shares_hold = 0 < self.share <= 1 and 0 < self.floor <= 1
        usual_holds = self.times_usual is None or 1 < self.times_usual < math.inf
        if not (shares_hold and usual_holds and self.least >= 1 and 0 < self.within < math.inf):
            raise DefinitionError(
                f"Surge(share={self.share}, least={self.least}, within={self.within}, "
                f"times_usual={self.times_usual}, floor={self.floor}) makes no sense.",
                hint="share and floor lie above 0 and up to 1, times_usual above 1; least and within are "
                "positive.",
            )
        if self.then not in get_args(OnSurge):
            raise DefinitionError(
                f"Surge(then={self.then!r}) makes no sense.", hint="Give 'alert' or 'stop'."
            )


class SurgeBegan(Event, frozen=True):
    """More items of a stage fail than should: ``failed`` of the last ``items``, by class, and what to do.

    ``bound`` is the share (0 to 1) that was reached; ``usual`` the usual one, None while it is not known.
    """

    stage: str
    items: int
    failed: int
    classes: dict[str, int]
    bound: float
    usual: float | None
    then: OnSurge


class SurgeEnded(Event, frozen=True):
    """A surge is over, after so many seconds; counts are those since it began."""

    stage: str
    seconds: float
    items: int
    failed: int


class SurgeWatch:
    """Watches the errors of one stage. Safe for threads; time is that of ``clock``.

    The listener hears ``SurgeBegan`` and ``SurgeEnded``, in order, outside all locks.
    """

    def __init__(self, stage: str, surge: Surge, clock: Clock, listener: Listener | None = None) -> None:
        self._stage = stage
        self._surge = surge
        self._clock = clock
        self._news = News(listener)
        self._lock = threading.Lock()
        self._tally: Tally[FailureClass] = Tally(surge.within)
        self._usual_items = self._usual_failed = 0.0
        self._bound: float | None = None  # the one that was broken, while there is a surge
        self._began = 0.0
        self._items = self._failed = 0

    @property
    def surging(self) -> bool:
        """Whether there is a surge; ``count`` keeps this up to date."""
        return self._bound is not None

    @property
    def usual(self) -> float | None:
        """The usual share of errors, 0 to 1; None while too little was seen to say."""
        known = self._usual_items >= _LEARNT_AFTER * self._surge.least
        return self._usual_failed / self._usual_items if known else None

    def count(self, items: int, failed: Mapping[FailureClass, int] = _NONE) -> SurgeBegan | SurgeEnded | None:
        """Count the items of a chunk and those of them that failed, by class; say what that means.

        To be called now and then without items, too: a surge is also over when nothing comes any more.
        """
        with self._lock:
            event = self._count(items, failed)
            if event is not None:
                self._news.note(event)
        self._news.tell()
        return event

    def _count(self, items: int, failed: Mapping[FailureClass, int]) -> SurgeBegan | SurgeEnded | None:
        now, tally = self._clock.monotonic(), self._tally
        gone = tally.forget(now)
        if items or failed:
            tally.add(now, items, failed)
        if self._bound is not None:
            self._items += items
            self._failed += sum(failed.values())
            return self._end(now) if self._is_over(self._bound) else None
        self._learn(gone)
        bound = min(self._surge.share, self._usual_bound())
        if tally.items < self._surge.least or tally.share < bound:
            return None
        self._bound, self._began = bound, now
        self._items = self._failed = 0
        classes: dict[str, int] = {name: count for name, count in tally.marked.items()}  # noqa: C416
        return SurgeBegan(
            self._clock.now(),
            self._stage,
            tally.items,
            tally.marks,
            classes,
            bound,
            self.usual,
            self._surge.then,
        )

    def _is_over(self, bound: float) -> bool:
        tally = self._tally
        return not tally.marks or (tally.items >= self._surge.least and tally.share <= bound / 2)

    def _end(self, now: float) -> SurgeEnded:
        self._bound = None
        return SurgeEnded(self._clock.now(), self._stage, now - self._began, self._items, self._failed)

    def _usual_bound(self) -> float:
        usual, times = self.usual, self._surge.times_usual
        return math.inf if usual is None or times is None else max(usual * times, self._surge.floor)

    def _learn(self, gone: list[Slot[FailureClass]]) -> None:
        for slot in gone:
            self._usual_items = self._usual_items * _KEPT + slot.items
            self._usual_failed = self._usual_failed * _KEPT + slot.marked.total()
