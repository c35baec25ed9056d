"""Failure budgets: for how long, and how often, a makeshift answer will do.

When the place that is asked does not answer, items may go on with what was last known, or with a default.
That is a degraded mode: it must be seen when it begins and ends, and it must not last for ever.
"""

import math
from typing import Literal

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Event
from sidestage.policy.tally import Tally

Mode = Literal["normal", "degraded", "spent"]


class FailureBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How much may go on with makeshift answers.

    ``seconds``: how long a degraded mode may last (None: for ever). ``share`` (above 0, up to 1; None: any)
    of the items of the last ``within`` seconds may get a makeshift answer, once there were ``least`` items;
    when that is spent, there are none until half of it has come back. A degraded mode is over when a call
    succeeds and none has failed for ``calm`` seconds.

    Raises DefinitionError for numbers that make no sense.
    """

    seconds: float | None = 600.0
    share: float | None = None
    within: float = 60.0
    least: int = 100
    calm: float = 1.0

    def __post_init__(self) -> None:
        seconds_hold = self.seconds is None or 0 <= self.seconds < math.inf
        share_holds = self.share is None or 0 < self.share <= 1
        times_hold = 0 < self.within < math.inf and 0 <= self.calm < math.inf
        if not (seconds_hold and share_holds and times_hold and self.least >= 1):  # so that nan fails, too
            raise DefinitionError(
                f"FailureBudget(seconds={self.seconds}, share={self.share}, within={self.within}, "
                f"least={self.least}, calm={self.calm}) makes no sense.",
                hint="Times are seconds and not negative; share lies above 0 and up to 1.",
            )


class FallbackTurned(Event, frozen=True):
    """A lookup began to give makeshift answers, may no longer give any, or is back to normal.

    It was degraded for ``seconds`` until now; ``makeshift`` items got such an answer, ``failed`` got none.
    """

    lookup: str
    before: Mode
    after: Mode
    why: str
    seconds: float
    makeshift: int
    failed: int


class Spending:
    """A failure budget as it is spent. Not safe for threads: whoever owns it holds a lock.

    Each change of mode is returned as a ``FallbackTurned``.
    """

    def __init__(self, name: str, budget: FailureBudget, clock: Clock) -> None:
        self._name = name
        self._budget = budget
        self._clock = clock
        self._tally: Tally[Literal["makeshift"]] = Tally(budget.within)
        self._began = self._last_failure = 0.0
        self._makeshift = self._failed = 0
        self.mode: Mode = "normal"

    def count(self, items: int) -> None:
        """Count items that need no makeshift answer."""
        if self._budget.share is not None:
            now = self._clock.monotonic()
            self._tally.forget(now)
            self._tally.add(now, items, {})

    def failed(self) -> None:
        """Take note that a call failed."""
        self._last_failure = self._clock.monotonic()

    def succeeded(self) -> FallbackTurned | None:
        """Take note that a call succeeded."""
        if self.mode == "normal" or self._clock.monotonic() < self._last_failure + self._budget.calm:
            return None
        return self._turn("normal", "calls succeed again")

    def allow(self, items: int, why: str) -> tuple[bool, FallbackTurned | None]:
        """Say whether ``items`` items may get a makeshift answer, and count them; ``why`` they need one."""
        now = self._clock.monotonic()
        if self.mode == "normal":
            self._began = now
            self._makeshift = self._failed = 0
        self._tally.forget(now)
        refusal = self._refusal(now, items)
        if refusal:
            self._failed += items
            self._tally.add(now, items, {})
        else:
            self._makeshift += items
            self._tally.add(now, items, {"makeshift": items})
        after: Mode = "spent" if refusal else "degraded"
        turned = self._turn(after, refusal or why) if after != self.mode else None
        return not refusal, turned

    def _refusal(self, now: float, items: int) -> str:
        budget, tally = self._budget, self._tally
        if budget.seconds is not None and now - self._began > budget.seconds:
            return f"it has been degraded for more than {budget.seconds:g} s"
        everything = tally.items + items
        if budget.share is not None and everything >= budget.least:
            allowed = budget.share / 2 if self.mode == "spent" else budget.share
            if tally.marks + items > allowed * everything:
                return f"more than {budget.share:.0%} of the items would get a makeshift answer"
        return ""

    def _turn(self, after: Mode, why: str) -> FallbackTurned:
        before, self.mode = self.mode, after
        seconds = self._clock.monotonic() - self._began
        return FallbackTurned(
            self._clock.now(), self._name, before, after, why, seconds, self._makeshift, self._failed
        )
