"""Failure classes: what an exception says about whether trying again can help."""

import errno
import socket
from collections.abc import Iterator
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
    "cancelled",
    "bug",
]

RETRYABLE: frozenset[FailureClass] = frozenset({"transient", "rate-limited", "resource", "worker-died"})
"""Classes for which trying again can help by itself."""

_ALL: frozenset[str] = frozenset(get_args(FailureClass))
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG})
_UNREACHABLE = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})
_STATUS_CLASSES: dict[int, FailureClass] = {
    401: "authentication",
    403: "authentication",
    408: "transient",
    429: "rate-limited",
}
_CLIENT_ERROR, _SERVER_ERROR, _BEYOND = 400, 500, 600


def classify(error: BaseException) -> FailureClass:
    """Return the failure class of an exception that user code raised.

    An exception may decide for itself with an attribute ``failure_class`` that names a class. Otherwise
    its own type, then an HTTP status that it carries (``status_code`` or ``status``, its own or its
    response's, as the common HTTP clients do), then what it was raised from decide; what nothing is known of
    is a bug and is not retried.
    """
    for each in _chain(error):
        declared = _attribute(each, "failure_class")
        if isinstance(declared, str) and declared in _ALL:
            return declared  # type: ignore[return-value]  # membership was just checked
        by_type = _by_type(each)
        if by_type is not None:
            return by_type
        status = _status(each)
        if status is not None:
            return _STATUS_CLASSES.get(status, "transient" if status >= _SERVER_ERROR else "bug")
    return "bug"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and what it was raised from or while handling, as a traceback shows it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        shown = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or shown


def _by_type(error: BaseException) -> FailureClass | None:
    if isinstance(error, OSError):
        return _by_system_error(error)
    if isinstance(error, MemoryError):
        return "resource"
    if _attribute(error, "transient") is True:
        return "transient"
    return None


def _by_system_error(error: OSError) -> FailureClass | None:
    if isinstance(error, PermissionError):
        return "authentication"
    if isinstance(error, ConnectionError | TimeoutError | InterruptedError | BlockingIOError):
        return "transient"
    if isinstance(error, socket.gaierror):  # its numbers are not errno's
        return "transient" if error.errno == socket.EAI_AGAIN else None
    if error.errno in _DISK_FULL:
        return "disk-full"
    if error.errno in _EXHAUSTED:
        return "resource"
    return "transient" if error.errno in _UNREACHABLE or _attribute(error, "transient") is True else None


def _status(error: BaseException) -> int | None:
    for holder in (error, _attribute(error, "response")):
        for name in ("status_code", "status"):
            status = _attribute(holder, name)
            if isinstance(status, int) and _CLIENT_ERROR <= status < _BEYOND:
                return status
    return None


def _attribute(holder: object, name: str) -> object:
    """Return an attribute, None if there is none or reading it fails: properties may do anything."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001
        return None
