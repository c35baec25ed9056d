"""What a task may know of the attempt that it runs in."""

from contextvars import ContextVar
from pathlib import Path

import msgspec

from sidestage.errors import NotFound


class Cancelled(BaseException):  # so that code that catches any Exception does not go on
    """The attempt is to stop: it was cancelled, lost its lease, or went beyond a limit.

    Raised in the task's code wherever it is. Code may clean up in ``finally`` and let it pass; it is killed
    soon after if it does not.
    """


class CurrentAttempt(msgspec.Struct, frozen=True):
    """The attempt that is being made.

    ``idempotency_key`` is the same for every attempt of this step of this run: hand it to outside systems, so
    that they do once what is asked twice. ``temporary`` is a folder that is emptied after the attempt.
    """

    run: int
    step: str
    number: int
    idempotency_key: str
    temporary: Path


_CURRENT: ContextVar[CurrentAttempt | None] = ContextVar("sidestage attempt", default=None)


def current_attempt() -> CurrentAttempt:
    """Return the attempt that the calling task runs in. Raises NotFound outside of one, as in a test."""
    attempt = _CURRENT.get()
    if attempt is None:
        raise NotFound(
            "This code is not run as an attempt of a step.",
            hint="Only a task that Sidestage runs has one; give the value as a parameter where it has not.",
        )
    return attempt


def set_current(attempt: CurrentAttempt | None) -> None:
    """Say which attempt is being made; only workers do."""
    _CURRENT.set(attempt)
