"""What lookups of threads and of tasks share: what is remembered, who asks, what is said instead."""

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Listener
from sidestage.policy.breaker import Circuit, CircuitOpen, Permit
from sidestage.policy.bulkhead import CallLate
from sidestage.policy.failure import classify
from sidestage.policy.fallback import FailureBudget, FallbackTurned, Mode, Spending
from sidestage.policy.limits import seconds_text
from sidestage.policy.news import News
from sidestage.stream.lookups.shelf import Found, Shelf

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """What a lookup remembers, and what it says while the lookup fails.

    At most ``entries`` keys are remembered, values for ``fresh`` seconds (None: for ever), and that a key is
    unknown for ``unknown`` seconds (0: not at all). If a lookup fails, the last known value is the answer,
    else the ``default`` if one is declared, for as long as the ``budget`` allows (None: never). Whoever waits
    for an answer that another worker asked for waits ``patience`` seconds at most. A coroutine function is
    awaited for up to ``at_once`` keys of a chunk at a time.

    Raises DefinitionError for numbers that make no sense.
    """

    entries: int = 10_000
    fresh: float | None = 300.0
    unknown: float = 30.0
    default: Any = msgspec.UNSET
    budget: FailureBudget | None = FailureBudget()
    patience: float = 60.0
    at_once: int = 16

    def __post_init__(self) -> None:
        fresh_holds = self.fresh is None or 0 < self.fresh < math.inf
        times_hold = 0 <= self.unknown < math.inf and 0 < self.patience < math.inf
        counts_hold = self.entries >= 1 and self.at_once >= 1
        if not (counts_hold and fresh_holds and times_hold):  # so that nan fails, too
            raise DefinitionError(
                f"Cache(entries={self.entries}, fresh={self.fresh}, unknown={self.unknown}, "
                f"patience={self.patience}, at_once={self.at_once}) makes no sense.",
                hint="Remember at least one entry and ask for at least one; times are seconds, above zero "
                "except unknown.",
            )


class CacheSnapshot(msgspec.Struct, frozen=True):
    """A lookup at a moment.

    Items so far: ``hits`` were remembered, ``negative`` ones were remembered as unknown, ``misses`` had to be
    asked for. Of the misses, ``joined`` waited for another worker's call, ``stale`` and ``default`` got a
    makeshift answer, ``failed`` got none. ``calls`` were made; ``evicted`` keys were dropped for want of
    room; ``entries`` are remembered now.
    """

    mode: Mode
    entries: int
    hits: int
    negative: int
    misses: int
    joined: int
    stale: int
    default: int
    failed: int
    calls: int
    evicted: int

    @property
    def makeshift(self) -> int:
        """Items that got a makeshift answer."""
        return self.stale + self.default


class Flight(Generic[V]):
    """A call for one key that is under way; ``answer`` stays None if whoever made it was stopped."""

    __slots__ = ("answer", "over", "wake")

    def __init__(self) -> None:
        self.answer: Found[V] | Exception | None = None
        self.over = False
        self.wake: tuple[Callable[[], object], ...] = ()  # seldom anybody waits: no list is made


class Search(Generic[K, V]):
    """The keys of a chunk that were not remembered: where they stand, and who asks for them."""

    __slots__ = ("flights", "mine", "places", "theirs")

    def __init__(self, places: dict[K, list[int]]) -> None:
        self.places = places
        self.flights: dict[K, Flight[V]] = {}
        self.mine: list[K] = []
        self.theirs: list[K] = []


class _Counts:
    """Running numbers of a lookup, in items except for ``calls``."""

    def __init__(self) -> None:
        self.asked = self.negative = self.misses = self.joined = 0
        self.stale = self.default = self.failed = self.calls = 0


