"""Windows as a stage: what is counted, what goes beside, and that going on from a checkpoint counts nothing twice."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts, PartsReader

from sidestage.clock import SystemClock
from sidestage.errors import DataError, StreamFailed
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.chunk import Chunk, Ledger
from sidestage.stream.contract import Batch, Position
from sidestage.stream.failing import DeadLetter, Desk, Halt, Raise
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.places.sinks import Collected
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import Fold, count, total
from sidestage.stream.windows.plan import Session, Tumbling, Windowed, WindowPlan, session, tumbling
from sidestage.stream.windows.stage import WindowOperator, Windows
from sidestage.stream.windows.watermarks import EventTime

Click = tuple[int, str]


def clicks(by_minute: dict[int, str]) -> list[Click]:
    return [
        (minute * 60 + n, region) for minute, regions in by_minute.items() for n, region in enumerate(regions)
    ]


def plan(**more: Any) -> WindowPlan:
    time = EventTime(at=lambda click: click[0])
    return WindowPlan(windows=tumbling(60), aggregate=count(), key=lambda click: click[1], time=time, **more)


def last_values(results: Sequence[Windowed[str, int]]) -> dict[tuple[str, float], int]:
    """What a table has that is written by key and window."""
    return {(each.key, each.start): each.value for each in results}


def test_results_come_as_windows_close_and_the_rest_at_the_end() -> None:
    sink = Kept()
    source = Parts({"a": clicks({0: "eeu", 1: "eu", 2: "e"})}, sizes=[2])
    Stream(source).window(plan()).to(sink).run()
    found = [(each.key, each.start, each.value, each.kind) for each in sink.items]
    assert found == [
        ("e", 0, 2, "on time"),
        ("u", 0, 1, "on time"),
        ("e", 60, 1, "on time"),
        ("u", 60, 1, "on time"),
        ("e", 120, 1, "drained"),
    ]
    assert source.committed == {"a": 6}


def test_what_is_too_late_goes_beside_and_what_cannot_be_used_to_dead_letters() -> None:
    sink, late, letters = Kept(), Kept(), list[DeadLetter]()
    items = [(10, "e"), (100, "e"), (20, "late"), ("when?", "e"), (101, "e")]
    stream = Stream(Parts({"a": items}, sizes=[1])).window(plan(), beside=late)
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert [each.item for each in late.items] == [(20, "late")]
    assert [letter.item for letter in letters] == [("when?", "e")]
    assert last_values(sink.items) == {("e", 0): 1, ("e", 60): 2}
    assert (late.opened, late.closed) == (1, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_keys_are_counted_by_the_worker_that_has_them(workers: int) -> None:
    items = [(second, "abcdefgh"[second % 8]) for second in range(1200)]
    sink = Kept()
    stream = Stream(items).by_key(lambda click: click[1], into=8).map(lambda click: click, workers=workers)
    stream.window(plan()).to(sink).run(settings=Settings(chunk=50))
    assert len(sink.items) == 8 * 20
    assert last_values(sink.items) == Counter((key, second // 60 * 60) for second, key in items)


def test_time_alone_closes_windows_that_count_by_the_clock() -> None:
    arrived = threading.Event()

    class Telling(Kept):
        def write(self, items: Sequence[Any]) -> None:
            super().write(items)
            arrived.set()

    def events() -> Any:
        yield 1
        assert arrived.wait(120), "the window closed though nothing came"

    sink = Telling()
    by_clock = WindowPlan(windows=tumbling(0.05), aggregate=count())
    Stream(events()).window(by_clock).to(sink).run()
    assert [each.value for each in sink.items] == [1]


class Paced(Parts):
    """A source that gives nothing more before what it gave last is in a checkpoint."""

    def __init__(self, parts: dict[str, Any], sizes: list[int], path: Path) -> None:
        super().__init__(parts, sizes)
        self.checkpoint = Checkpoint(path)

    def open(self, resume: Mapping[str, Position]) -> "PacedReader":
        return PacedReader(self, {part: int(resume.get(part, 0)) for part in self.parts})


class PacedReader(PartsReader):
    def __init__(self, source: Paced, at: dict[str, int]) -> None:
        super().__init__(source, at)
        self._checkpoint = source.checkpoint
        self._seen = -1

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        if self._checkpoint.progress.number == self._seen:
            return ()
        self._seen = self._checkpoint.progress.number
        batches = [batch for _ in range(3) for batch in PartsReader.read(self, limit, wait) or ()]
        return batches or None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.sampled_from("eun")), max_size=120),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from([None, 1, 3]),
    st.integers(1, 40),
    st.lists(st.integers(1, 25), max_size=4),
)
def test_whoever_goes_on_from_a_checkpoint_has_counted_each_item_once(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[Click],
    sizes: list[int],
    workers: int | None,
    chunk: int,
    crashes: list[int],
) -> None:
    """A table written by key and window shows exactly what one run without any crash shows."""
    path = tmp_path_factory.mktemp("stream") / "checkpoint"
    source = Paced({"a": sorted(times)}, sizes, path)
    table: dict[tuple[str, float], int] = {}
    for crash in [*crashes, 10**9]:
        sink = Kept(fail=[crash])
        stream = Stream(source).map(lambda click: click, workers=workers).batch(3).flat_map(list)
        keyed = stream.by_key(lambda click: click[1], into=4).map(lambda click: click, workers=workers)
        flow = keyed.window(plan()).batch(2).flat_map(list).to(sink)
        failed = False
        try:
            source.checkpoint = Checkpoint(path)
            flow.run(checkpoint=source.checkpoint, settings=Settings(chunk, commit_every=0.0))
        except StreamFailed:
            failed = True
        table |= last_values(sink.items)
        if not failed:
            break
    assert table == Counter((region, second // 60 * 60) for second, region in times)
    assert Checkpoint(path).positions("parts").get("a", 0) == len(times)


def test_draining_keeps_open_windows_for_whoever_goes_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stream") / "checkpoint"
    items = [(second, "e") for second in range(100_000)]
    source, sink = Parts({"a": items}, sizes=[10]), Kept()
    engine = Stream(source).window(plan()).to(sink).engine(checkpoint=Checkpoint(path))
    engine.start()
    assert sink.written.wait(120)
    engine.drain()
    assert not engine.join().complete
    assert all(each.kind == "on time" for each in sink.items)
    again = Kept()
    Stream(source).window(plan()).to(again).run(checkpoint=Checkpoint(path))
    results = [*sink.items, *again.items]
    assert [(each.start, each.value) for each in results] == [
        (start, min(60, 100_000 - start)) for start in range(0, 100_000, 60)
    ]


def test_windows_of_another_declaration_are_not_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("stream") / "checkpoint"
    source = Parts({"a": [(1, "e")]})
    Stream(source).window(plan(on_drain="keep")).to(Kept()).run(checkpoint=Checkpoint(path))
    other = WindowPlan(
        windows=tumbling(60), aggregate=total(lambda click: 1), time=EventTime(at=lambda click: click[0])
    )
    with pytest.raises(DataError):
        Stream(source).window(other).to(Kept()).run(checkpoint=Checkpoint(path))


def test_no_checkpoint_is_taken_while_anything_is_under_way(tmp_path: Path) -> None:
    """Or what one worker has counted already, and another has not, would be counted again."""
    entered, release = threading.Event(), threading.Event()

    def stuck(click: Click) -> Click:
        if click[1] == "b":
            entered.set()
            assert release.wait(120)
        return click

    checkpoint = Checkpoint(tmp_path / "checkpoint")
    source = Parts({"a": [(0, "a"), (1, "a"), (1, "b"), (2, "a")]}, sizes=[1, 3])
    stream = Stream(source).by_key(lambda click: ord(click[1]), into=2).map(stuck, workers=2)
    engine = (
        stream.window(plan()).to(Kept()).engine(checkpoint=checkpoint, settings=Settings(commit_every=0.0))
    )
    engine.start()
    assert entered.wait(120)
    before = checkpoint.progress.number
    time.sleep(0.2)  # many checkpoints could be taken; none may
    assert checkpoint.progress.number == before
    release.set()
    assert engine.join().complete
    assert checkpoint.positions("parts") == {"a": 4}


def test_results_on_their_way_are_under_way() -> None:
    held: list[Chunk] = []

    class Holding(Mailbox):
        def push(self, chunk: Chunk) -> None:
            held.append(chunk)

    halt = Halt()
    windows = Windows(frozenset(["window 1 of 1"]))
    desk = Desk("window", Raise(), None, lambda letter: None, halt, lambda: 0.0, lambda death: None)
    following = Holding(10, halt, senders=1)
    operator = WindowOperator(plan(), SystemClock(), desk, Meter(), following, None, threading.Event())
    windows.add("window 1 of 1", operator)
    ticket = Ledger().issue(Batch("a", 0, [], 3))
    operator.push(Chunk([(1, "e"), (2, "e")], (ticket,), 0.0))
    kept: list[dict[str, bytes]] = []
    assert not windows.keep_if_quiet(lambda: False, kept.append)
    assert windows.keep_if_quiet(lambda: True, kept.append)
    operator.finish()
    assert not windows.keep_if_quiet(lambda: True, kept.append)
    held[0].settle()
    assert windows.keep_if_quiet(lambda: True, kept.append)
    before, after = kept
    assert after != before


def test_windows_tell_what_came_too_late_and_how_far_time_has_come() -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float, ahead=10))
    engine = Stream([1, 2, 35, 3, 10**11]).window(plan, name="per ten").to(Collected()).engine()
    assert "pipeline_window_late_total" in engine.metrics()

    engine.run()

    told = dict(
        line.rsplit(" ", 1) for line in engine.metrics().splitlines() if line.startswith("pipeline_window")
    )
    assert told == {
        'pipeline_window_open{stage="per ten"}': "0",
        'pipeline_window_results_total{stage="per ten"}': "2",
        'pipeline_window_late_total{stage="per ten"}': "1",
        'pipeline_window_early_total{stage="per ten"}': "1",
        'pipeline_window_watermark_seconds{stage="per ten"}': "35.0",
    }
    assert "pipeline_window_late_total (counter)" in Stream([1]).window(plan).to(Collected()).metrics_view()
    assert "pipeline_window" not in Stream([1]).to(Collected()).metrics_view()


def _upset(state: int) -> int:
    raise ArithmeticError(f"no result of {state}")


def upsetting(windows: Tumbling | Session) -> WindowPlan:
    fold = Fold(zero=lambda: 0, add=lambda so_far, _: so_far + 1, merge=lambda a, b: a + b, result=_upset)
    return WindowPlan(windows=windows, aggregate=fold, time=EventTime(at=lambda click: click[0]))


@pytest.mark.parametrize("windows", [tumbling(60), session(5)])
def test_a_result_that_cannot_be_computed_ends_the_stream_and_names_the_window(
    windows: Tumbling | Session,
) -> None:
    source = Parts({"a": clicks({0: "eu", 5: "e"})}, sizes=[1])
    with pytest.raises(StreamFailed, match=r"'window' failed on Windowed.*start=0\.0.*no result of 2"):
        Stream(source).window(upsetting(windows)).to(Kept()).run()


@pytest.mark.parametrize("windows", [tumbling(60), session(5)])
def test_a_result_that_cannot_be_computed_is_set_aside_also_at_the_end(windows: Tumbling | Session) -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    source = Parts({"a": clicks({0: "eu", 5: "e"})}, sizes=[1])
    ended = Stream(source).window(upsetting(windows)).to(sink).run(fail="soft", dead_letters=letters.append)
    assert [(each.item.start, each.item.count, str(each.error)) for each in letters] == [
        (0, 2, "no result of 2"),
        (300, 1, "no result of 1"),
    ]
    assert (ended.complete, ended.dead_letters, sink.items) == (True, 2, [])


def test_a_result_of_tables_that_cannot_be_computed_is_set_aside() -> None:
    fold = Fold(
        zero=lambda: 0,
        add=lambda so_far, _: so_far + 1,
        merge=lambda a, b: a + b,
        result=_upset,
        of=itemgetter("n"),
    )
    plan = WindowPlan(windows=tumbling(60), aggregate=fold, time=EventTime(at=itemgetter("n")))
    letters: list[DeadLetter] = []
    rows = Stream([{"n": 1}, {"n": 2}, {"n": 400}]).tables(2)
    rows.window(plan).to(Kept()).run(fail="soft", dead_letters=letters.append)
    assert [(each.item.start, each.item.count) for each in letters] == [(0, 2), (360, 1)]
