"""Failure classes: what an exception says about whether trying again can help."""

import errno
from typing import Literal, get_args

FailureClass = Literal[
    "transient",
    "rate-limited",
    "resource",
    "authentication",
    "schema",
    "validation",
    "disk-full",
    "worker-died",
    "stale",
    "bug",
]

RETRYABLE: frozenset[FailureClass] = frozenset({"transient", "rate-limited", "resource", "worker-died"})
"""Classes for which trying again can help by itself."""

_ALL: frozenset[str] = frozenset(get_args(FailureClass))
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_STATUS_CLASSES: dict[int, FailureClass] = {401: "authentication", 403: "authentication", 429: "rate-limited"}
_SERVER_ERROR = 500


def classify(error: BaseException) -> FailureClass:
    """Return the failure class of an exception that user code raised.

    An exception may decide for itself with an attribute ``failure_class`` that names a class. Otherwise
    its own type, then an HTTP status that it carries (``status_code``, or ``response.status_code``, as the
    common HTTP clients do), then its cause decide; what nothing is known of is a bug and is not retried.
    """
    declared = getattr(error, "failure_class", None)
    if isinstance(declared, str) and declared in _ALL:
        return declared  # type: ignore[return-value]  # membership was just checked
    by_type = _by_type(error)
    if by_type is not None:
        return by_type
    status = _status(error)
    if status is not None:
        return _STATUS_CLASSES.get(status, "transient" if status >= _SERVER_ERROR else "bug")
    return classify(error.__cause__) if error.__cause__ is not None else "bug"


def _by_type(error: BaseException) -> FailureClass | None:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return "disk-full"
    if isinstance(error, PermissionError):
        return "authentication"
    if isinstance(error, ConnectionError | TimeoutError | InterruptedError | BlockingIOError):
        return "transient"
    if isinstance(error, MemoryError):
        return "resource"
    if getattr(error, "transient", None) is True:
        return "transient"
    return None


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return status
    return None
