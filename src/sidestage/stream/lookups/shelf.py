"""What a lookup remembers: values in use, values past their time, keys known to be unknown."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Generic, Literal, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FoundKind = Literal["known", "unknown", "stale", "default", "failed"]

_UNKNOWN_SHARE = 4  # unknown keys displace known ones only up to one entry in so many


class Found(msgspec.Struct, Generic[V], frozen=True, eq=False):
    """The answer for one key. Told apart by identity: all items with a remembered key share one.

    ``known``: the value, fresh. ``unknown``: there is no such key; the value is the default, else None.
    ``stale``: the last known value, as the lookup failed. ``default``: the declared default, as it failed and
    nothing was known. ``failed``: no value, as it failed. The last three carry the ``error``.
    """

    value: V | None
    kind: FoundKind = "known"
    error: Exception | None = None


class Shelf(Generic[K, V]):
    """At most ``entries`` keys. Not safe for threads: whoever owns it holds a lock.

    A value is fresh for ``fresh`` seconds (None: for ever), then kept as a stale one if ``keeps_stale``; an
    unknown key is known to be unknown for ``unknown`` seconds. Room is made by dropping stale values first,
    then unknown keys if they are many, then what has not been found for longest by the second-chance rule
    (Corbató, "A paging experiment with the Multics system", 1968): least recently used in effect, but noting
    that a whole chunk was found costs less than half of keeping it in order.
    """

    def __init__(self, entries: int, fresh: float | None, unknown: float, *, keeps_stale: bool) -> None:
        self._entries = entries
        self._fresh = fresh
        self._unknown_for = unknown
        self._keeps_stale = keeps_stale
        self._known: OrderedDict[K, Found[V]] = OrderedDict()
        self._marked: set[Found[V] | None] = set()  # found since they last came up for dropping
        self._due: OrderedDict[K, float] = OrderedDict()  # when known ones become stale, soonest first
        self._stale: OrderedDict[K, V | None] = OrderedDict()
        self._unknown: OrderedDict[K, float] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._known) + len(self._stale) + len(self._unknown)

    def find(self, keys: Sequence[K], now: float) -> list[Found[V] | None]:
        """Return the fresh values for keys, None where there is none.

        Raises what comparing or hashing a key raises. All loops here run in the interpreter's own code.
        """
        self._expire(now)
        found = list(map(self._known.get, keys))
        if 2 * len(self._known) > self._entries:  # before that, nothing is dropped soon
            self._marked.update(found)
        return found

    def is_unknown(self, key: K) -> bool:
        """Say whether a key was lately found to be unknown."""
        return key in self._unknown

    def stale(self, key: K, error: Exception) -> Found[V] | None:
        """Return the last known value for a key whose lookup failed."""
        return Found(self._stale[key], "stale", error) if key in self._stale else None

    def keep(self, key: K, found: Found[V], now: float) -> None:
        """Remember an answer of the lookup: a known value, or that the key is unknown."""
        if self._stale or self._unknown or key in self._known:
            self.forget(key)
        if found.kind == "unknown" and self._unknown_for <= 0:
            return
        while len(self._known) + len(self._stale) + len(self._unknown) >= self._entries:
            self._make_room()
        if found.kind == "unknown":
            self._unknown[key] = now + self._unknown_for
            return
        self._known[key] = found
        if self._fresh is not None:
            self._due[key] = now + self._fresh

    def forget(self, key: K) -> None:
        """Drop everything about a key."""
        self._marked.discard(self._known.pop(key, None))
        self._due.pop(key, None)
        self._stale.pop(key, None)
        self._unknown.pop(key, None)

    def bound(self, entries: int) -> None:
        """Keep no more than so many keys from now on."""
        self._entries = entries
        while len(self) > entries:
            self._make_room()

    def sample(self, most: int) -> list[tuple[K, V | None]]:
        """Return some keys and their values."""
        known = [(key, found.value) for key, found in islice(self._known.items(), most)]
        return known or list(islice(self._stale.items(), most))

    def _expire(self, now: float) -> None:
        while self._due and next(iter(self._due.values())) <= now:
            key, _ = self._due.popitem(last=False)
            found = self._known.pop(key)
            self._marked.discard(found)
            if self._keeps_stale:
                self._stale[key] = found.value
        while self._unknown and next(iter(self._unknown.values())) <= now:
            self._unknown.popitem(last=False)

    def _make_room(self) -> None:
        self.evicted += 1
        if self._stale:
            self._stale.popitem(last=False)
        elif not self._known or _UNKNOWN_SHARE * len(self._unknown) > self._entries:
            self._unknown.popitem(last=False)
        else:
            self._drop_known()

    def _drop_known(self) -> None:
        while True:
            key, found = self._known.popitem(last=False)
            if found not in self._marked:
                self._due.pop(key, None)
                return
            self._marked.discard(found)
            self._known[key] = found
