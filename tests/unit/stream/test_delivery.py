"""Nothing is lost, nothing is committed too early: whatever the stages, the workers and the failures."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import StreamFailed
from sidestage.policy.rate import Rate
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.chunk import Ledger
from sidestage.stream.contract import Batch, Position
from sidestage.stream.failing import DeadLetter, Raise, SetAside
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream

Work = Callable[["Stream[Any]"], "Stream[Any]"]
Model = Callable[[list[Any]], list[Any]]


def fails_on(remainder: int) -> Callable[[int], int]:
    def work(number: int) -> int:
        if number % 13 == remainder:
            raise ValueError(number)
        return number + 1

    return work


@st.composite
def guards(draw: st.DrawFn, kind: str, workers: int | None) -> Work:
    """A stage that changes nothing."""
    if kind == "timed":
        return lambda stream: stream.map(lambda n: n, workers=workers, timeout=60.0)
    by = draw(st.sampled_from([None, lambda n: n % 3]))
    rate, held = Rate(20_000, burst=draw(st.integers(1, 9))), draw(st.integers(1, 20))
    return lambda stream: stream.limit(rate, by=by, held=held)


@st.composite
def stages(draw: st.DrawFn) -> tuple[Work, Model]:
    """A stage, and what it makes of a list of items that does not fail."""
    workers = draw(st.sampled_from([None, None, 1, 3]))
    ordered = draw(st.sampled_from([True, True, False]))
    match draw(st.sampled_from(["map", "timed", "filter", "flat_map", "batch", "limit", "key"])):
        case "map":
            bad = draw(st.integers(0, 20))
            work = fails_on(bad)
            return (
                lambda stream: stream.map(work, workers=workers, ordered=ordered),
                lambda items: [item + 1 for item in items if item % 13 != bad],
            )
        case "timed" | "limit" as guard:
            return draw(guards(guard, workers)), list
        case "filter":
            divisor = draw(st.integers(1, 4))
            return (
                lambda stream: stream.filter(lambda n: n % divisor, workers=workers, ordered=ordered),
                lambda items: [item for item in items if item % divisor],
            )
        case "flat_map":
            return (
                lambda stream: stream.flat_map(
                    lambda n: range(n, n + n % 3), workers=workers, ordered=ordered
                ),
                lambda items: [n for item in items for n in range(item, item + item % 3)],
            )
        case "batch":
            size = draw(st.integers(1, 20))
            return lambda stream: stream.batch(size).flat_map(lambda some: some, workers=workers), list
    return (
        lambda stream: stream.by_key(lambda n: n % 5, into=4).map(lambda n: n, workers=workers).merge(),
        list,
    )


parts = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(0, 1000), max_size=60), min_size=1, max_size=3
)
sizes = st.lists(st.integers(1, 30), min_size=1, max_size=3)
terms = st.builds(
    Settings,
    chunk=st.integers(1, 40),
    buffer=st.integers(1, 80),
    commit_every=st.sampled_from([0.0, 0.0, 10.0]),
)


class Watched(Parts):
    """A source that asks, whenever something is committed, whether all before it is where it should be."""

    def __init__(self, parts: Mapping[str, Any], sizes: Any, dealt_with: Callable[[], Counter[Any]]) -> None:
        super().__init__(parts, sizes)
        self._dealt_with = dealt_with
        self.broken: list[str] = []

    def committing(self) -> None:
        dealt = self._dealt_with()
        for part, upto in self.committed.items():
            owed = Counter(self.parts[part][: int(upto)])
            if owed - dealt:
                self.broken.append(f"{part} was committed up to {upto}, but {owed - dealt} is nowhere")


@settings(max_examples=150, deadline=None)
@given(parts, sizes, st.lists(stages(), max_size=5), terms, st.sets(st.integers(0, 1000), max_size=50))
def test_every_item_ends_in_the_sink_or_in_dead_letters(
    parts: dict[str, list[int]],
    sizes: list[int],
    chosen: list[tuple[Work, Model]],
    given_settings: Settings,
    refused: set[int],
) -> None:
    sink, letters = Kept(refuse=refused), list[DeadLetter]()
    source = Parts(parts, sizes)
    stream: Stream[Any] = Stream(source)
    wanted = [item for items in parts.values() for item in items]
    for work, model in chosen:
        stream, wanted = work(stream), model(wanted)
    ended = stream.to(sink).run(fail="soft", dead_letters=letters.append, settings=given_settings)
    at_sink = [letter.item for letter in letters if letter.stage == "kept"]
    assert Counter(sink.items) + Counter(at_sink) == Counter(wanted)
    assert source.committed == {part: len(items) for part, items in parts.items() if items}
    assert (ended.complete, ended.dead_letters) == (True, len(letters))
    assert (source.closed, sink.closed) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(parts, sizes, st.sampled_from([None, 1, 3]), terms, st.integers(1, 12), st.integers(1, 9))
def test_nothing_is_committed_that_is_not_dealt_with_and_a_second_run_does_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    parts: dict[str, list[int]],
    sizes: list[int],
    workers: int | None,
    given_settings: Settings,
    fatal_call: int,
    together: int,
) -> None:
    checkpoint = Checkpoint(tmp_path_factory.mktemp("stream") / "checkpoint")
    tagged = {part: [(part, item) for item in items] for part, items in parts.items()}
    sink, letters = Kept(fail=[fatal_call]), list[DeadLetter]()

    def dealt_with() -> Counter[Any]:
        return Counter([*sink.items, *(letter.item for letter in letters)])

    def bad(item: tuple[str, int]) -> tuple[str, int]:
        if item[1] % 13 == 0:
            raise ValueError(item)
        return item

    source = Watched(tagged, sizes, dealt_with)
    stream = Stream(source).map(bad, workers=workers, on_error=SetAside()).batch(together).flat_map(list)
    flow = stream.to(sink, on_error=Raise())
    try:
        flow.run(dead_letters=letters.append, checkpoint=checkpoint, settings=given_settings)
        failed = False
    except StreamFailed:
        failed = True
    assert failed == (sink.calls >= fatal_call)
    flow.run(dead_letters=letters.append, checkpoint=checkpoint, settings=given_settings)
    assert source.broken == []
    assert checkpoint.positions("parts") == source.committed
    owed = Counter(item for items in tagged.values() for item in items)
    assert owed - dealt_with() == Counter()
    if not failed:
        assert dealt_with() == owed


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3)), max_size=30), st.randoms())
def test_a_ledger_reaches_what_all_before_it_has_reached(made: list[tuple[str, int]], random: Any) -> None:
    ledger = Ledger()
    at: Counter[str] = Counter()
    tickets = []
    for part, holds in made:
        ticket = ledger.issue(Batch(part, at[part], [], at[part] + 1))
        at[part] += 1
        ticket.hold(holds - 1)
        tickets.append([part, ticket, holds])
    reached: dict[str, Position] = {}
    left = list(tickets)
    while left:
        each = random.choice(left)
        each[1].settle()
        each[2] -= 1
        if not each[2]:
            left.remove(each)
        reached.update(ledger.take_reached())
        for part in "ab":
            mine = [t for t in tickets if t[0] == part]
            first_open = next((n for n, t in enumerate(mine) if t[2]), len(mine))
            assert reached.get(part, 0) == first_open
    assert ledger.unsettled == 0


def test_what_was_taken_away_is_not_committed() -> None:
    ledger = Ledger()
    old = ledger.issue(Batch("a", 0, [], 10))
    other = ledger.issue(Batch("b", 0, [], 10))
    ledger.forget(["a"])
    new = ledger.issue(Batch("a", 5, [], 15))
    old.settle()
    other.settle()
    assert ledger.take_reached() == {"b": 10}
    new.settle()
    assert ledger.take_reached() == {"a": 15}


# Draining, cancelling, waiting


def test_draining_finishes_what_was_read() -> None:
    sink = Kept()
    source = Parts({"a": range(10**6)}, sizes=[10])
    engine = Stream(source).map(lambda n: n, workers=2).batch(7).flat_map(list).to(sink).engine()
    engine.start()
    assert sink.written.wait(120)
    engine.drain()
    ended = engine.join()
    assert not ended.complete
    assert sink.items == list(range(len(sink.items)))
    assert source.committed == {"a": len(sink.items)}
    assert len(sink.items) < 10**6


def test_cancelling_stops_also_those_who_wait() -> None:
    entered, release = threading.Event(), threading.Event()

    def stuck(number: int) -> int:
        entered.set()
        release.wait()
        return number

    sink = Kept()
    source = Parts({"a": range(1000)}, sizes=[10])
    engine = Stream(source).map(stuck, workers=1).to(sink, workers=1).engine(settings=Settings(10, 10))
    engine.start()
    entered.wait()
    engine.cancel()
    release.set()
    assert not engine.join().complete
    assert sink.items == [] or len(sink.items) < 1000
    assert int(source.committed.get("a", 0)) <= len(sink.items)


def test_a_batch_does_not_wait_for_ever() -> None:
    arrived = threading.Event()

    class Telling(Kept):
        def write(self, items: Any) -> None:
            super().write(items)
            arrived.set()

    def numbers() -> Iterator[int]:
        yield from range(3)
        assert arrived.wait(120), "the batch came before the source went on"
        yield 3

    sink = Telling()
    Stream(numbers()).batch(1000, within=0.01).to(sink).run()
    assert [n for batch in sink.items for n in batch] == [0, 1, 2, 3]
    assert len(sink.items) >= 2


@pytest.mark.parametrize("workers", [None, 2])
def test_an_item_does_not_wait_for_the_next_one(workers: int | None) -> None:
    arrived = threading.Semaphore(0)

    class Telling(Kept):
        def write(self, items: Any) -> None:
            super().write(items)
            arrived.release(len(items))

    def numbers() -> Iterator[int]:
        for number in range(50):
            yield number
            assert arrived.acquire(timeout=120)

    sink = Telling()
    Stream(numbers()).map(lambda n: n, workers=workers).filter(lambda _: True).to(sink).run()
    assert sink.items == list(range(50))
