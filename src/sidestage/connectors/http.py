"""Something that is fetched over HTTP again and again, as a source of a stream. Needs the extra ``http``.

A position says which address comes next, what its content was known by, and how many of its items were passed
on already.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec

from sidestage.clock import Clock
from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.policy.retry import Retry
from sidestage.stream.contract import Positions

if TYPE_CHECKING:
    from sidestage.connectors.http_reader import HttpReader

T = TypeVar("T")

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[^\s=;,]+\s*=\s*(?:"[^"]*"|[^\s";,]*))*)')
_RELATION = re.compile(r';\s*rel\s*=\s*"?([^";]*)', re.IGNORECASE)


class Answer(msgspec.Struct, frozen=True):
    """What a server answered: headers by lower-case name, and the whole body, decompressed."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpPoll(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Items of what is at ``url``, fetched every ``every`` seconds; once, if that is None.

    ``items`` makes items of a body, such as ``msgspec.json.decode``. What has not changed since (ETag,
    Last-Modified, or byte for byte) brings none. With ``grows`` a body that has changed begins with the items
    that it had before, and only the rest is passed on; else all of it.

    ``next_page`` returns where an answer says that more is, absolute or relative to it, or None at the end:
    ``linked_page`` knows the header Link. At the end the last page is fetched again. Pages lie on one server;
    ``headers`` are sent to no other, also if it redirects there.

    A request may take ``timeout`` seconds as a whole, and a body may have ``most_bytes``. What trying again
    can cure (no connection, a timeout, 408, 429, 5xx) is tried again as ``retry`` says, but not before the
    server's Retry-After; if that is more than ``longest_wait`` seconds, it fails. Raises DefinitionError.
    """

    url: str
    items: Callable[[bytes], Sequence[T]]
    every: float | None = 60.0
    next_page: Callable[[Answer], str | None] | None = None
    grows: bool = False
    headers: Mapping[str, str] = {}
    timeout: float = 30.0
    most_bytes: int = 64 << 20
    retry: Retry = Retry(times=8, delay=0.5, longest=60.0)
    longest_wait: float = 3600.0
    clock: Clock | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise DefinitionError(f"{self.name} is no address.", hint="Use https://host/path.")
        numbers = (self.timeout, self.most_bytes, 1.0 if self.every is None else self.every)
        if not all(number > 0 for number in numbers):
            raise DefinitionError(
                f"{self.name}: every, timeout and most_bytes are above zero.", hint="every=None fetches once."
            )

    def __repr__(self) -> str:
        return f"HttpPoll({self.name!r})"  # headers and the query may hold a secret

    @property
    def name(self) -> str:
        """What people call it: the address without user and query."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"

    def open(self, resume: Positions) -> "HttpReader[T]":
        """Begin. Raises DefinitionError for a position of another source; asks the server for nothing yet."""
        try:
            import urllib3  # noqa: F401, PLC0415 - comes with an extra
        except ImportError as error:
            raise ConfigurationError(
                "HTTP needs the package urllib3.", hint="pip install 'sidestage[http]'"
            ) from error
        from sidestage.connectors.http_reader import HttpReader  # noqa: PLC0415 - needs an extra

        return HttpReader(self, resume)


def linked_page(answer: Answer) -> str | None:
    """Return the next page as the header Link names it (RFC 8288, rel="next"), or None."""
    for address, more in _LINK.findall(answer.headers.get("link", "")):
        relation = _RELATION.search(more)
        if relation is not None and "next" in relation[1].lower().split():
            return str(urljoin(answer.url, address))
    return None
