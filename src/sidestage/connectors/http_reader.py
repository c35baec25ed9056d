"""Fetches pages again and again, and passes on what is new."""

import random
import time
from collections.abc import Collection, Sequence
from functools import partial
from http import HTTPStatus
from typing import Generic, TypeVar
from urllib.parse import urljoin

import msgspec
import xxhash

from sidestage.clock import SystemClock
from sidestage.connectors.aside import Aside
from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.http import Answer, HttpPoll
from sidestage.connectors.http_request import Failed, Requests, origin
from sidestage.errors import DefinitionError
from sidestage.stream.contract import Batch, Position, Positions

T = TypeVar("T")

PART = "all"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A position: an address, what its content was known by, and how many of its items were passed on.

    ``tag`` and ``date`` are the server's (ETag, Last-Modified), ``hash`` is that of the body. ``whole``: all
    of its items were, so that it need not be sent again unless it has changed.
    """

    url: str
    tag: str = ""
    date: str = ""
    hash: str = ""
    passed: int = 0
    whole: bool = False


class HttpReader(Generic[T]):
    """Asks when it is time to, never before. Used by one thread.

    Requests run in a thread of their own, so that nobody has to wait for a server who may not.
    """

    def __init__(self, source: HttpPoll[T], resume: Positions) -> None:
        self._source = source
        self._doing = f"Fetching {source.name}"
        self._clock = source.clock or SystemClock()
        self._at = _place_at(resume[PART], source) if PART in resume else Place(source.url)
        self._reached = resume.get(PART, "")
        self._requests = Requests(
            self._doing, timeout=source.timeout, most_bytes=source.most_bytes, clock=self._clock
        )
        self._aside: Aside[Answer] = Aside(self._doing)
        self._items: Sequence[T] = ()
        self._then: Place | None = None
        self._due = 0.0
        self._tries = 0
        self._over = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return items that came; or ask, if it is time to.

        Raises ConnectorError for an answer that trying again cannot cure, or was not cured by it.
        """
        if self._at.passed < len(self._items):
            return (self._piece(limit),)
        if self._over:
            return None
        if not self._aside.is_busy:
            left = self._due - self._clock.monotonic()
            if left > 0:
                time.sleep(min(left, wait))
                return ()
            self._aside.begin(
                partial(self._requests.fetch, self._at.url, self._source.headers, self._conditions())
            )
        if not self._aside.is_done(wait):
            return ()
        try:
            self._take(self._aside.take())
        except Failed as failed:
            self._tries += 1
            pause = self._source.retry.wait_before(self._tries, failed.failure_class, random.random())  # noqa: S311
            if pause is None or failed.after > self._source.longest_wait:
                raise
            self._due = self._clock.monotonic() + max(pause, failed.after)
            return ()
        self._tries = 0
        return (self._piece(limit),) if self._at.passed < len(self._items) else ()

    @property
    def is_asking(self) -> bool:
        """Whether a request is under way, or its answer was not looked at yet."""
        return self._aside.is_busy

    def stop(self) -> None:
        """Ask no more; what came is still handed over."""
        self._over = True

    def commit(self, positions: Positions) -> None:
        """Note how far everything has been dealt with: the server does not want to know."""

    def lost(self) -> Collection[str]:
        """Return nothing: nobody else reads it."""
        return ()

    def close(self) -> None:
        """Close all connections."""
        self._requests.close()

    def _piece(self, limit: int) -> Batch:
        """Return the next items; behind the last of a page, reading goes on at the next one."""
        first, at = self._reached, self._at
        items = list(self._items[at.passed : at.passed + limit])
        passed = at.passed + len(items)
        self._at = msgspec.structs.replace(at, passed=passed, whole=passed == len(self._items))
        if passed == len(self._items):
            self._turn()
        self._reached = msgspec.json.encode(self._at).decode()
        return Batch(PART, first, items, self._reached)

    def _turn(self) -> None:
        """Go to the next page, if there is one."""
        self._items = ()
        if self._then is not None:
            self._at, self._then = self._then, None

    def _take(self, answer: Answer) -> None:
        """Know what to pass on of an answer, and when to ask again."""
        at, source = self._at, self._source
        if answer.status == HTTPStatus.NOT_MODIFIED:
            self._rest()
            return
        known = xxhash.xxh3_128_hexdigest(answer.body)
        items = self._items_of(answer)
        same = known == at.hash
        passed = min(at.passed, len(items)) if same or source.grows else 0
        tag, date = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
        self._at = Place(at.url, tag, date, known, passed, passed == len(items))
        self._items = items
        following = self._following(answer)
        if following is None or following == at.url:
            self._rest()
        else:
            self._then = Place(following)
        if passed == len(items):
            self._turn()

    def _conditions(self) -> dict[str, str]:
        """Return the headers that ask for an answer only if it is another one than before.

        None with pages: that there is a next one may show in the headers, while the body stays as it was.
        """
        if not self._at.whole or self._source.next_page is not None:
            return {}
        if self._at.tag:
            return {"If-None-Match": self._at.tag}
        return {"If-Modified-Since": self._at.date} if self._at.date else {}

    def _rest(self) -> None:
        """Ask again later, or never."""
        if self._source.every is None:
            self._over = True
        else:
            self._due = self._clock.monotonic() + self._source.every

    def _items_of(self, answer: Answer) -> Sequence[T]:
        try:
            return self._source.items(answer.body)
        except Exception as error:
            raise ConnectorError(
                f"{self._doing}: no items can be made of the answer of {len(answer.body):,} bytes"
                f" ({type(error).__name__}: {error}).",
                hint="Is it what items= expects?",
                failure_class="validation",
            ) from error

    def _following(self, answer: Answer) -> str | None:
        if self._source.next_page is None:
            return None
        named = self._source.next_page(answer)
        if not named:
            return None
        following = urljoin(answer.url, named)
        if origin(following) != origin(self._source.url):
            raise ConnectorError(
                f"{self._doing}: its next page lies on another server, {origin(following)[1]}.",
                hint="Pages are followed on one server only, for the sake of the headers.",
                failure_class="bug",
            )
        return following


def _place_at(position: Position, source: HttpPoll[T]) -> Place:
    try:
        place = msgspec.json.decode(str(position), type=Place)
    except msgspec.DecodeError:
        place = None
    if place is None or origin(place.url) != origin(source.url):
        raise DefinitionError(
            f"{source.name} cannot go on from {position!r}: its positions are addresses on its server.",
            hint="The checkpoint belongs to another source.",
        )
    return place
