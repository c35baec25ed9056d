"""Stages of all kinds, drawn by hypothesis, each with a model of what it makes of a list of numbers."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import msgspec
from hypothesis import strategies as st
from tests.unit.stream.places import Parts

from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.policy.retry import Retry
from sidestage.policy.surge import Surge
from sidestage.stream import (
    Bulkhead,
    EventTime,
    Guard,
    SetAside,
    SideTable,
    Skip,
    Spill,
    Stream,
    Waiting,
    WindowPlan,
    collect,
    session,
    tumbling,
)
from sidestage.stream.nodes import Manner

QUICK = Restart(times=10_000, delay=0.0, longest=0.0)
ONCE_MORE = Retry(times=3, delay=0.0, longest=0.0)

Build = Callable[["Stream[Any]"], "Stream[Any]"]
Model = Callable[[list[int]], list[int]]
Stage = tuple[str, Build, Model]


class Faulty:
    """Fails for good on every 13th number, ends its worker on some once, and cannot do others at first."""

    def __init__(self, bad: int, deadly: int) -> None:
        self._bad = bad
        self._deadly = deadly
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self.__name__ = "faulty"

    def __call__(self, number: int) -> int:
        if number % 13 == self._bad:
            raise ValueError(number)
        if number % 17 == self._deadly:
            with self._lock:
                again = number in self._seen
                self._seen.add(number)
            if not again:
                if number % 2:
                    raise SystemExit(number)
                raise ConnectionError(number)
        return number

    def left(self, numbers: list[int]) -> list[int]:
        return [number for number in numbers if number % 13 != self._bad]


def same(number: int) -> int:
    return number


async def asame(number: int) -> int:
    return number


def as_row(number: int) -> dict[str, int]:
    return {"n": number}


def number_of(row: Mapping[str, int]) -> int:
    return row["n"]


def plain(name: str, build: Build) -> Stage:
    """A stage that changes nothing."""
    return name, build, list


workers = st.sampled_from([None, None, 1, 3])


class Held(msgspec.Struct, frozen=True):
    """Numbers, in something that has no length."""

    numbers: list[int]

    @property
    def size(self) -> int:
        return len(self.numbers)


def some_slowly(held: Held) -> Held:
    if held.size % 2:
        time.sleep(0.0003)  # so that a line fills up while other workers are idle
    return held


size_of = attrgetter("size")

HOLDERS: list[Build] = [
    lambda s: s.limit(Rate(20_000, burst=2)),
    lambda s: s.limit(Rate(20_000, burst=2), by=size_of, held=3),
    lambda s: s.by_key(size_of, into=4, spill=Spill(memory=10_000)).map(some_slowly, workers=3).merge(),
    lambda s: s.map(same) if is_revocable(s.node) else s.revocable(lambda some: f"size {some.size}"),
    lambda s: s.route(lambda some: "ab"[some.size % 2], "ab")["a"].merge(
        s.filter(lambda some: some.size % 2)
    ),
    lambda s: s.merge().map(asame, workers=4),
    lambda s: s.map(same, workers=2).look_up(size_of, str, lambda some, _: some),
]
"""What may be done with items that hold others."""


@st.composite
def calls(draw: st.DrawFn) -> Stage:
    """A stage that calls a function with items."""
    count, ordered = draw(workers), draw(st.booleans())
    faulty = Faulty(draw(st.integers(0, 20)), draw(st.integers(0, 25)))
    on_error = draw(st.sampled_from([None, Skip(), SetAside()]))
    match draw(st.sampled_from(["map", "timed", "guarded", "look_up", "failures"])):
        case "timed":
            return plain("timed", lambda s: s.map(same, workers=count, ordered=ordered, timeout=50.0))
        case "guarded":
            guard = Guard(bulkhead=Bulkhead(calls=2, wait=50.0))
            return plain("guarded", lambda s: s.map(same, workers=count).guarded(guard, surge=Surge()))
        case "look_up":
            manner = Manner(count, ordered)
            return plain(
                "look_up",
                lambda s: s.look_up(lambda n: n % 7, lambda key: key + 1, lambda n, _: n, manner=manner),
            )
        case "failures":

            def both(stream: Stream[Any]) -> Stream[Any]:
                done = stream.map(faulty, workers=count, ordered=ordered, retry=ONCE_MORE)
                return done.merge(done.failures().map(lambda letter: letter.item))

            return plain("failures", both)
    return (
        "map",
        lambda s: s.map(faulty, workers=count, ordered=ordered, on_error=on_error, retry=ONCE_MORE),
        faulty.left,
    )


@st.composite
def changes(draw: st.DrawFn) -> Stage:
    """A stage that changes how many items there are."""
    count, ordered, divisor = draw(workers), draw(st.booleans()), draw(st.integers(2, 5))
    match draw(st.sampled_from(["filter", "flat_map", "twice", "join_table"])):
        case "filter":
            return (
                f"filter {divisor}",
                lambda s: s.filter(lambda n: n % divisor, workers=count, ordered=ordered),
                lambda numbers: [n for n in numbers if n % divisor],
            )
        case "flat_map":
            return (
                "flat_map",
                lambda s: s.flat_map(lambda n: [n] * (n % 3), workers=count, ordered=ordered),
                lambda numbers: [n for n in numbers for _ in range(n % 3)],
            )
        case "twice":
            return (
                "twice",
                lambda s: s.map(same, workers=count).merge(s.batch(divisor).flat_map(list)),
                lambda numbers: numbers * 2,
            )
    table = SideTable({n: n for n in range(0, 1001, 2)})
    return (
        "join_table",
        lambda s: s.join_table(table, same, lambda n, _: n, workers=count),
        lambda numbers: [n for n in numbers if n % 2 == 0],
    )


@st.composite
def shapes(draw: st.DrawFn) -> Stage:
    """A stage that puts items together, or takes them apart."""
    size, count = draw(st.integers(1, 20)), draw(workers)
    within = draw(st.sampled_from([None, 0.005]))
    match draw(st.sampled_from(["batch", "lists", "tables", "splittable", "route"])):
        case "batch":
            return plain("batch", lambda s: s.batch(size, within=within).flat_map(list, workers=count))
        case "lists":
            return plain("lists", lambda s: s.map_batches(list, size, of="list", workers=count))
        case "tables":
            return plain("tables", lambda s: s.map(as_row).tables(size).rows(workers=count).map(number_of))
        case "splittable":
            faulty = Faulty(draw(st.integers(0, 20)), 99)
            return (
                "splittable",
                lambda s: s.map_batches(
                    lambda some: [faulty(n) for n in some],
                    size,
                    of="list",
                    splittable=True,
                    workers=count,
                    on_error=Skip(),
                ),
                faulty.left,
            )

    def ways(stream: Stream[Any]) -> Stream[Any]:
        found = stream.route(lambda n: "abc"[n % 3], "abc")
        return found["a"].map(same, workers=count).merge(found["b"].batch(size).flat_map(list))

    return "route", ways, lambda numbers: [n for n in numbers if n % 3 < 2]


@st.composite
def holds(draw: st.DrawFn) -> Stage:
    """A stage that is given what holds others."""
    size, which = draw(st.integers(1, 5)), draw(st.integers(0, len(HOLDERS) - 1))
    work = HOLDERS[which]
    return plain(f"holder {which}", lambda s: work(s.batch(size).map(Held)).flat_map(attrgetter("numbers")))


@st.composite
def ways(draw: st.DrawFn) -> Stage:
    """A stage that is about keys, or revocation."""
    count, size = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 9))
    keyed = {"key": lambda n: n % 5, "into": 4}
    match draw(st.sampled_from(["lines", "spill", "coroutines", "revocable"])):
        case "lines":
            return plain(
                "lines",
                lambda s: (
                    s.by_key(**keyed).map(same, workers=count).filter(lambda _: True, workers=2).merge()
                ),
            )
        case "spill":
            on_disk = draw(st.booleans())

            def spilling(stream: Stream[Any]) -> Stream[Any]:
                spill = Spill(path=tempfile.gettempdir() if on_disk else None, memory=200)
                return stream.by_key(**keyed, spill=spill).map(same, workers=2).merge()

            return plain("spill", spilling)
        case "coroutines":
            inside = draw(st.booleans())
            return plain(
                "coroutines",
                lambda s: (s.by_key(**keyed) if inside else s).map(asame, workers=size).merge(),
            )
    return plain("revocable", lambda s: s.map(same) if is_revocable(s.node) else s.revocable(same))


@st.composite
def limits(draw: st.DrawFn) -> Stage:
    """A stage that holds items back."""
    rate, held = Rate(20_000, burst=draw(st.integers(1, 9))), draw(st.integers(1, 20))
    count = draw(st.sampled_from([1, 2, 3]))

    def key(number: int) -> int:
        return number % 5

    match draw(st.sampled_from(["all", "by", "keyed"])):
        case "all":
            return plain("limit", lambda s: s.limit(rate))
        case "by":
            return plain("limit by", lambda s: s.limit(rate, by=key, held=held))
    return plain(
        "keyed limit",
        lambda s: s.by_key(key, into=4).map(same, workers=count).limit(rate, by=key, held=held).merge(),
    )


def is_revocable(node: Any) -> bool:
    return type(node).__name__ == "RevocableNode" or any(map(is_revocable, node.before))


@st.composite
def keepers(draw: st.DrawFn) -> Stage:
    """Windows, or a join, whose state belongs to a checkpoint; all that comes too late is put back in."""
    time = EventTime(
        at=float, disorder=draw(st.sampled_from([0.0, 30.0])), idle=draw(st.sampled_from([None, 0.02]))
    )
    count = draw(workers)
    if draw(st.booleans()):
        width = draw(st.sampled_from([tumbling(10), tumbling(200), session(5)]))
        plan = WindowPlan(windows=width, aggregate=collect(10_000), key=lambda n: n % 3, time=time)

        def window(stream: Stream[Any]) -> Stream[Any]:
            if count is not None:
                stream = stream.by_key(lambda n: n % 3).map(same, workers=count)
            done = stream.window(plan)
            return done.flat_map(lambda found: found.value).merge(done.late.map(lambda late: late.item))

        return plain(f"window {width}", window)
    others = draw(st.sets(st.integers(0, 1000), max_size=30))
    ahead = draw(st.sampled_from([None, 0, 100])) if time.idle is not None else None

    def join(stream: Stream[Any]) -> Stream[Any]:
        right = Stream(Parts({"r": sorted(others)}, sizes=(5,)), name="right")
        done = stream.join(
            right,
            on=(lambda n: n % 3, lambda n: n % 3),
            within=(0, 0),
            time=(time, time),
            how="left",
            manner=Manner(count),
            waiting=Waiting(ahead=ahead),
        )
        late = done.late.filter(lambda each: each.side == "left").map(lambda each: each.item)
        return done.map(lambda pair: pair[0]).merge(late)

    return plain("join", join)


stateless = st.one_of(calls(), changes(), shapes(), holds(), ways(), limits())
stages = st.one_of(stateless, stateless, keepers())
