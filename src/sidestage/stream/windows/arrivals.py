"""Sources that are merged: one that is still to come holds windows back, one that is over does not any more.

Watermarks know the parts of sources from their items. Before its first item a source would hold nobody back,
and what it brings then would be late; after its last one it would hold everybody back, for ever.
"""

from collections.abc import Collection, Hashable
from typing import Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import Moment

_TO_COME = "to come"


class Reading(Protocol):
    """What a source has given so far."""

    @property
    def has_settled(self) -> bool:
        """Whether any of its items have been dealt with."""
        ...

    @property
    def unsettled(self) -> int:
        """How many of its batches are under way."""
        ...


class Arrivals:
    """Which sources of a run have come, and which are over. For all threads."""

    def __init__(self) -> None:
        self._readings: dict[str, Reading] = {}
        self._ended: set[str] = set()

    def begin(self, source: str, reading: Reading) -> None:
        """Note that a source is being read."""
        self._readings[source] = reading

    def end(self, source: str) -> None:
        """Note that a source has come to its end. One that was only told to stop has not."""
        self._ended.add(source)

    def is_to_come(self, source: str) -> bool:
        """Whether nothing of a source has been dealt with, so that its first items are to be waited for."""
        reading = self._readings.get(source)
        return (reading is None or not reading.has_settled) and not self.is_over(source)

    def is_over(self, source: str) -> bool:
        """Whether a source is at its end, and nothing of it is under way."""
        return source in self._ended and not self._readings[source].unsettled


class Awaited:
    """The sources of one worker's windows, as its watermark is to know them.

    A source whose first items have all gone to other workers, or nowhere, is not waited for: nobody can say
    whether any will ever come here.
    """

    def __init__(self, state: WindowState, sources: Collection[str], arrivals: Arrivals, now: Moment) -> None:
        self._state = state
        self._arrivals = arrivals
        parts = [part for part in state.partitions if isinstance(part, tuple)]
        is_mixed = len(parts) < len(state.partitions)
        arrived = {source for source, part in parts if part != _TO_COME}
        several = set(sources) if len(sources) > 1 else set[str]()
        self._to_come = set[str]() if is_mixed else several - arrived
        self._to_end = several
        for source in self._to_come:
            state.watch((source, _TO_COME), now)

    def meet(self, chunk: Chunk) -> None:
        """Wait no more for the sources that a chunk came from."""
        if not self._to_come:
            return
        if any(ticket.is_several for ticket in chunk.tickets):  # nobody knows which
            self._have_come(set(self._to_come))
        else:
            self._have_come(self._to_come.intersection(ticket.source for ticket in chunk.tickets))

    def look(self) -> None:
        """See which sources have come elsewhere, or are over."""
        self._have_come({source for source in self._to_come if not self._arrivals.is_to_come(source)})
        over = {source for source in self._to_end if self._arrivals.is_over(source)}
        if over:
            self._to_end -= over
            for part in self._state.partitions:
                if isinstance(part, tuple) and part[0] in over:
                    self._state.forget(part)

    def _have_come(self, sources: Collection[Hashable]) -> None:
        for source in sources:
            self._state.forget((source, _TO_COME))
        self._to_come.difference_update(sources)