class Desk(Generic[K, V]):
    """What is remembered by one lookup, which keys are being asked for, and what is said while that fails.

    Safe for threads. It calls no function of the user: ``open`` says what to ask for, ``settle`` takes the
    answers, ``close`` fills them in.
    """

    def __init__(
        self, name: str, cache: Cache, clock: Clock, circuit: Circuit | None, listener: Listener | None
    ) -> None:
        self._name = name
        self._cache = cache
        self._clock = clock
        self._circuit = circuit
        self._news = News(listener)
        self._lock = threading.Lock()
        self._shelf: Shelf[K, V] = Shelf(
            cache.entries, cache.fresh, cache.unknown, keeps_stale=cache.budget is not None
        )
        self._flights: dict[K, Flight[V]] = {}
        self._counts = _Counts()
        self._spending = Spending(name, cache.budget or FailureBudget(), clock)
        default = None if cache.default is msgspec.UNSET else cache.default
        self._not_there: Found[V] = Found(default, "unknown")

    def open(self, keys: Sequence[K]) -> tuple[list[Found[V] | None], Search[K, V] | None]:
        """Return what is remembered, and a search for the rest; None if there is no rest."""
        with self._lock:
            now = self._clock.monotonic()
            self._counts.asked += len(keys)
            try:
                found = self._shelf.find(keys, now)
            except Exception:  # noqa: BLE001  # a key that cannot be hashed or compared
                found = [self._find_one(key, now) for key in keys]
            if all(found):
                self._spending.count(len(keys))
                return found, None
            places: dict[K, list[int]] = {}
            for place in [place for place, each in enumerate(found) if each is None]:
                places.setdefault(keys[place], []).append(place)
            self._spending.count(len(keys) - sum(map(len, places.values())))
            return found, self._plan(places, found)

    def settle(self, key: K, answer: object, search: Search[K, V], *, called: bool) -> None:
        """Take the answer for a key of a search, and give it to whoever waits.

        An answer is a value, None for an unknown key, or the error. ``called`` is False if no call was made.
        """
        with self._lock:
            self._counts.calls += called
            self._settle(key, answer, search.flights[key], self._clock.monotonic())

    def settle_all(self, answers: Mapping[K, object], search: Search[K, V], *, called: bool) -> None:
        """Take the answers of one call for many keys."""
        with self._lock:
            self._counts.calls += called
            now = self._clock.monotonic()
            for key, answer in answers.items():
                self._settle(key, answer, search.flights[key], now)

    def abandon(self, search: Search[K, V]) -> None:
        """Give up the calls of a search that were not answered: whoever waits asks again."""
        with self._lock:
            for key in search.mine:
                flight = search.flights[key]
                if not flight.over:
                    self._land(key, flight, None)

    def awaits(self, flight: Flight[V], wake: Callable[[], object]) -> None:
        """Have ``wake`` called once a flight is over, from whichever thread ends it."""
        with self._lock:
            if flight.over:
                wake()
            else:
                flight.wake += (wake,)

    def close(self, search: Search[K, V], found: list[Found[V] | None]) -> Search[K, V] | None:
        """Fill in what a search brought; return a search for what has to be asked again, None for none."""
        again: dict[K, list[int]] = {}
        with self._lock:
            for key, places in search.places.items():
                flight = search.flights.get(key)
                if flight is None:
                    continue  # was known to be unknown
                answer = flight.answer if flight.over else self._late(key, flight)
                if not isinstance(answer, Found):  # another one may have asked meanwhile, and been answered
                    answer = self._shelf.find((key,), self._clock.monotonic())[0] or answer
                if answer is None:
                    again[key] = places
                    continue
                if isinstance(answer, Exception):
                    answer = self._instead(key, answer, len(places))
                else:
                    self._spending.count(len(places))
                for place in places:
                    found[place] = answer
            if not again:
                return None
            items = sum(map(len, again.values()))  # counted a second time by the plan
            self._counts.misses -= items
            self._counts.joined -= items
            return self._plan(again, found)

    def ask_leave(self) -> Permit | CircuitOpen | None:
        """Return leave for a call, or why it may not be made; None if nothing guards it."""
        permit = None if self._circuit is None else self._circuit.permit()
        if not isinstance(permit, float):
            return permit
        return CircuitOpen(
            f"{self._name!r} was not asked: its circuit stays open for {seconds_text(permit)}.",
            hint="It is tried again by itself; look at why it failed.",
        )

    def judge(self, permit: Permit | None, error: BaseException | None) -> None:
        """Tell the circuit how a call ended."""
        if self._circuit is None or permit is None:
            return
        if error is None:
            self._circuit.succeeded(permit)
        elif isinstance(error, Exception):
            self._circuit.failed(permit, classify(error))
        else:
            self._circuit.withdrawn(permit)

    def tell(self) -> None:
        """Tell the listener what there is to tell."""
        self._news.tell()

    def forget(self, keys: Sequence[K]) -> None:
        """Drop everything about keys; calls under way for them are not remembered."""
        with self._lock:
            for key in keys:
                self._shelf.forget(key)
                self._flights.pop(key, None)

    def bound(self, entries: int) -> None:
        """Remember no more than so many keys from now on, nor more than the cache says."""
        with self._lock:
            self._shelf.bound(min(entries, self._cache.entries))

    def sample(self, most: int) -> list[tuple[K, V | None]]:
        """Return some keys that are remembered, and their values."""
        with self._lock:
            return self._shelf.sample(most)

    def __len__(self) -> int:
        return len(self._shelf)

    def snapshot(self) -> CacheSnapshot:
        """Return what there is to see."""
        with self._lock:
            counts = self._counts
            return CacheSnapshot(
                mode=self._spending.mode,
                entries=len(self._shelf),
                hits=counts.asked - counts.negative - counts.misses,
                negative=counts.negative,
                misses=counts.misses,
                joined=counts.joined,
                stale=counts.stale,
                default=counts.default,
                failed=counts.failed,
                calls=counts.calls,
                evicted=self._shelf.evicted,
            )

    def _find_one(self, key: K, now: float) -> Found[V] | None:
        try:
            return self._shelf.find((key,), now)[0]
        except Exception as error:  # noqa: BLE001  # whatever hashing or comparing it raises
            self._counts.misses += 1
            self._counts.failed += 1
            return Found(None, "failed", error)

    def _plan(self, places: dict[K, list[int]], found: list[Found[V] | None]) -> Search[K, V] | None:
        search: Search[K, V] = Search(places)
        for key, where in places.items():
            flight = self._flights.get(key)
            if flight is not None:
                search.theirs.append(key)
                self._counts.joined += len(where)
            elif self._shelf.is_unknown(key):
                for place in where:
                    found[place] = self._not_there
                self._counts.negative += len(where)
                continue
            else:
                flight = self._flights[key] = Flight()
                search.mine.append(key)
            search.flights[key] = flight
            self._counts.misses += len(where)
        return search if search.flights else None

    def _settle(self, key: K, answer: object, flight: Flight[V], now: float) -> None:
        kept: Found[V] | Exception
        if isinstance(answer, Exception):
            kept = answer
            self._spending.failed()
        else:
            kept = self._not_there if answer is None else Found(answer)  # type: ignore[arg-type]
            if self._flights.get(key) is flight:  # nobody said to forget it meanwhile
                self._shelf.keep(key, kept, now)
            if self._spending.mode != "normal":
                self._note(self._spending.succeeded())
        self._land(key, flight, kept)

    def _note(self, turned: FallbackTurned | None) -> None:
        if turned is not None:
            self._news.note(turned)

    def _land(self, key: K, flight: Flight[V], answer: Found[V] | Exception | None) -> None:
        flight.answer, flight.over = answer, True
        if self._flights.get(key) is flight:
            del self._flights[key]
        for wake in flight.wake:
            wake()

    def _late(self, key: K, flight: Flight[V]) -> Exception:
        if self._flights.get(key) is flight:
            del self._flights[key]  # the next one asks anew
        return CallLate(
            f"Another worker asked {self._name!r} for the same key and got no answer within "
            f"{seconds_text(self._cache.patience)}.",
            hint="Give the lookup a timeout of its own.",
        )

    def _instead(self, key: K, error: Exception, items: int) -> Found[V]:
        makeshift = self._shelf.stale(key, error)
        if makeshift is None and self._cache.default is not msgspec.UNSET:
            makeshift = Found(self._cache.default, "default", error)
        if makeshift is not None and self._cache.budget is not None:
            allowed, turned = self._spending.allow(items, f"a call failed ({classify(error)})")
            self._note(turned)
            if allowed:
                if makeshift.kind == "stale":
                    self._counts.stale += items
                else:
                    self._counts.default += items
                return makeshift
        self._counts.failed += items
        return Found(None, "failed", error)
