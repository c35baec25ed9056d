"""Keys that hold the others up: which they are, and who hears of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sidestage.clock import Clock
from sidestage.events import Event, Listener
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import shown
from sidestage.stream.keys.outlets import Numbers
from sidestage.stream.life.phases import RUNBOOK

_HELD_SECONDS, _TOLD_SECONDS = 1.0, 5.0
"""Others that wait so long in so many seconds is told; events of a kind are so many seconds apart."""

_SHOWN_KEY = 80


class HotKey(Event, frozen=True):
    """Workers of ``stage`` had nothing to do while there was no room for items of a key.

    ``key`` is the one that most items have where there is no room, ``waiting`` how many wait there, and
    ``share`` how much that is of all that wait before the stage. ``held``: the stream waits for it; if not,
    what comes for it is put aside.
    """

    stage: str
    key: str
    waiting: int
    share: float
    held: bool
    runbook: str = f"{RUNBOOK}#a-key-holds-others-up"


class SpillFull(Event, frozen=True):
    """Nothing more can be put aside, as ``why`` says: the stream waits for its keys."""

    stage: str
    why: str
    runbook: str = f"{RUNBOOK}#a-key-holds-others-up"


class Alarm:
    """Tells a listener which keys hold the others up, every few seconds at most."""

    def __init__(self, stage: str, clock: Clock, listener: Listener | None) -> None:
        self._stage = stage
        self._clock = clock
        self._listener = listener
        self._told: dict[type[Event], float] = {}
        self._began = clock.monotonic()
        self._held = 0.0

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return self._clock.monotonic()

    def has_held(self, since: float) -> bool:
        """Note that others have waited since a moment; return whether that is to be told."""
        now = self.now()
        if since - self._began > _TOLD_SECONDS:
            self._began, self._held = since, 0.0
        self._held += now - since
        return self._held >= _HELD_SECONDS and self.is_due(HotKey)

    def is_due(self, kind: type[Event]) -> bool:
        """Whether anybody listens, and the last such event is long enough ago."""
        last = self._told.get(kind)
        return self._listener is not None and (last is None or self.now() - last >= _TOLD_SECONDS)

    def tell_key(self, key: Any, waiting: int, share: float, *, held: bool) -> None:
        """Tell which key it is."""
        self._held = 0.0
        self._tell(lambda at: HotKey(at, self._stage, shown(key, _SHOWN_KEY), waiting, share, held))

    def tell_full(self, why: str) -> None:
        """Tell that nothing more can be put aside, unless that was told just before."""
        if self.is_due(SpillFull):
            self._tell(lambda at: SpillFull(at, self._stage, why))

    def _tell(self, event: Callable[[datetime], Event]) -> None:
        if self._listener is not None:
            told = event(self._clock.now())
            self._told[type(told)] = self.now()
            self._listener(told)


class Hottest(NamedTuple):
    """The key that most items have, its number, and that share of the items; None if it cannot be had."""

    number: int
    share: float
    key: Any


def hottest(chunks: Sequence[Chunk], numbers: Numbers) -> Hottest | None:
    """Return which key most items have, if any has one."""
    counts: Counter[int] = Counter()
    example: dict[int, Any] = {}
    total = 0
    for chunk in chunks:
        for item in chunk.items:
            total += 1
            number = numbers.again(item)
            if number is not None:
                counts[number] += 1
                example[number] = item
    if not counts:
        return None
    ((number, count),) = counts.most_common(1)
    try:
        key = numbers.key(example[number])
    except BaseException:  # noqa: BLE001 - told before
        key = None
    return Hottest(number, count / total, key)
