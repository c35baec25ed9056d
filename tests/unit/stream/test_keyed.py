"""Keys that several workers share: what one of them holds up, what overflows, and what is left of it."""

import asyncio
import gc
import os
import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DataError, DefinitionError, StreamFailed
from sidestage.events import Event
from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.stream.chunk import Origin
from sidestage.stream.failing import DeadLetter, Default
from sidestage.stream.keys.hot_keys import HotKey, SpillFull
from sidestage.stream.keys.spill import Spill, Store
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.testing.turned_clock import HandClock

SMALL = Settings(chunk=8, buffer=32)
SECONDS = 30.0
"""After which a test that waits for something has failed."""

Item = tuple[int, int]


def key_of(item: Item) -> int:
    return item[0]


def mixed(count: int, keys: int = 20) -> list[Item]:
    """Return items of which every other has the key 0, and the others one of the next keys."""
    return [(0 if n % 2 else 1 + n // 2 % (keys - 1), n) for n in range(count)]


def in_order(items: Iterable[Item]) -> dict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for key, number in items:
        found[key].append(number)
    return dict(found)


class Gate:
    """A function that lets items of the key 0 pass only while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, item: Item) -> Item:
        if item[0] == 0:
            self.reached.set()
            assert self.open.wait(SECONDS)
        return item


class Until(Kept):
    """A sink that tells when all that is wanted has come."""

    def __init__(self, wanted: Iterable[Any]) -> None:
        super().__init__()
        self.left = set(wanted)
        self.all_came = threading.Event()

    def write(self, items: Sequence[Any]) -> None:
        super().write(items)
        self.left.difference_update(items)
        if not self.left:
            self.all_came.set()


def not_in_line(items: Sequence[Item], lines: int) -> list[Item]:
    """Return those that do not wait in one line with the key 0."""
    return [item for item in items if item[0] % lines]


# A key that takes long


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_other_keys_go_on_while_the_function_of_one_key_blocks(where: str, tmp_path: Path) -> None:
    items, gate = mixed(4000), Gate()
    sink, source = Until(not_in_line(items, 8)), Parts({"a": items}, sizes=[8])
    spill = Spill() if where == "memory" else Spill(tmp_path, memory=0)
    stream = Stream(source).by_key(key_of, into=8, spill=spill).map(gate, workers=2)
    engine = stream.to(sink).engine(settings=SMALL)
    engine.start()
    assert sink.all_came.wait(SECONDS), f"{len(sink.left)} items wait for the key that blocks"
    assert all(key % 8 for key, _ in sink.items), "the line of the key that blocks stays where it is"
    assert source.committed == {}, "nothing is acknowledged that waits"
    gate.open.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(items)
    assert source.committed == {"a": 4000}
    assert list(tmp_path.iterdir()) == []


def test_without_room_the_stream_waits_and_tells_for_which_key() -> None:
    items, gate, clock, events = mixed(4000), Gate(), HandClock(), list[HotKey]()
    told = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, HotKey):
            events.append(event)
            told.set()

    sink = Until(items)
    stream = Stream(items).by_key(key_of, into=8).map(gate, workers=2, name="slow")
    engine = stream.to(sink).engine(settings=SMALL, clock=clock, listener=listen)
    engine.start()
    assert gate.reached.wait(SECONDS)
    for _ in range(600):
        clock.advance(0.2)
        if told.wait(0.05):
            break
    (event,) = events
    assert (event.stage, event.key, event.held) == ("slow", "0", True)
    assert event.waiting >= 8
    assert event.share > 0.5, "and hardly anything else waits"
    assert not sink.all_came.is_set()
    gate.open.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(items)


def test_what_overflows_is_told_once_in_a_while() -> None:
    items, gate, events = mixed(4000), Gate(), list[Event]()
    sink = Until(not_in_line(items, 8))
    stream = Stream(items).by_key(key_of, into=8, spill=Spill()).map(gate, workers=2, name="slow")
    engine = stream.to(sink).engine(settings=SMALL, clock=HandClock(), listener=events.append)
    engine.start()
    assert sink.all_came.wait(SECONDS)
    gate.open.set()
    engine.join()
    (event,) = [event for event in events if isinstance(event, HotKey)]
    assert (event.stage, event.key, event.held) == ("slow", "0", False)


def test_a_spill_that_is_full_makes_the_stream_wait_and_loses_nothing(tmp_path: Path) -> None:
    items, gate, events = mixed(4000), Gate(), list[Event]()
    full = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, SpillFull):
            full.set()

    sink = Until(items)
    keyed = Stream(items).by_key(key_of, into=8, spill=Spill(tmp_path, memory=2000, most=5000))
    engine = keyed.map(gate, workers=2, name="slow").to(sink).engine(settings=SMALL, listener=listen)
    engine.start()
    assert full.wait(SECONDS)
    assert not sink.all_came.is_set()
    gate.open.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(items)
    assert [event.why for event in events if isinstance(event, SpillFull)] == ["5,000 bytes on disk are full"]


def test_several_stages_share_keys_and_in_each_the_other_keys_go_on() -> None:
    items, gate = mixed(4000), Gate()
    sink, source = Until(not_in_line(items, 8)), Parts({"a": items}, sizes=[8])
    stream = Stream(source).by_key(key_of, into=8, spill=Spill()).filter(bool)
    stream = stream.map(lambda item: item, workers=2).map(gate, workers=2).map(lambda item: item, workers=3)
    engine = stream.to(sink).engine(settings=SMALL)
    engine.start()
    assert sink.all_came.wait(SECONDS), f"{len(sink.left)} items wait for the key that blocks"
    assert all(key for key, _ in sink.items)
    gate.open.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(items)
    assert source.committed == {"a": 4000}


# Coroutines


def test_the_next_item_of_a_key_waits_for_the_former_and_other_keys_go_on() -> None:
    items = mixed(600)
    busy, at_once, most = set[int](), 0, 0
    opened = threading.Event()
    sink = Until(not_in_line(items, 32))

    async def work(item: Item) -> Item:
        nonlocal at_once, most
        assert item[0] not in busy, "two of one key at once"
        busy.add(item[0])
        at_once += 1
        most = max(most, at_once)
        if item[0] == 0:
            await asyncio.to_thread(opened.wait, SECONDS)
        await asyncio.sleep(0)
        at_once -= 1
        busy.remove(item[0])
        return item

    stream = Stream(items).by_key(key_of, into=16, spill=Spill()).map(work, workers=8)
    engine = stream.map(lambda item: item, workers=2).to(sink).engine(settings=SMALL)
    engine.start()
    assert sink.all_came.wait(SECONDS), f"{len(sink.left)} items wait for the key that blocks"
    opened.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(items)
    assert 1 < most <= 8


def test_coroutines_after_other_stages_keep_the_order_of_keys_too() -> None:
    items, busy = mixed(400), set[int]()

    async def work(item: tuple[str, int]) -> Item:
        key = int(item[0])
        assert key not in busy
        busy.add(key)
        await asyncio.sleep(0)
        busy.remove(key)
        return key, item[1]

    sink = Kept()
    stream = Stream(items).by_key(key_of).map(lambda item: (str(item[0]), item[1])).map(work, workers=20)
    stream.to(sink).run(settings=SMALL)
    assert in_order(sink.items) == in_order(items)


def test_errors_of_coroutines_with_keys_concern_their_items_only() -> None:
    async def picky(item: Item) -> Item:
        if item[1] % 10 == 3:
            raise ValueError(item)
        return item

    items, letters, sink = mixed(200), list[DeadLetter](), Kept()
    source = Parts({"a": items})
    stream = Stream(source).by_key(key_of).map(picky, workers=8)
    stream.to(sink).run(fail="soft", dead_letters=letters.append, settings=SMALL)
    assert in_order(sink.items) == in_order(item for item in items if item[1] % 10 != 3)
    assert sorted(letter.item[1] for letter in letters) == list(range(3, 200, 10))
    assert all(letter.origin is not None for letter in letters)
    assert source.committed == {"a": 200}


@pytest.mark.parametrize("how", ["coroutines", "threads"])
def test_a_revoked_key_leaves_its_line_and_what_was_put_aside_of_it(how: str) -> None:
    items, reached, opened, cleaned = mixed(2000), threading.Event(), threading.Event(), list[Item]()
    sink, source = Until(item for item in items if item[0]), Parts({"a": items}, sizes=[8])

    async def waits(item: Item) -> Item:
        if item[0] == 0:
            reached.set()
            await asyncio.Event().wait()
        return item

    def blocks(item: Item) -> Item:
        if item[0] == 0:
            reached.set()
            assert opened.wait(SECONDS)
        return item

    keyed = Stream(source).revocable(by=key_of, clean_up=cleaned.append).by_key(key_of, into=8, spill=Spill())
    keyed = keyed.map(waits, workers=2) if how == "coroutines" else keyed.map(blocks, workers=2)
    engine = keyed.to(sink).engine(settings=SMALL)
    engine.start()
    assert reached.wait(SECONDS)
    engine.revoke(0)
    opened.set()
    assert engine.join().complete
    assert in_order(sink.items) == in_order(item for item in items if item[0])
    assert sorted(cleaned) == sorted(item for item in items if not item[0])
    assert source.committed == {"a": 2000}


# Whatever happens


class Odd:
    """An item that pickle refuses, or that cannot be read back."""

    def __init__(self, item: Item, how: str) -> None:
        self.item = item
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == "refuses":
            raise TypeError("this one stays here")
        return _broken, (self.item,)


def _broken(item: Item) -> Any:
    raise ValueError(f"{item} is broken")


class Odds(NamedTuple):
    """How a stream is laid out, and how much of it there is room for."""

    workers: int
    into: int
    chunk: int
    memory: int
    most: int
    again: bool


odds = st.builds(
    Odds,
    workers=st.integers(2, 3),
    into=st.integers(3, 5),
    chunk=st.integers(1, 16),
    memory=st.sampled_from([0, 100, 1000]),
    most=st.sampled_from([300, 10_000]),
    again=st.booleans(),
)


@tried(deadline=None, max_examples=60)
@given(
    keys=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6]), max_size=40).flatmap(
        lambda keys: st.integers(1, 8).map(lambda times: keys * times)
    ),
    failing=st.sets(st.integers(0, 199), max_size=20),
    dying=st.sets(st.integers(0, 199), max_size=2),
    odds=odds,
)
def test_order_by_key_holds_and_nothing_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], failing: set[int], dying: set[int], odds: Odds
) -> None:
    items = [(key, number) for number, key in enumerate(keys)]
    turn, dead = threading.Semaphore(0), set[int]()

    def work(item: Item) -> Item:
        if item[0] == 0:
            turn.acquire(timeout=0.002)  # slow enough that its line is full, and others wait for nothing
        if item[1] in dying and item[1] not in dead:
            dead.add(item[1])
            raise SystemExit
        if item[1] in failing:
            raise ValueError(item)
        return item

    folder = tmp_path_factory.mktemp("spill")
    sink, letters, source = (
        Kept(),
        list[DeadLetter](),
        Parts({"a": items[::2], "b": items[1::2]}, sizes=[odds.chunk]),
    )
    stream = Stream(source).by_key(
        lambda item: item[0], into=odds.into, spill=Spill(folder, odds.memory, odds.most)
    )
    stream = stream.map(work, workers=odds.workers)
    if odds.again:
        stream = stream.flat_map(lambda item: [item], workers=2)
    restart = Restart(delay=0.0, times=50)
    stream.to(sink).run(
        fail="soft",
        dead_letters=letters.append,
        settings=Settings(odds.chunk, buffer=odds.into, restart=restart),
    )
    assert sorted([*sink.items, *(letter.item for letter in letters)]) == sorted(items)
    assert {letter.item[1] for letter in letters} == failing & set(range(len(items)))
    for parity in (0, 1):  # each part of the source is in order
        came = in_order(item for item in sink.items if item[1] % 2 == parity)
        sent = in_order(item for item in items if item[1] % 2 == parity and item[1] not in failing)
        assert came == sent
    for letter in letters:
        assert letter.origin is not None
        at = int(letter.origin.first) + letter.origin.index
        assert source.parts[letter.origin.part][at] == letter.item
    assert source.committed == {part: len(some) for part, some in source.parts.items() if some}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["refuses", "breaks"])
def test_an_item_that_cannot_be_spilled_is_an_error_of_its_own(how: str) -> None:
    items: list[Any] = [*mixed(400)]
    odd = Odd((0, 301), how)
    items[301] = odd
    gate, letters = Gate(), list[DeadLetter]()
    sink, source = Until(not_in_line([*items[:301], *items[302:]], 8)), Parts({"a": items}, sizes=[8])
    keyed = Stream(source).by_key(lambda item: 0 if item is odd else item[0], into=8, spill=Spill())
    engine = (
        keyed.map(gate, workers=2).to(sink).engine(settings=SMALL, fail="soft", dead_letters=letters.append)
    )
    engine.start()
    assert sink.all_came.wait(SECONDS)
    gate.open.set()
    engine.join()
    (letter,) = letters
    assert (letter.stage, letter.origin) == ("by_key", Origin("a", 296, 5))
    assert "spilled" in str(letter.error)
    assert letter.item is odd if how == "refuses" else isinstance(letter.item, bytes)
    assert in_order(sink.items) == in_order([*mixed(400)[:301], *mixed(400)[302:]])
    assert source.committed == {"a": 400}


def test_a_default_key_does_not_help_an_item_that_cannot_be_spilled() -> None:
    gate = Gate()
    items: list[Any] = [*mixed(100), *(Odd((0, n), "refuses") for n in range(100))]
    keyed = Stream(items).by_key(
        lambda item: 0 if isinstance(item, Odd) else item[0], into=8, spill=Spill(), on_error=Default(0)
    )
    engine = keyed.map(gate, workers=2).to(Kept()).engine(settings=SMALL)
    engine.start()
    assert gate.reached.wait(SECONDS)
    while not engine.is_over and not gate.open.wait(0.05):
        if engine._halt.is_set:
            gate.open.set()
    with pytest.raises(StreamFailed, match="cannot be spilled"):
        engine.join()


@pytest.mark.parametrize("how", ["cancel", "drain", "fail"])
def test_no_files_stay_behind(how: str, tmp_path: Path) -> None:
    items, gate = mixed(4000), Gate()
    sink, source = Until(not_in_line(items[:2000], 8)), Parts({"a": items}, sizes=[8])

    def fails(item: Item) -> Item:
        if how == "fail" and item[1] == 2200 and item[0]:
            raise ValueError(item)
        return item

    keyed = Stream(source).map(fails).by_key(key_of, into=8, spill=Spill(tmp_path, memory=0))
    engine = keyed.map(gate, workers=2).to(sink).engine(settings=SMALL)
    engine.start()
    assert sink.all_came.wait(SECONDS)
    store = next(iter(engine._assembly.stores.values()))
    assert store.on_disk > 0
    if how == "cancel":
        engine.cancel()
    elif how == "drain":
        engine.drain()
    gate.open.set()
    if how == "fail":
        with pytest.raises(StreamFailed):
            engine.join()
    else:
        assert not engine.join().complete
    assert store.on_disk == 0
    assert list(tmp_path.iterdir()) == []
    if how == "drain":
        read = source.committed["a"]
        assert in_order(sink.items) == in_order(items[: int(read)])


def test_what_cannot_be_read_back_ends_the_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(*_: Any) -> bytes:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Store, "take", gone)
    items, gate = mixed(400), Gate()
    sink, source = Until(not_in_line(items, 8)), Parts({"a": items}, sizes=[8])
    keyed = Stream(source).by_key(key_of, into=8, spill=Spill(tmp_path, memory=0))
    engine = keyed.map(gate, workers=2).to(sink).engine(settings=SMALL)
    engine.start()
    assert sink.all_came.wait(SECONDS)
    gate.open.set()
    with pytest.raises(DataError, match="cannot be read back"):
        engine.join()
    assert source.committed.get("a", 0) < 400


# What makes no sense


def test_defaults_that_are_no_key_or_not_several_items_are_refused() -> None:
    with pytest.raises(DefinitionError, match=r"\[1\], is no key") as error:
        Stream([1]).by_key(abs, on_error=Default([1]))
    assert "hashed" in error.value.hint
    for bad in (7, None, iter([])):
        with pytest.raises(DefinitionError, match="not several items"):
            Stream([1]).flat_map(range, on_error=Default(bad))
    assert list(Stream([1, "x"]).flat_map(range, on_error=Default([7]))) == [0, 7]  # type: ignore[arg-type]


def test_a_default_key_and_a_key_had_at_last_lead_where_others_of_it_are() -> None:
    died = set[int]()

    def key(number: int) -> Any:
        if number % 5 == 0:
            raise ValueError(number)
        if number % 5 == 1 and number not in died:
            died.add(number)
            raise SystemExit
        return "others" if number % 5 == 2 else 2**64 + number % 5

    busy = set[str]()

    def work(number: int) -> int:
        mine = "others" if number % 5 in {0, 2} else str(number % 5)
        assert mine not in busy
        busy.add(mine)
        busy.remove(mine)
        return number

    sink, settings = Kept(), Settings(chunk=3, buffer=9, restart=Restart(delay=0.0, times=1000))
    stream = Stream(range(300)).by_key(key, into=7, on_error=Default("others")).map(work, workers=3)
    stream.to(sink).run(settings=settings)
    for which in ({0, 2}, {1}, {3}, {4}):
        mine = [number for number in sink.items if number % 5 in which]
        assert mine == sorted(n for n in range(300) if n % 5 in which)


def test_spilling_is_refused_where_it_would_do_nothing_or_harm(tmp_path: Path) -> None:
    keyed = Stream(mixed(2)).by_key(key_of, spill=Spill())
    with pytest.raises(DefinitionError, match="no stage has several workers"):
        keyed.map(key_of).to(Kept()).run()
    limited = keyed.map(lambda item: item, workers=2).limit(Rate(10), by=key_of)
    with pytest.raises(DefinitionError, match="cannot spill"):
        limited.to(Kept()).run()
    with pytest.raises(DefinitionError, match="no sense"):
        Spill(memory=0)
    with pytest.raises(DefinitionError, match="no sense"):
        Spill(tmp_path, most=-1)
    (tmp_path / "file").touch()
    with pytest.raises(DefinitionError, match="Nothing can be spilled"):
        Store(Spill(tmp_path / "file" / "folder"))


def test_a_description_says_where_items_wait(tmp_path: Path) -> None:
    keyed = (
        Stream(mixed(2), name="clicks")
        .filter(bool)
        .by_key(key_of, into=8, spill=Spill(tmp_path, 1024, 10240))
    )
    flow = keyed.filter(bool).map(key_of, workers=2, name="slow").to(Kept())
    assert flow.explain(Settings(chunk=10, buffer=100)).splitlines() == [
        "clicks + bool + by_key [into 8, spills 1,024 bytes in memory and 10,240 on disk] + bool-2  (1 thread)",
        "bool-2 --[8 lines, 200 items]--> slow  (2 threads, in order by key)",
        "slow --[100 items]--> > kept  (1 thread)",
        "4 threads; at most 540 items under way, and what batches, windows and spills hold",
    ]


# A million keys


def test_a_million_keys_leave_nothing_behind() -> None:
    seen = list[int]()

    def numbers() -> Iterator[int]:
        for number in range(1_000_000):
            if number in {200_000, 999_999}:
                gc.collect()
                seen.append(tracemalloc.get_traced_memory()[0])
            yield number

    total = 0

    class Counting(Kept):
        def write(self, items: Sequence[Any]) -> None:
            nonlocal total
            total += len(items)

    tracemalloc.start()
    try:
        flow = Stream(numbers()).by_key(lambda n: n, spill=Spill()).map(abs, workers=2).to(Counting())
        flow.run()
    finally:
        tracemalloc.stop()
    assert total == 1_000_000
    early, late = seen
    assert late - early < 4 * 1024**2, "a hundredth of what it would take to remember them"
