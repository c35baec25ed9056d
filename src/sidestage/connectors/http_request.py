"""One request: within its time and size, with redirects, and with what went wrong said plainly."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError

from sidestage.clock import Clock
from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.http import Answer
from sidestage.policy.failure import FailureClass

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_BLOCK = 1 << 16
_SHOWN = 200

_CLIENT_FAULTS: dict[int, tuple[FailureClass, str]] = {
    401: ("authentication", "Check the headers that say who we are."),
    403: ("authentication", "Whoever we are may not read this."),
    404: ("bug", "Check the address."),
    408: ("transient", ""),
    410: ("bug", "It is gone for good: the position may be too old."),
    425: ("transient", ""),
    429: ("rate-limited", "The server allows no more for now."),
}


class Failed(ConnectorError):
    """A request that failed; ``after`` is how many seconds the server asks us to wait."""

    after: float = 0.0


class Requests:
    """Fetches for one source. ``doing`` is what errors begin with."""

    def __init__(self, doing: str, *, timeout: float, most_bytes: int, clock: Clock) -> None:
        self._doing = doing
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._clock = clock
        self._pool = urllib3.PoolManager(num_pools=4, maxsize=1, retries=False)

    def fetch(self, url: str, own: Mapping[str, str], more: Mapping[str, str]) -> Answer:
        """Return the answer to a GET; its status is 2xx or 304. Raises Failed.

        ``own`` headers are sent to the server of ``url`` alone, ``more`` to whoever answers.
        """
        end = self._clock.monotonic() + self._timeout
        more = {**urllib3.make_headers(accept_encoding=True), **more}
        at, given = url, {**own, **more}
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._once(at, given, end)
            location = answer.headers.get("location", "")
            if answer.status not in _REDIRECTS or not location:
                return self._accepted(answer)
            following = urljoin(at, location)
            if urlsplit(following).scheme not in ("http", "https"):
                raise self._failed(f"it redirects to {following[:_SHOWN]!r}", "bug")
            if origin(following) != origin(url):
                given = dict(more)
            at = following
        raise self._failed(f"it redirects more than {_MOST_REDIRECTS} times", "bug")

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _once(self, url: str, headers: Mapping[str, str], end: float) -> Answer:
        try:
            left = max(0.001, end - self._clock.monotonic())
            timeout = urllib3.Timeout(connect=min(10.0, left), read=left)
            response = self._pool.request(
                "GET", url, headers=dict(headers), preload_content=False, redirect=False, timeout=timeout
            )
            try:
                body = self._body(response, end)
            except BaseException:
                response.close()  # what is left of it is of no use to anybody
                raise
            response.release_conn()
        except SSLError as error:
            raise self._failed(f"its certificate is not accepted ({error})", "bug") from error
        except NameResolutionError as error:
            raise self._failed(f"its name is not known ({error})", "transient") from error
        except (HTTPError, OSError) as error:
            raise self._failed(f"{type(error).__name__}: {error}", "transient") from error
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(url, response.status, named, body)

    def _body(self, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
        blocks, size = [], 0
        for block in response.stream(_BLOCK, decode_content=True):
            size += len(block)
            if size > self._most_bytes:
                raise self._failed(
                    f"the body has more than {self._most_bytes:,} bytes", "resource", "Raise most_bytes."
                )
            if self._clock.monotonic() > end:
                raise self._failed(f"it took longer than {self._timeout:g} s", "transient")
            blocks.append(block)
        return b"".join(blocks)

    def _accepted(self, answer: Answer) -> Answer:
        status = answer.status
        if status == HTTPStatus.NOT_MODIFIED or HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return answer
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            fault: tuple[FailureClass, str] = ("transient", "The server has a problem.")
        else:
            fault = _CLIENT_FAULTS.get(status, ("bug", "The server does not like the request."))
        said = " ".join(answer.body[:_SHOWN].decode(errors="replace").split())
        failed = self._failed(f"it answered {status}{f' ({said})' if said else ''}", *fault)
        failed.after = self._retry_after(answer.headers.get("retry-after", ""))
        raise failed

    def _retry_after(self, value: str) -> float:
        """Return the seconds that a header says (RFC 9110, 10.2.3): a number, or a date."""
        if value.strip().isdigit():
            return float(value)
        try:
            moment = parsedate_to_datetime(value)
            return max(0.0, (moment - self._clock.now()).total_seconds())
        except (TypeError, ValueError):  # no date, or one without a time zone
            return 0.0

    def _failed(self, what: str, failure: FailureClass, hint: str = "") -> Failed:
        return Failed(f"{self._doing} failed: {what}.", hint=hint, failure_class=failure)


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
