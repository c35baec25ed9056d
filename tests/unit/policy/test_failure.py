"""Failure classes: what an exception says about trying again."""

import email.message
import errno
import socket
import subprocess
import urllib.error
from types import SimpleNamespace

import pytest

from sidestage.errors import CheckFailed, SidestageError, StaleWorld
from sidestage.policy.failure import classify


class HttpError(Exception):
    def __init__(self, **values):
        super().__init__("http")
        self.__dict__.update(values)


class Hostile(Exception):
    @property
    def response(self):
        raise RuntimeError("no response was set")

    @property
    def failure_class(self):
        raise RuntimeError("not decided")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ValueError("x"), "bug"),
        (SystemExit(1), "bug"),
        (ConnectionResetError(), "transient"),
        (ConnectionRefusedError(), "transient"),
        (BrokenPipeError(), "transient"),
        (TimeoutError(), "transient"),
        (OSError(errno.EHOSTUNREACH, "no route"), "transient"),
        (OSError(errno.ENETUNREACH, "no network"), "transient"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "transient"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "bug"),
        (OSError(errno.ENOSPC, "full"), "disk-full"),
        (OSError(errno.EDQUOT, "quota"), "disk-full"),
        (OSError(errno.EMFILE, "files"), "resource"),
        (OSError(errno.ENFILE, "files"), "resource"),
        (OSError(errno.EFBIG, "large"), "resource"),
        (OSError(errno.ENOMEM, "memory"), "resource"),
        (FileNotFoundError("x"), "bug"),
        (PermissionError(), "authentication"),
        (MemoryError(), "resource"),
        (subprocess.CalledProcessError(1, "x"), "bug"),
        (StaleWorld("x"), "transient"),
        (CheckFailed("x"), "bug"),
        (SidestageError("x"), "bug"),
        (Hostile(), "bug"),
    ],
)
def test_by_type(error, wanted):
    assert classify(error) == wanted


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (401, "authentication"),
        (403, "authentication"),
        (429, "rate-limited"),
        (408, "transient"),
        (500, "transient"),
        (503, "transient"),
        (404, "bug"),
        (422, "bug"),
    ],
)
def test_by_status_however_a_client_carries_it(status, wanted):
    assert classify(HttpError(status_code=status)) == wanted
    assert classify(HttpError(response=SimpleNamespace(status_code=status))) == wanted
    assert classify(HttpError(response=None, status=status)) == wanted
    with urllib.error.HTTPError("http://x", status, "x", email.message.Message(), None) as error:
        assert classify(error) == wanted


@pytest.mark.parametrize("status", ["503", None, 3, object()])
def test_what_is_no_status_says_nothing(status):
    assert classify(HttpError(status_code=status, status=status)) == "bug"


def raised_from(outer: BaseException, cause: BaseException) -> BaseException:
    outer.__cause__ = cause
    return outer


def test_a_cause_decides_where_the_error_says_nothing():
    assert classify(raised_from(ValueError(), OSError(errno.ENOSPC, "full"))) == "disk-full"
    assert classify(raised_from(ValueError(), raised_from(KeyError(), TimeoutError()))) == "transient"
    assert classify(raised_from(PermissionError(), TimeoutError())) == "authentication"
    assert classify(raised_from(HttpError(status_code=404), TimeoutError())) == "bug"


def test_what_was_being_handled_decides_unless_it_was_hidden():
    def call_server():
        raise TimeoutError

    def as_some_libraries_do():
        try:
            call_server()
        except TimeoutError:
            raise LookupError  # noqa: B904

    def hiding_it():
        try:
            call_server()
        except TimeoutError:
            raise LookupError from None

    with pytest.raises(LookupError) as caught:
        as_some_libraries_do()
    assert classify(caught.value) == "transient"
    with pytest.raises(LookupError) as caught:
        hiding_it()
    assert classify(caught.value) == "bug"


def test_a_circle_of_causes_ends():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first) == "bug"


def test_the_exception_itself_has_the_first_word():
    class Refused(ConnectionError):
        failure_class = "validation"

    assert classify(Refused()) == "validation"
    assert classify(HttpError(failure_class="rate-limited", status_code=500)) == "rate-limited"
    assert classify(HttpError(failure_class="no such class", status_code=500)) == "transient"
    assert classify(HttpError(failure_class=["bug"], status_code=500)) == "transient"
