"""Rate limits: how many items may pass per second, in all or by key.

A bucket fills with leave to pass at a steady rate and holds a burst at most. It is kept as one number, the
moment at which it will be full again (the virtual scheduling of ITU-T I.371), so that a bucket which is full
need not be kept at all: keys that were idle for long enough are forgotten without any difference to anybody.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError

K = TypeVar("K", bound=Hashable)

_RETIRED_AT_ONCE = 2  # more than come: what is idle is forgotten faster than keys appear
_SLACK = 1e-9  # of an item, so that rounding does not make somebody wait for nothing


class Rate(msgspec.Struct, frozen=True):
    """At most ``items`` in ``seconds``, steadily; after a quiet time, up to ``burst`` at once.

    ``burst`` is as many as pass in ``seconds``, at least one, unless told otherwise. Raises DefinitionError
    for numbers that make no sense.
    """

    items: float
    seconds: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        numbers_hold = 0 < self.items < math.inf and 0 < self.seconds < math.inf
        if not (numbers_hold and (self.burst is None or self.burst >= 1)):  # so that nan fails, too
            raise DefinitionError(
                f"Rate(items={self.items}, seconds={self.seconds}, burst={self.burst}) makes no sense.",
                hint="Give a number of items and seconds above zero, and a burst of at least one item.",
            )

    @property
    def interval(self) -> float:
        """Seconds between two items at the steady rate."""
        return self.seconds / self.items

    @property
    def most_at_once(self) -> int:
        """Items that may pass at once after a quiet time."""
        return max(1, math.floor(self.items)) if self.burst is None else self.burst


class Passing(NamedTuple):
    """How many may pass now, and the seconds until one more may (0: at once)."""

    passed: int
    wait: float


class Bucket:
    """A rate limit at work, for all items of a stage. Safe for threads; time is that of ``clock``."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at = -math.inf

    def take(self, wanted: int) -> Passing:
        """Let pass as many of ``wanted`` items as may; the rest has to ask again."""
        with self._lock:
            self._full_at, passing = _poured(self._rate, self._full_at, self._clock.monotonic(), wanted)
        return passing


class Buckets(Generic[K]):
    """A rate limit for each key. Safe for threads; time is that of ``clock``.

    At most ``most`` keys are remembered. A key whose bucket is full again is forgotten; while all of them are
    in use, items of a new key wait. Raises DefinitionError if ``most`` is below one.
    """

    def __init__(self, rate: Rate, clock: Clock, *, most: int = 100_000) -> None:
        if most < 1:
            raise DefinitionError(
                f"A rate limit by key that remembers {most} keys makes no sense.",
                hint="Let it remember at least one.",
            )
        self._rate = rate
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._full_at: OrderedDict[K, float] = OrderedDict()  # the key that was asked for last comes last

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: K, wanted: int) -> Passing:
        """Let pass as many of ``wanted`` items of a key as may; the rest has to ask again."""
        with self._lock:
            now = self._clock.monotonic()
            self._retire(now)
            known = self._full_at.get(key)
            if known is None and wanted > 0 and len(self._full_at) >= self._most:
                return Passing(0, _wait(now, next(iter(self._full_at.values()))))
            full_at, passing = _poured(self._rate, -math.inf if known is None else known, now, wanted)
            if full_at > now:
                self._full_at[key] = full_at
                self._full_at.move_to_end(key)
            return passing

    def _retire(self, now: float) -> None:
        for _ in range(_RETIRED_AT_ONCE):
            if not self._full_at or next(iter(self._full_at.values())) > now:
                return
            self._full_at.popitem(last=False)


def _poured(rate: Rate, full_at: float, now: float, wanted: int) -> tuple[float, Passing]:
    """Let pass as many of ``wanted`` as may; return when the bucket will be full then, and how many."""
    missing = max(0.0, full_at - now) / rate.interval
    room = rate.most_at_once - missing
    count = max(0, min(wanted, math.floor(room + _SLACK)))
    full_at = max(full_at, now) + count * rate.interval if count else full_at
    left = room - count
    return full_at, Passing(
        count, 0.0 if left + _SLACK >= 1 else _wait(now, now + (1 - left) * rate.interval)
    )


def _wait(now: float, until: float) -> float:
    """Return a wait that is long enough for the clock to show a later time."""
    return max(until - now, 2 * math.ulp(now))
