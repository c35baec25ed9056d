"""Windows at fixed places in time, numbered: where each begins and ends, and which hold a time.

Boundary number n is ``n * every + offset``, rounded as floats are. All questions are answered by comparing
with boundaries, never by a quotient alone, so that each time lies in exactly the windows that say so.
"""

import math
from collections.abc import Sequence

from sidestage.stream.windows.plan import Sliding, Tumbling, steps_of


class Grid:
    """The numbers of tumbling or sliding windows. Times are seconds since the epoch."""

    def __init__(self, windows: Tumbling | Sliding) -> None:
        self.size = windows.size
        if isinstance(windows, Tumbling):
            self.every, self.offset = windows.size, windows.offset
            self.steps: int | None = 1
        else:
            self.every, self.offset = windows.every, 0.0
            self.steps = steps_of(windows)
        self.exact = isinstance(self.every, int) and not self.offset
        """Whether a floor division alone gives the number: whole steps from zero are not rounded."""

    def start(self, number: int) -> float:
        """Return where a window begins."""
        return number * self.every + self.offset

    def end(self, number: int) -> float:
        """Return where a window ends."""
        if self.steps is None:
            return self.start(number) + self.size
        return self.start(number + self.steps)

    def last(self, time: float) -> int:
        """Return the number of the last window that holds a time."""
        number = math.floor((time - self.offset) / self.every) if not self.exact else int(time // self.every)
        if not self.exact:
            while self.start(number) > time:
                number -= 1
            while self.start(number + 1) <= time:
                number += 1
        return number

    def lasts(self, times: Sequence[float]) -> list[float]:
        """Return the same of many times; whole numbers, perhaps as floats."""
        if self.exact:
            every = self.every
            return [time // every for time in times]
        return [self.last(time) for time in times]

    def first(self, time: float, lateness: float = 0) -> int:
        """Return the number of the first window whose end, put off by ``lateness``, lies after a time."""
        if self.steps is not None and not lateness:
            return self.last(time) - self.steps + 1
        number = self.last(time - lateness) - (self.steps or math.ceil(self.size / self.every)) + 1
        while self.end(number) + lateness <= time:
            number += 1
        while self.end(number - 1) + lateness > time:
            number -= 1
        return number
