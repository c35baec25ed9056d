"""Waiting in a stage that may be cancelled: it ends early then, and the item is given up."""

from sidestage.stream.failing import Halt
from sidestage.stream.scopes.scope import Cancelled, Scope

_LOOK_SECONDS = 0.1


class ScopedHalt(Halt):
    """Whether everybody is to stop, as ``whole`` says; waiting also ends when the stage is cancelled.

    Only for those who wait where an error is an item's own.
    """

    def __init__(self, whole: Halt, scope: Scope) -> None:
        self._whole = whole
        self._scope = scope

    @property
    def is_set(self) -> bool:
        """Whether everybody is to stop."""
        return self._whole.is_set

    def stop(self, error: BaseException | None = None) -> None:
        """Have everybody stop."""
        self._whole.stop(error)

    def wait(self, seconds: float) -> bool:
        """Wait, unless everybody is to stop; return whether that is so. Raises Cancelled."""
        while seconds > 0:
            if self._scope.error is not None:
                raise Cancelled(*self._scope.error.args)
            if self._whole.wait(min(seconds, _LOOK_SECONDS)):
                return True
            seconds -= _LOOK_SECONDS
        return self._whole.is_set
