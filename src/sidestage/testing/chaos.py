"""Chance in a simulated history: what goes wrong, when, and how often it did."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")

_LEFT_OUT = 0.2
"""The share of the kinds of faults that a history has none of; as many are more frequent in it."""

_MORE_FREQUENT = 3.0

Fault = Literal[
    "crash before a store call",
    "crash between commit and acknowledgement",
    "store call refused",
    "acknowledgement lost",
    "heartbeat lost",
    "database unreachable",
    "pause before a store call",
    "pause after a store call",
    "wake-up lost",
    "executor process died",
    "code of a run lost",
    "code not loaded yet",
    "attempt failed",
    "attempt slower than a lease",
    "answer delivered twice",
    "answers reordered",
    "answer delayed",
    "wall clock stepped",
    "power cut",
    "run cancelled",
    "run taken up again",
    "worker drained",
    "run asked for twice",
]


class Rates(msgspec.Struct, frozen=True):
    """How probable faults are: per store call, per attempt, per round of a worker's loop, per history."""

    crash: float = 0.008
    refused: float = 0.04
    lost: float = 0.04
    unreachable: float = 0.004
    pause: float = 0.015
    deaf: float = 0.1
    died: float = 0.07
    code_lost: float = 0.02
    loading: float = 0.05
    failed: float = 0.08
    slow: float = 0.05
    twice: float = 0.08
    reordered: float = 0.5
    delayed: float = 0.08
    clock_step: float = 0.03
    power_cut: float = 0.1
    cancelled: float = 0.3
    taken_up: float = 0.5
    drained: float = 0.4
    asked_twice: float = 0.3

    def mixed(self, chance: Callable[[], float]) -> "Rates":
        """Return the rates of one history: some faults left out, some more frequent, the rest as they are.

        What breaks under many faults of one kind is often hidden where all kinds come at once ("swarm
        testing", Groce et al., ISSTA 2012).
        """
        return Rates(*(min(1.0, getattr(self, name) * _weight(chance())) for name in self.__struct_fields__))


def _weight(thrown: float) -> float:
    if thrown < _LEFT_OUT:
        return 0.0
    return _MORE_FREQUENT if thrown < 2 * _LEFT_OUT else 1.0


class Chaos:
    """One seed's dice. While ``calm`` nothing goes wrong; ``counts`` holds what did, by kind.

    Without ``rates`` the seed mixes its own.
    """

    def __init__(self, seed: int, rates: Rates | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311  # a history that can be replayed, not a secret
        self.chance = self._random.random
        self.rates = Rates().mixed(self.chance) if rates is None else rates
        self.calm = False
        self.counts: Counter[Fault] = Counter()

    def strikes(self, rate: float, fault: Fault) -> bool:
        """Return whether a fault happens now, and count it if so."""
        if self.calm or self.chance() >= rate:
            return False
        self.counts[fault] += 1
        return True

    def befalls(self, menu: Sequence[tuple[float, Fault]]) -> Fault | None:
        """Return which fault of a menu happens now, if any, and count it. One throw decides."""
        if self.calm:
            return None
        thrown = self.chance()
        for rate, fault in menu:
            thrown -= rate
            if thrown < 0:
                self.counts[fault] += 1
                return fault
        return None

    def between(self, least: float, most: float) -> float:
        """Return a number between two."""
        return least + (most - least) * self.chance()

    def seconds(self, mean: float) -> float:
        """Return a duration: mostly short, sometimes long."""
        return self._random.expovariate(1.0 / mean)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return choices[int(self.chance() * len(choices))]

    def shuffle(self, items: list[T]) -> None:
        """Put items in any order."""
        self._random.shuffle(items)
