"""Where a branch begins, and before its sinks: nothing passes once it is cancelled."""

from collections.abc import Callable, Sequence
from typing import Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.operators import Step
from sidestage.stream.scopes.scope import Scope


class Closing(Protocol):
    """What is closed when its worker ends."""

    def close(self) -> None:
        """Release what it holds."""
        ...


class Quiet:
    """Something that is closed once. Once its branch is cancelled an error of that is told, not raised."""

    def __init__(self, of: Closing, scope: Scope, tell: Callable[[Exception], None]) -> None:
        self._of = of
        self._scope = scope
        self._tell = tell
        self._is_closed = False

    def close(self) -> None:
        """Close it, unless that was done."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._of.close()
        except Exception as error:
            if self._scope.error is None:
                raise
            self._tell(error)


class Gate:
    """The way into a stage that may be cancelled. What comes after that is settled, and counted.

    The worker that comes by next finishes what lies behind, and closes what was opened for it.
    """

    def __init__(self, scope: Scope, following: Step, behind: Sequence[Closing]) -> None:
        self._scope = scope
        self._next = following
        self._behind = behind
        self._is_shut = self._has_finished = False

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        if self._scope.error is None:
            self._next.push(chunk)
            return
        self._scope.give_up(len(chunk.items))
        chunk.settle()
        self._shut()

    def due(self) -> float | None:
        """Return when something is due further on."""
        if self._scope.error is None:
            return self._next.due()
        self._shut()
        return None

    def tick(self, now: float) -> None:
        """Do what is due further on."""
        if self._scope.error is None:
            self._next.tick(now)

    def flush(self) -> None:
        """Have what follows pass on what it holds."""
        if self._scope.error is None:
            self._next.flush()

    def finish(self) -> None:
        """Finish what follows."""
        if not self._has_finished:
            self._has_finished = True
            self._next.finish()
        if self._scope.error is not None:
            self._shut()

    def _shut(self) -> None:
        if self._is_shut:
            return
        self._is_shut = True
        self.finish()
        for each in self._behind:
            each.close()
