"""What is known of one stage that may be cancelled: whether it was, by whom, and what was given up then."""

import threading

from sidestage.policy.failure import FailureClass


class Cancelled(Exception):
    """Somebody cancelled the worker that had an item in hand, or the stage; the text says who, and why."""

    failure_class: FailureClass = "cancelled"


class Scope:
    """One stage of a run. ``error`` is set once it is cancelled; safe for threads."""

    __slots__ = ("_count", "_lock", "error")

    def __init__(self) -> None:
        self.error: Cancelled | None = None
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """How many items were given up because it was cancelled."""
        return self._count

    def give_up(self, items: int) -> None:
        """Note that so many items were given up."""
        with self._lock:
            self._count += items
