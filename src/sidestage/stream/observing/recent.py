"""What stages did of late: counts since a while ago, instead of since the start."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sidestage.stream.observing.advice import advice
from sidestage.stream.observing.metrics import StageCounts

WINDOW_SECONDS = 30.0
_LEAST_APART = 1.0
"""Counts that are asked for more often than that are not all kept."""


class _Look(NamedTuple):
    at: float
    stages: tuple[StageCounts, ...]


class Recent:
    """Keeps the counts that were asked for within the last ``seconds``, to compare new ones with.

    Safe for threads. Nobody counts by the clock: who asks for the first time, or after a long while, hears of
    all the time since the start, or since they were last asked for.
    """

    def __init__(self, monotonic: Callable[[], float], seconds: float = WINDOW_SECONDS) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._lock = threading.Lock()
        self._looks: deque[_Look] = deque([_Look(monotonic(), ())])

    def note(self, stages: tuple[StageCounts, ...]) -> tuple[StageCounts, ...]:
        """Return counts with how busy each stage was of late, and keep them."""
        now = self._monotonic()
        with self._lock:
            before = self._before(now)
            if now - self._looks[-1].at >= _LEAST_APART:
                self._looks.append(_Look(now, stages))
        seconds = now - before.at
        done = since(stages, before.stages)
        return tuple(
            msgspec.structs.replace(each, busy=share_busy(late, seconds))
            for each, late in zip(stages, done, strict=True)
        )

    def advice(self, stages: Sequence[StageCounts]) -> str:
        """Return who held the others up of late, and what to do about it, as a sentence."""
        now = self._monotonic()
        with self._lock:
            before = self._before(now)
        return advice(since(stages, before.stages), now - before.at)

    def _before(self, now: float) -> _Look:
        """Return the oldest counts of the window, or the last before it if there are none."""
        looks = self._looks
        while len(looks) > 1 and looks[0].at < now - self._seconds and looks[1].at <= now - _LEAST_APART:
            looks.popleft()
        return self._looks[0]


def since(now: Sequence[StageCounts], before: Sequence[StageCounts]) -> tuple[StageCounts, ...]:
    """Return what stages did between two looks at them; those that were not there before did all of it."""
    earlier = {each.name: each for each in before}
    return tuple(each if each.name not in earlier else _less(each, earlier[each.name]) for each in now)


def share_busy(stage: StageCounts, seconds: float) -> float:
    """Return the share of its workers' time that a stage was busy in so many seconds, 1 at most.

    A chunk counts when it is done, with all the time it took.
    """
    return min(1.0, stage.seconds / (stage.workers * seconds)) if seconds > 0 else 0.0


def _less(now: StageCounts, before: StageCounts) -> StageCounts:
    cpu = None if now.cpu is None else max(0.0, now.cpu - (before.cpu or 0.0))
    return msgspec.structs.replace(
        now,
        processed=max(0, now.processed - before.processed),
        errors=max(0, now.errors - before.errors),
        seconds=max(0.0, now.seconds - before.seconds),
        buckets=tuple(
            max(0, ours - theirs) for ours, theirs in zip(now.buckets, before.buckets, strict=True)
        ),
        cpu=cpu,
    )
