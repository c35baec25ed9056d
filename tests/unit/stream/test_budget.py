"""One budget of memory for a whole stream: never above it, always to the end, all of it given back."""

import asyncio
import struct
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.clock import SystemClock
from sidestage.errors import DefinitionError, ItemTooLarge, StreamFailed, WindowsFull
from sidestage.stream.assembly import Assembly
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.chunk import Chunk, Ledger, Origin
from sidestage.stream.contract import Batch
from sidestage.stream.engine import Engine
from sidestage.stream.failing import DeadLetter, FailMode
from sidestage.stream.flow import Flow
from sidestage.stream.lookups.cache import Cache
from sidestage.stream.memory.budget import Budget, Hop, MemoryCounts
from sidestage.stream.memory.weights import decoded_pixels, weigh
from sidestage.stream.observing.exposition import exposition
from sidestage.stream.places.sinks import Called
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import collect, count
from sidestage.stream.windows.plan import WindowPlan, session, tumbling
from sidestage.stream.windows.watermarks import EventTime

MIB = 1 << 20


class Blobs:
    """Makes bytes of given sizes; each begins with its number."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.made = 0

    def __iter__(self) -> Iterator[bytes]:
        for number, size in enumerate(self.sizes):
            self.made += 1
            yield number.to_bytes(4, "big") + bytes(size)


def number_of(blob: bytes) -> int:
    return int.from_bytes(blob[:4], "big")


def start(flow: Flow, given: Settings, *, letters: list[DeadLetter] | None = None) -> tuple[Engine, Budget]:
    """Start a flow; failures end it, unless there is a place for dead letters."""
    clock = SystemClock()
    fail: FailMode = "fast" if letters is None else "soft"
    post = None if letters is None else letters.append
    assembly = Assembly(flow.layout(), given, clock, fail=fail, post=post, listener=None)
    engine = Engine(assembly, given, clock)
    engine.start()
    assert assembly.budget is not None
    return engine, assembly.budget


def run(
    flow: Flow, memory: int | str, *, letters: list[DeadLetter] | None = None, **terms: Any
) -> tuple[Ended, MemoryCounts]:
    """Run a flow to its end, and see that all memory was given back."""
    engine, budget = start(flow, Settings(memory=memory, **terms), letters=letters)
    ended = engine.join()
    assert budget.left == 0
    assert ended.memory is not None
    assert ended.memory.used == 0
    return ended, ended.memory


# What is declared


@pytest.mark.parametrize(("given_size", "size"), [(1000, 1000), ("512 MiB", 512 * MIB), ("2 GB", 2 * 10**9)])
def test_a_budget_is_a_number_of_bytes_or_a_text(given_size: int | str, size: int) -> None:
    assert Settings(memory=given_size).memory_bytes == size
    assert Settings().memory_bytes is None


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "", "much", "5", "1e9 B", "-1 MB", b"1 MB"])
def test_what_is_no_size_is_refused(bad: Any) -> None:
    with pytest.raises(DefinitionError, match=r"Settings\(memory\)=.* makes no sense") as error:
        Settings(memory=bad)
    assert "512 MiB" in error.value.hint


def test_a_drawing_says_what_may_be_held() -> None:
    flow = Stream([1]).map(str, workers=2).to(Kept())
    assert "memory" not in flow.explain()
    assert flow.explain(Settings(memory="160 MB")).splitlines()[-1] == (
        "160 MB of memory for all that, a chunk about 10 MB"
    )


def test_dashboards_see_what_is_held() -> None:
    text = exposition([], None, MemoryCounts(budget=100, used=7, peak=90))
    assert "# TYPE pipeline_memory_bytes gauge" in text
    assert 'pipeline_memory_bytes{kind="used"} 7\n' in text
    assert 'pipeline_memory_bytes{kind="peak"} 90\n' in text
    assert 'pipeline_memory_bytes{kind="budget"} 100\n' in text
    assert "pipeline_memory_bytes" not in exposition([])


def test_without_a_budget_nothing_is_weighed() -> None:
    ended = Stream([b"x"], size=pytest.fail).to(Kept()).run()
    assert ended.memory is None


# What is held back does not stop the stream


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize("wide", [True, False])
def test_batches_larger_than_the_budget_are_passed_on_as_they_are(workers: int | None, wide: bool) -> None:
    sink, blobs = Kept(), Blobs([20_000] * 600)
    stream = Stream(blobs).map(bytes, workers=workers).batch(1_000_000)
    if wide:
        stream = stream.map(list, workers=1)
    tracemalloc.start()
    try:
        ended, memory = run(stream.map(lambda some: list(map(number_of, some))).to(sink), "2 MiB")
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(number for some in sink.items for number in some) == list(range(600))
    assert ended.complete
    assert 0.5 * 2 * MIB < memory.peak <= 2 * MIB * 1.01
    assert used < 2 * MIB * 1.1 + 500_000


def test_several_batches_one_after_another_are_all_passed_on() -> None:
    sink = Kept()
    stream = Stream(Blobs([5000] * 300)).batch(10**6).flat_map(list, workers=2).batch(10**6)
    run(stream.map(len, workers=1).to(sink), 200_000)
    assert sum(sink.items) == 300


def test_two_sources_of_which_one_takes_it_all_both_come_to_their_end() -> None:
    sink = Kept()
    one, other = Stream(Blobs([50_000] * 100)), Stream(Blobs([50_000] * 100))
    run(one.merge(other).batch(10**6).map(len).to(sink), 500_000)
    assert sum(sink.items) == 200


def test_batches_that_fit_are_not_cut() -> None:
    sink = Kept()
    run(Stream(Blobs([100] * 5000)).batch(500).map(len).to(sink), "100 MiB")
    assert sink.items == [500] * 10


def test_a_slow_sink_does_not_make_batches_small() -> None:
    lengths: list[int] = []
    gate = threading.Event()

    def slowly(some: Sequence[Any]) -> None:
        lengths.extend(map(len, some))
        gate.wait(0.05)

    stream = Stream(Blobs([10_000] * 400)).batch(20).map(list, workers=1)
    run(stream.to(Called(slowly), workers=1), 2_000_000)
    assert sum(lengths) == 400
    assert sum(each == 20 for each in lengths) >= 15


# Chunks fit what they are made of


def test_chunks_are_small_where_items_are_large() -> None:
    sink = Kept()
    blobs = Blobs([100_000] * 200)
    run(Stream(blobs).to(sink), 3_200_000)
    assert max(sink.chunks) == 1
    run(Stream(Blobs([100] * 5000)).to(sink), 3_200_000)
    assert max(sink.chunks) > 500


def test_what_becomes_large_on_its_way_is_read_in_small_chunks() -> None:
    sink = Kept()
    stream = Stream(range(2000)).map(lambda n: bytes(50_000)).map(lambda b: b[1:])
    _, memory = run(stream.map(len).to(sink), 4_000_000)
    assert sink.items == [49_999] * 2000
    assert 1 < max(sink.chunks[5:]) <= 5
    assert memory.peak <= 4_000_000


def test_what_becomes_large_in_other_workers_is_learned_too() -> None:
    sink = Kept()
    stream = Stream(range(1000)).map(str, workers=1).map(lambda n: bytes(50_000), workers=2)
    _, memory = run(stream.map(len, workers=1).to(sink), 4_000_000)
    assert sink.items == [50_000] * 1000
    assert memory.peak <= 4_000_000


def test_a_batch_that_is_too_large_is_cut_and_committed_as_a_whole() -> None:
    class Whole(Parts):
        """A source that gives more than it is asked for."""

        def open(self, resume: Mapping[str, Any]) -> Any:
            reader = super().open(resume)
            read = reader.read
            reader.read = lambda limit, wait: read(10**6, wait)  # type: ignore[method-assign]
            return reader

    source = Whole({"a": [bytes(10_000)] * 100}, sizes=[50])
    sink = Kept()
    letters: list[DeadLetter] = []

    def check(blob: bytes) -> bytes:
        if len(sink.items) == 77:
            raise ValueError("no")
        return blob

    # The sink has a worker of its own, so what fails is told by its place in the batch.
    stream = Stream(source).map(check)
    run(stream.to(sink), 320_000, letters=letters, commit_every=0)
    assert len(sink.items) == 100 - len(letters)
    assert max(sink.chunks) <= 2
    assert source.committed == {"a": 100}
    assert letters[0].origin == Origin("a", 50, 27)
    assert all(commit["a"] in {0, 50, 100} for commit in source.commits)


def test_an_iterator_is_not_read_far_ahead_of_what_fits() -> None:
    blobs, begun, go_on = Blobs([100_000] * 100), threading.Event(), threading.Event()

    def hold(some: Sequence[Any]) -> None:
        begun.set()
        assert go_on.wait(120)

    engine = Stream(blobs).to(Called(hold), workers=1).engine(settings=Settings(memory=1_000_000))
    engine.start()
    assert begun.wait(120)
    assert not threading.Event().wait(0.3)
    assert blobs.made <= 12
    go_on.set()
    ended = engine.join()
    assert (ended.complete, blobs.made) == (True, 100)
    assert ended.memory is not None
    assert ended.memory.peak <= 1_100_000


# What never fits


def test_an_item_larger_than_the_budget_ends_the_stream_clearly() -> None:
    source = Parts({"a": [b"small", bytes(2_000_000), b"small"]}, sizes=[3])
    with pytest.raises(StreamFailed, match=r"'parts' failed on b'.*item 0 of the batch at 1 of a") as error:
        Stream(source).to(Kept()).run(settings=Settings(memory="1 MB"))
    assert isinstance(error.value.__cause__, ItemTooLarge)
    assert "2 MB, and all of the stream 1 MB" in str(error.value)
    assert source.committed == {"a": 1}


def test_an_item_larger_than_the_budget_becomes_a_dead_letter() -> None:
    items = [b"a", bytes(2_000_000), b"b", bytearray(3_000_000), b"c"]
    source, sink, letters = Parts({"a": items}, sizes=[2]), Kept(), list[DeadLetter]()
    ended, memory = run(Stream(source).to(sink), "1 MB", letters=letters)
    assert sink.items == [b"a", b"b", b"c"]
    assert [(each.stage, each.origin, each.failure_class) for each in letters] == [
        ("parts", Origin("a", 1, 0), "validation"),
        ("parts", Origin("a", 3, 0), "validation"),
    ]
    assert (source.committed, ended.dead_letters) == ({"a": 5}, 2)
    assert memory.peak < 1_000_000


# What users know better


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)


def pixels_of(image: bytes) -> int:
    """Read what an image will take from its header, without decoding it."""
    width, height = struct.unpack_from(">II", image, 16)
    return decoded_pixels(width, height)


def test_images_are_let_in_by_their_pixels() -> None:
    at_work, most = Counter[str](), Counter[str]()
    lock = threading.Lock()

    def decode(image: bytes) -> int:
        with lock:
            at_work["bytes"] += pixels_of(image)
            most["bytes"] = max(most["bytes"], at_work["bytes"])
        threading.Event().wait(0.001)
        with lock:
            at_work["bytes"] -= pixels_of(image)
        return 1

    images = [png(1000, 1000), png(4000, 3000), png(100, 100), png(2000, 1500)] * 20
    sink = Kept()
    stream = Stream(images, size=pixels_of).map(decode, workers=8, ordered=False)
    _, memory = run(stream.to(sink), "100 MB")
    assert sum(sink.items) == 80
    assert memory.peak <= 100_000_000 + 36_000_000, "one chunk may wait for room"
    assert 36_000_000 <= most["bytes"] <= 100_000_000


def test_items_may_be_said_to_take_nothing() -> None:
    sink = Kept()
    run(Stream(range(500), size=lambda n: 0).map(str, workers=2).to(sink), 10_000)
    assert len(sink.items) == 500


@pytest.mark.parametrize("answer", [-1, "much", None, True, float("nan"), float("inf"), ValueError("no")])
def test_a_size_that_cannot_be_had_is_the_error_of_its_item(answer: Any) -> None:
    def size(item: int) -> Any:
        if item != 3:
            return 100.0
        if isinstance(answer, Exception):
            raise answer
        return answer

    sink, letters = Kept(), list[DeadLetter]()
    run(Stream(range(6), size=size).to(sink), 10**6, letters=letters)
    assert sink.items == [0, 1, 2, 4, 5]
    assert [(each.stage, each.item) for each in letters] == [("range", 3)]


# What goes several ways


def test_items_that_go_several_ways_count_once() -> None:
    ledger = Ledger("source")
    budget = Budget(1_000_000)
    share = budget.share()
    assert share.ask(10) == 1
    items = [bytes(10_000)] * 10
    (room,) = share.came([weigh(items)], 10, 0)
    ticket = ledger.issue(Batch("a", 0, items, 10))
    ticket.room = room
    assert share.admit(room)
    ticket.hold(2)
    for branch in range(3):
        budget.note(Hop(branch, branch, learns=True), Chunk(list(items), (ticket,), 0.0))
    assert budget.counts().used == weigh(items)
    budget.note(Hop(0, 0, learns=True), Chunk(list(items), (ticket,), 0.0))
    assert budget.counts().used == 2 * weigh(items), "one of the ways made as much again"
    for _ in range(3):
        assert budget.counts().used
        ticket.settle()
    assert budget.counts() == MemoryCounts(1_000_000, 0, 2 * weigh(items))


def test_a_stream_of_several_ways_counts_shared_items_once() -> None:
    kept = [Kept(), Kept(), Kept()]
    stream = Stream(Blobs([10_000] * 300)).map(bytes)
    flows = [stream.batch(10).map(len).to(kept[0]), stream.map(bytes, workers=1).to(kept[1])]
    _, memory = run(flows[0].also(flows[1], stream.to(kept[2], workers=1)), 1_000_000)
    assert sum(kept[0].items) == len(kept[1].items) == len(kept[2].items) == 300
    assert memory.peak <= 1_050_000


# Windows


def plan_of(windows: Any = None, aggregate: Any = None) -> WindowPlan:
    return WindowPlan(
        windows=windows or tumbling(60),
        aggregate=aggregate or count(),
        key=lambda item: item[1],
        time=EventTime(at=lambda item: item[0]),
    )


@pytest.mark.parametrize("windows", [tumbling(60), session(gap=60)])
@pytest.mark.parametrize("workers", [1, 3])
def test_keys_beyond_the_budget_are_refused_clearly(windows: Any, workers: int) -> None:
    stream = Stream((1.0, f"key {number}") for number in range(50_000)).by_key(lambda item: item[1])
    flow = stream.map(lambda item: item, workers=workers).window(plan_of(windows)).to(Kept())
    with pytest.raises(StreamFailed, match=r"'window' failed on \(1.0, 'key \d+'\)") as error:
        run(flow, "2 MB")
    full = error.value.__cause__
    assert isinstance(full, WindowsFull)
    assert "windows of keys are open" in full.message
    assert "the memory of the stream leaves" in full.message
    assert "Settings(memory=...)" in full.hint


def test_keys_that_fit_are_counted_within_the_budget() -> None:
    sink = Kept()
    items = ((second, f"key {number}") for second in (1.0, 61.0, 122.0) for number in range(10_000))
    tracemalloc.start()
    try:
        _, memory = run(Stream(items).window(plan_of()).map(lambda each: each.value).to(sink), "12 MB")
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sink.items == [1] * 30_000
    assert memory.peak < 12_000_000
    assert used < 12_000_000 * 1.1


def test_refused_keys_are_set_aside_and_the_others_counted() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    items = [(1.0, f"key {number % 20_000}") for number in range(40_000)]
    flow = Stream(items).window(plan_of()).map(lambda each: each.value).to(sink)
    run(flow, "2 MB", letters=letters)
    assert 1000 < len(sink.items) < 10_000
    assert sum(sink.items) + len(letters) == 40_000
    assert {each.failure_class for each in letters} == {"resource"}


def test_lists_in_windows_are_bounded_by_the_budget() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    items = ((1.0, "a", bytes(10_000)) for _ in range(500))
    plan = plan_of(aggregate=collect(10**6, lambda item: item[2]))
    flow = Stream(items).window(plan).map(lambda each: each.count).to(sink)
    _, memory = run(flow, "3 MB", letters=letters)
    assert sum(sink.items) + len(letters) == 500
    assert memory.peak < 3_000_000


def test_checkpoints_and_a_budget_count_each_item_once(tmp_path: Path) -> None:
    """Batches are cut, so that part of one is counted while the rest waits: no checkpoint may see that."""
    items = [(float(number // 20), number % 3, bytes(3000)) for number in range(600)]

    class Whole(Parts):
        def open(self, resume: Mapping[str, Any]) -> Any:
            reader = super().open(resume)
            read = reader.read
            reader.read = lambda limit, wait: read(10**6, wait)  # type: ignore[method-assign]
            return reader

    source = Whole({"a": items}, sizes=[90])
    found: dict[tuple[Any, float], int] = {}
    sink = Called(lambda some: [found.__setitem__((each.key, each.start), each.value) for each in some])
    for limit in (200, 400, 10**6):
        seen = [0]

        def stop(item: Any, seen: list[int] = seen, limit: int = limit) -> Any:
            seen[0] += 1
            if seen[0] > limit:
                raise RuntimeError("enough")
            return item

        flow = Stream(source).map(stop).batch(10**6).flat_map(list).window(plan_of(tumbling(5))).to(sink)
        terms = Settings(memory=60_000, commit_every=0.002)
        try:
            flow.run(checkpoint=Checkpoint(tmp_path / "checkpoint"), settings=terms)
        except StreamFailed:
            continue
    wanted = Counter((key, at // 5 * 5) for at, key, _ in items)
    assert found == wanted


# What is remembered


def test_what_lookups_remember_is_kept_within_its_part() -> None:
    sink = Kept()
    asked = Counter[int]()

    def find(key: int) -> bytes:
        asked[key] += 1
        return bytes(1000)

    keys = [*range(5000), *range(4900, 5000)]
    stream = Stream(keys).look_up(
        lambda n: n, find, lambda n, found: len(found.value or b""), cache=Cache(entries=100_000)
    )
    _, memory = run(stream.to(sink), "2 MB")
    assert sink.items == [1000] * 5100
    assert memory.peak < 1_200_000
    assert all(asked[key] == 1 for key in range(4990, 5000)), "the last ones were remembered"
    assert sum(asked.values()) < 5200


# However it ends


@pytest.mark.parametrize("ending", ["cancel", "drain", "error"])
def test_all_is_given_back_however_a_stream_ends(ending: str) -> None:
    begun, looked = threading.Event(), threading.Event()

    def work(blob: bytes) -> bytes:
        if ending == "error" and number_of(blob) == 150:
            assert looked.wait(120)
            raise ValueError("no")
        if number_of(blob) > 50:
            begun.set()
            threading.Event().wait(0.001)
        return blob

    sink = Kept()
    stream = Stream(Blobs([10_000] * 100_000)).map(work, workers=3).batch(10**6).map(len, workers=1)
    engine, budget = start(stream.to(sink), Settings(memory=1_000_000))
    assert begun.wait(120)
    memory = engine.memory()
    assert memory is not None
    assert memory.used > 0
    looked.set()
    if ending == "error":
        with pytest.raises(StreamFailed, match="failed on"):
            engine.join()
    elif ending == "cancel":
        engine.cancel()
        engine.wait()
    else:
        engine.drain()
        assert not engine.join().complete
        assert budget.left == 0
    assert engine.memory() == MemoryCounts(1_000_000, 0, engine.memory().peak)  # type: ignore[union-attr]
    assert engine.memory().peak <= 1_010_000  # type: ignore[union-attr]


def test_coroutines_and_a_budget() -> None:
    async def work(blob: bytes) -> bytes:
        await asyncio.sleep(0.0001)
        return blob * 3

    sink = Kept()
    _, memory = run(Stream(Blobs([3000] * 1000)).map(work, workers=20).map(number_of).to(sink), 500_000)
    assert sink.items == list(range(1000))
    assert memory.peak <= 550_000


class Weighing(Parts):
    """A source that notes the largest batch it gave, in bytes."""

    largest = 0

    def open(self, resume: Mapping[str, Any]) -> Any:
        reader = super().open(resume)
        read = reader.read

        def noted(limit: int, wait: float) -> Any:
            batches = read(limit, wait)
            for batch in batches or ():
                assert len(batch.items) <= limit
                self.largest = max(self.largest, weigh(batch.items))
            return batches

        reader.read = noted  # type: ignore[method-assign]
        return reader


Work = Callable[[Stream[Any]], Stream[Any]]


@st.composite
def stages(draw: st.DrawFn) -> Work:
    """A stage that passes everything on, in whatever way."""
    workers = draw(st.sampled_from([None, None, 1, 3]))
    ordered = draw(st.booleans())
    size = draw(st.sampled_from([1, 7, 100, 10**6]))
    match draw(st.sampled_from(["map", "key", "batch", "flat_map", "merge"])):
        case "map":
            return lambda stream: stream.map(bytes, workers=workers, ordered=ordered)
        case "key":
            return lambda stream: stream.by_key(number_of, into=4).map(bytes, workers=workers).merge()
        case "batch":
            return lambda stream: stream.batch(size).flat_map(list, workers=workers, ordered=ordered)
        case "flat_map":
            return lambda stream: stream.flat_map(lambda blob: [blob], workers=workers, ordered=ordered)
    return lambda stream: stream.merge()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda sizes, times: sizes * times,
            st.lists(st.integers(300, 3000), min_size=1, max_size=20),
            st.integers(0, 30),
        ),
        min_size=1,
        max_size=2,
    ),
    st.lists(stages(), max_size=4),
    st.integers(1, 4),
    st.integers(5_000, 100_000),
    st.integers(1, 300),
    st.sampled_from(["end", "end", "fail", "drain"]),
)
def test_never_above_the_budget_and_always_to_the_end(
    sizes: list[list[int]], chosen: list[Work], growth: int, memory: int, chunk: int, ending: str
) -> None:
    sources = [Weighing({"a": list(Blobs(each))}, sizes=[1000, 3]) for each in sizes]
    first, *others = [Stream(source) for source in sources]
    stream: Stream[Any] = first.merge(*others) if others else first
    middle = len(chosen) // 2
    for work in chosen[:middle]:
        stream = work(stream)
    stream = stream.map(lambda blob: blob + bytes((growth - 1) * len(blob)))
    for work in chosen[middle:]:
        stream = work(stream)
    sink, letters = Kept(), list[DeadLetter]()

    def last(blob: bytes) -> int:
        if ending == "fail" and number_of(blob) % 7 == 3:
            raise ValueError("no")
        return number_of(blob)

    flow = stream.map(last).to(sink)
    terms = Settings(chunk=chunk, buffer=50, memory=memory, commit_every=0)
    engine, budget = start(flow, terms, letters=letters)
    if ending == "drain":
        engine.drain()
    ended = engine.join()
    held = ended.memory
    assert held is not None
    assert (held.used, budget.left) == (0, 0)
    one_chunk = sum(source.largest for source in sources) * (growth + 2)
    assert held.peak <= memory + one_chunk, (held, one_chunk)
    if ending != "drain":
        wanted = Counter(number for each in sizes for number in range(len(each)))
        assert Counter(sink.items) + Counter(number_of(letter.item) for letter in letters) == wanted
        assert [source.committed.get("a", 0) for source in sources] == list(map(len, sizes))


def test_what_a_source_decodes_is_weighed_decoded() -> None:
    class Encoded(Parts):
        name = "encoded"
        on_error = None

        @staticmethod
        def decode(raw: bytes) -> int:
            return int(raw)

    source, sink, letters = Encoded({"a": [b"1", b"200", b"no", b"3"]}), Kept(), list[DeadLetter]()
    stream = Stream(source, size=lambda number: number * 1000)
    run(stream.to(sink), 100_000, letters=letters)
    assert sink.items == [1, 3]
    assert [(each.stage, each.item) for each in letters] == [("encoded", b"200"), ("decode", b"no")]
