"""Phases, drains and cancellations, wherever a stream is just then: no thread stays, nothing is committed early."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed, StreamHangs
from sidestage.events import Event
from sidestage.policy.breaker import Breaker
from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.policy.retry import Retry
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import Progress
from sidestage.stream.engine import Engine
from sidestage.stream.life.phases import (
    StreamBooted,
    StreamCancelled,
    StreamCrashed,
    StreamDraining,
    StreamEnded,
    StreamStarted,
    StreamTurned,
    ThreadsHang,
    runbook_of,
)
from sidestage.stream.life.signals import HEEDED, Told, heard
from sidestage.stream.nodes import Manner
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import EventTime
from sidestage.stream.workers.hands import Hands

PATIENT = 30.0
ENDLESS = range(10**9)
SMALL = Settings(chunk=5, buffer=5, commit_every=0.0)
RUNBOOK = Path(__file__).parents[3] / "docs" / "guide" / "stream-runbook.md"


@dataclass
class Scene:
    """A stream that comes to a certain point: ``there`` is set then, and ``go_on`` lets it go on."""

    source: Parts = field(default_factory=lambda: Parts({"a": ENDLESS}, sizes=[5]))
    sink: Kept = field(default_factory=Kept)
    there: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    events: list[Event] = field(default_factory=list)
    settings: Settings = SMALL
    checkpoint: Path | None = None
    engine: Engine | None = None

    def start(self, flow: Any) -> Engine:
        checkpoint = None if self.checkpoint is None else Checkpoint(self.checkpoint)
        self.engine = flow.engine(settings=self.settings, listener=self.events.append, checkpoint=checkpoint)
        assert self.engine is not None
        self.engine.start()
        assert self.there.wait(PATIENT)
        return self.engine

    def stop_here(self) -> None:
        self.there.set()
        assert self.go_on.wait(PATIENT)


class Blocking(Kept):
    """A sink that waits in its second write, or while it is opened."""

    def __init__(self, scene: Scene, where: str = "write") -> None:
        super().__init__()
        self.scene = scene
        self.where = where

    def open(self) -> Kept:
        super().open()
        if self.where == "open":
            self.scene.stop_here()
        return self

    def write(self, items: Sequence[Any]) -> None:
        if self.where == "write" and self.calls == 1:
            self.scene.stop_here()
        super().write(items)


def in_boot(scene: Scene) -> Engine:
    scene.sink = Blocking(scene, "open")
    return scene.start(Stream(scene.source).map(str, workers=2).to(scene.sink))


def in_steady(scene: Scene) -> Engine:
    def work(number: int) -> int:
        if number == 50:
            scene.there.set()
        return number

    return scene.start(Stream(scene.source).map(work, workers=2).to(scene.sink, workers=1))


def at_a_full_mailbox(scene: Scene) -> Engine:
    scene.sink = Blocking(scene)
    engine = scene.start(Stream(scene.source).map(lambda n: n, workers=1).to(scene.sink, workers=1))
    while engine.counts()[-1].pending < 5 or engine.counts()[0].pending < 5:
        time.sleep(0.001)
    return engine


def in_a_slow_sink(scene: Scene) -> Engine:
    class Slow(Kept):
        def write(self, items: Sequence[Any]) -> None:
            time.sleep(0.02)
            super().write(items)
            scene.there.set()

    scene.sink = Slow()
    return scene.start(Stream(scene.source).map(lambda n: n, workers=2).to(scene.sink))


def waiting_to_try_again(scene: Scene) -> Engine:
    def work(number: int) -> int:
        if number == 12:
            scene.there.set()
            raise ConnectionError(number)
        return number

    patient = Retry(times=9, delay=3600.0, longest=3600.0)
    return scene.start(Stream(scene.source).map(work, workers=2, retry=patient).to(scene.sink))


def in_a_breakers_pause(scene: Scene) -> Engine:
    class Down(Kept):
        def write(self, items: Sequence[Any]) -> None:
            if self.calls == 1:
                scene.there.set()
                raise ConnectionError("down")
            super().write(items)

    scene.sink = Down()
    breaker = Breaker(in_a_row=1, pause=300.0)
    return scene.start(Stream(scene.source).to(scene.sink, breaker=breaker))


def resting_after_a_death(scene: Scene) -> Engine:
    def work(number: int) -> int:
        if number == 12:
            scene.there.set()
            raise SystemExit
        return number

    scene.settings = Settings(chunk=5, buffer=5, commit_every=0.0, restart=Restart(delay=60.0))
    return scene.start(Stream(scene.source).map(work, workers=2).to(scene.sink))


def during_a_barrier(scene: Scene) -> Engine:
    """All sources pause; a batch that is under way keeps the checkpoint from being taken."""
    scene.sink = Blocking(scene)
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=lambda number: number))
    engine = scene.start(Stream(scene.source).window(plan).to(scene.sink, workers=1))
    barrier = engine._barrier
    assert barrier is not None
    while not barrier._asked.is_set():
        time.sleep(0.001)
    return engine


def with_coroutines(scene: Scene) -> Engine:
    async def work(number: int) -> int:
        if number >= 12:
            scene.there.set()
            await asyncio.sleep(3600)
        return number

    return scene.start(Stream(scene.source).map(work, workers=8).to(scene.sink))


def hang_from_twelve_on(number: int) -> int:
    if number >= 12:
        time.sleep(3600)
    return number


def with_processes(scene: Scene) -> Engine:
    flow = Stream(scene.source).map(hang_from_twelve_on, workers=2, on="process").to(scene.sink)
    scene.there.set()
    engine = scene.start(flow)
    assert scene.sink.written.wait(PATIENT)
    while engine._feeds["parts"]._items <= 12:  # or there would be nothing to hang on
        time.sleep(0.001)
    return engine


def at_a_rate_limit(scene: Scene) -> Engine:
    slow = Rate(items=1, seconds=3600, burst=12)
    stream = Stream(scene.source).map(lambda n: n, workers=1).limit(slow)
    scene.there.set()
    engine = scene.start(stream.to(scene.sink))
    while len(scene.sink.items) < 12:
        time.sleep(0.001)
    return engine


def at_a_rate_limit_by_key(scene: Scene) -> Engine:
    slow = Rate(items=1, seconds=3600, burst=2)
    stream = Stream(scene.source).limit(slow, by=lambda n: n % 3, held=20)
    scene.there.set()
    engine = scene.start(stream.to(scene.sink))
    while len(scene.sink.items) < 6 or engine.counts()[0].processed < 10:
        time.sleep(0.001)
    return engine


def in_a_lookup(scene: Scene) -> Engine:
    def ask(key: int) -> int:
        if key == 12:
            scene.stop_here()
        return key

    stream = Stream(scene.source).look_up(lambda n: n, ask, lambda n, _found: n, manner=Manner(workers=2))
    return scene.start(stream.to(scene.sink))


def in_drain(scene: Scene) -> Engine:
    engine = at_a_full_mailbox(scene)
    engine.drain()
    return engine


SCENES = [
    in_boot,
    in_steady,
    at_a_full_mailbox,
    in_a_slow_sink,
    waiting_to_try_again,
    in_a_breakers_pause,
    resting_after_a_death,
    during_a_barrier,
    with_coroutines,
    with_processes,
    at_a_rate_limit,
    at_a_rate_limit_by_key,
    in_a_lookup,
    in_drain,
]
DO_NOT_GO_ON = {
    waiting_to_try_again,
    in_a_breakers_pause,
    resting_after_a_death,
    with_coroutines,
    with_processes,
    at_a_rate_limit,
    at_a_rate_limit_by_key,
}
"""Where a drain takes longer than anybody waits."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = set(threading.enumerate())
    scene = Scene(checkpoint=tmp_path / "checkpoint")
    yield scene
    scene.go_on.set()
    assert scene.engine is not None
    assert scene.engine.wait(PATIENT)
    left = {thread for thread in threading.enumerate() if thread not in before and thread.is_alive()}
    assert not left
    assert scene.sink.opened == scene.sink.closed
    assert scene.source.closed == 1


def nothing_is_committed_early(scene: Scene) -> None:
    """What the source was told, and the checkpoint, are never beyond what is written."""
    if not isinstance(scene.sink.items[-1] if scene.sink.items else 0, int | str):
        return  # results of windows
    written = {int(item) for item in scene.sink.items}
    assert scene.checkpoint is not None
    kept = Checkpoint(scene.checkpoint).positions("parts").get("a", 0)
    for position in (scene.source.committed.get("a", 0), kept):
        assert all(number in written for number in range(int(position)))


@pytest.mark.parametrize("come_to", SCENES)
def test_a_cancellation_ends_everything_from_wherever_it_is(scene: Scene, come_to: Any) -> None:
    engine = come_to(scene)
    engine.cancel("test")
    assert engine.phase in ("cancel", "ended")
    scene.go_on.set()  # what blocks in user's code cannot be ended; what waits in ours must not need this
    assert engine.wait(PATIENT)
    assert not engine.join().complete
    assert engine.phase == "ended"
    nothing_is_committed_early(scene)
    turns = [event for event in scene.events if isinstance(event, StreamTurned)]
    assert isinstance(turns[0], StreamStarted)
    cancelled, ended = turns[-2:]
    assert isinstance(cancelled, StreamCancelled)
    assert (cancelled.stream, cancelled.why) == ("parts", "test")
    assert isinstance(ended, StreamEnded)
    assert ended.outcome == "cancelled"


@pytest.mark.parametrize("come_to", SCENES)
def test_a_drain_finishes_what_is_under_way_from_wherever_it_is(scene: Scene, come_to: Any) -> None:
    engine = come_to(scene)
    engine.drain("test")
    assert engine.phase in ("drain", "ended")
    scene.go_on.set()
    if come_to in DO_NOT_GO_ON:
        assert not engine.wait(0.2)
        engine.cancel()
    assert engine.wait(PATIENT)
    assert not engine.join().complete
    nothing_is_committed_early(scene)
    if come_to is during_a_barrier:
        assert Checkpoint(scene.checkpoint or "").positions("parts") == scene.source.committed
    elif come_to not in DO_NOT_GO_ON:
        numbers = [int(item) for item in scene.sink.items]
        assert numbers == list(range(len(numbers)))
        assert scene.source.committed.get("a", 0) == len(numbers)


def test_a_drain_in_boot_reads_nothing(scene: Scene) -> None:
    engine = in_boot(scene)
    assert engine.phase == "boot"
    engine.drain()
    scene.go_on.set()
    engine.join()
    assert scene.sink.items == []


def test_nothing_is_read_before_all_is_open(scene: Scene) -> None:
    engine = in_boot(scene)
    assert [type(event) for event in scene.events] == [StreamStarted]
    assert not any(stage.processed for stage in engine.counts())
    engine.cancel()


class Closed(Exception):
    """A place that cannot be opened."""


def test_a_place_that_cannot_be_opened_is_a_crash_in_boot() -> None:
    class Broken(Kept):
        def open(self) -> Kept:
            raise Closed

    source, fine = Parts({"a": ENDLESS}), Kept()
    events: list[Event] = []
    stream = Stream(source).map(str, workers=2)
    engine = stream.to(fine).also(stream.to(Broken())).engine(listener=events.append)
    with pytest.raises(Closed):
        engine.run()
    assert [type(event) for event in events] == [StreamStarted, StreamCrashed, StreamEnded]
    assert fine.opened == fine.closed
    assert fine.items == []
    assert source.closed == 1


def test_phases_are_told_in_order_with_their_reason() -> None:
    events: list[Event] = []
    flow = Stream(Parts({"a": range(10)})).to(Kept())
    flow.run(listener=events.append)
    assert [type(event) for event in events] == [StreamStarted, StreamBooted, StreamEnded]
    events.clear()
    with pytest.raises(StreamFailed):
        Stream(Parts({"a": ["x"]})).map(int).to(Kept()).run(listener=events.append)
    assert [type(event) for event in events] == [StreamStarted, StreamBooted, StreamCrashed, StreamEnded]
    crashed, ended = events[-2:]
    assert isinstance(crashed, StreamCrashed)
    assert "the stage 'int' failed" in crashed.why.lower()
    assert isinstance(ended, StreamEnded)
    assert (ended.outcome, ended.why) == ("crashed", crashed.why)


# What cannot be ended


def test_threads_that_hang_are_named() -> None:
    go_on, there = threading.Event(), threading.Event()
    events: list[Event] = []

    def hang(_number: int) -> None:
        there.set()
        assert go_on.wait(PATIENT)

    source = Parts({"a": ENDLESS})
    engine = Stream(source).map(hang, workers=1, name="thumb").to(Kept()).engine(listener=events.append)
    engine.start()
    assert there.wait(PATIENT)
    assert engine.cancel(grace=0.2) == ("thumb 1",)
    with pytest.raises(StreamHangs, match="thumb 1"):
        engine.join(within=0.1)
    told = [event for event in events if isinstance(event, ThreadsHang)]
    assert [(event.threads, event.seconds) for event in told] == [(("thumb 1",), 0.2)]
    go_on.set()
    assert engine.wait(PATIENT)
    assert source.commits == []


def test_an_error_is_told_also_if_another_worker_hangs() -> None:
    go_on, there = threading.Event(), threading.Event()

    def work(number: int) -> None:
        if number == 0:
            there.set()
            assert go_on.wait(PATIENT)
        assert there.wait(PATIENT)
        raise ValueError(number)

    stream = Stream(Parts({"a": range(10)}, sizes=[1])).map(work, workers=2, name="thumb")
    engine = stream.to(Kept()).engine(settings=Settings(grace=0.1))
    with pytest.raises(StreamFailed) as failed:
        engine.run()
    assert "thumb" in failed.value.__notes__[0]
    go_on.set()
    assert engine.wait(PATIENT)


def test_an_iterator_that_never_gives_anything_is_drained_and_named() -> None:
    go_on = threading.Event()

    def silent() -> Iterator[int]:
        yield 1
        assert go_on.wait(PATIENT)
        yield 2

    events: list[Event] = []
    sink = Kept()
    engine = Stream(silent(), name="silent").to(sink).engine(listener=events.append)
    engine.start()
    assert sink.written.wait(PATIENT)
    engine.drain()
    engine.join()
    assert sink.items == [1]
    assert [event.threads for event in events if isinstance(event, ThreadsHang)] == [("silent reader",)]
    go_on.set()


def test_no_threads_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[str]()

    def refuse(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    source, sink = Parts({"a": ENDLESS}), Kept()
    engine = Stream(source).map(str, workers=3).to(sink).engine()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        engine.start()
    monkeypatch.undo()
    assert engine.wait(PATIENT)
    assert sink.opened == sink.closed


def test_a_listener_that_raises_leaves_nothing_running() -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        if len(calls) == 1:
            raise RuntimeError("the log is full")

    source, sink = Parts({"a": ENDLESS}), Kept()
    engine = Stream(source).to(sink).engine(listener=broken)
    with pytest.raises(RuntimeError, match="log"):
        engine.run()
    assert engine.wait(PATIENT)
    assert engine.phase == "ended"
    assert sink.opened == sink.closed
    listening = threading.Event()

    def later(event: Event) -> None:
        if listening.is_set() and isinstance(event, StreamCancelled):
            raise RuntimeError("the log is full")

    engine = Stream(source).to(sink).engine(listener=later)
    engine.start()
    listening.set()
    with pytest.raises(RuntimeError, match="log"):
        engine.cancel()
    assert engine.wait(PATIENT)


def test_a_process_is_ready_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    opened = Hands.open
    monkeypatch.setattr(Hands, "open", lambda self: (opened(self), order.append("process")))

    class Noted(Parts):
        def committing(self) -> None:
            order.append("commit")

    Stream(Noted({"a": range(3)})).map(hang_from_twelve_on, on="process").to(Kept()).run()
    assert order == ["process", "commit"]


# Signals


def raise_signals(
    numbers: Sequence[int], after: threading.Event, each: Callable[[], object]
) -> threading.Thread:
    def work() -> None:
        assert after.wait(PATIENT)
        for number in numbers:
            signal.raise_signal(number)
            each()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("number", HEEDED)
def test_a_signal_drains_and_the_handlers_are_put_back(number: int) -> None:
    before = [signal.getsignal(each) for each in HEEDED]
    source, sink, events = Parts({"a": ENDLESS}), Kept(), list[Event]()
    sender = raise_signals([number], sink.written, lambda: None)
    ended = Stream(source).to(sink).serve(listener=events.append)
    sender.join()
    assert not ended.complete
    assert source.committed == {"a": len(sink.items)}
    assert [signal.getsignal(each) for each in HEEDED] == before
    (drained,) = [event for event in events if isinstance(event, StreamDraining)]
    assert drained.why == f"signal {signal.Signals(number).name}"


def test_the_second_signal_cancels_what_the_first_could_not_end() -> None:
    scene = Scene()
    scene.sink = Blocking(scene)
    sender = raise_signals([signal.SIGINT, signal.SIGTERM], scene.there, lambda: time.sleep(0.2))
    flow = Stream(scene.source).to(scene.sink)
    with pytest.raises(StreamHangs):
        flow.serve(settings=Settings(chunk=5, commit_every=0.0, grace=0.2), listener=scene.events.append)
    sender.join()
    turns = [(type(event), event.why) for event in scene.events if isinstance(event, StreamTurned)]
    assert turns[2:4] == [(StreamDraining, "signal SIGINT"), (StreamCancelled, "second signal, SIGTERM")]
    scene.go_on.set()


def test_a_drain_that_takes_too_long_is_a_cancellation() -> None:
    scene = Scene()
    breaker = Breaker(in_a_row=1, pause=300.0)

    class Down(Kept):
        def write(self, items: Sequence[Any]) -> None:
            scene.there.set()
            raise ConnectionError("down")

    sender = raise_signals([signal.SIGTERM], scene.there, lambda: None)
    flow = Stream(scene.source).to(Down(), breaker=breaker)
    assert not flow.serve(grace=0.1, listener=scene.events.append).complete
    sender.join()
    (cancelled,) = [event for event in scene.events if isinstance(event, StreamCancelled)]
    assert cancelled.why == "its drain took longer than 0.1 s"
    assert scene.source.commits == []


def test_an_interruption_while_it_starts_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes: before a thread begins, or when it is at work already."""
    start = threading.Thread.start
    for number in range(1, 5):
        for begins in (True, False):
            left = [number]

            def interrupted(thread: threading.Thread, left: list[int] = left, begins: bool = begins) -> None:
                left[0] -= 1
                if left[0] or begins:
                    start(thread)
                if not left[0]:
                    raise KeyboardInterrupt

            source, sink, events = Parts({"a": ENDLESS}), Kept(), list[Event]()
            engine = Stream(source).map(str, workers=2).to(sink).engine(listener=events.append)
            monkeypatch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.run()
            monkeypatch.undo()
            assert engine.is_over
            assert isinstance(events[-1], StreamEnded)
            assert events[-1].outcome == "cancelled"
            assert sink.opened == sink.closed


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    events: list[Event] = []
    before = [signal.getsignal(each) for each in HEEDED]
    seen: list[Any] = []

    def work(number: int) -> int:
        seen.append([signal.getsignal(each) for each in HEEDED])
        return number

    def run() -> None:
        Stream(Parts({"a": range(3)})).map(work).to(Kept()).serve(listener=events.append)

    thread = threading.Thread(target=run, name="side")
    thread.start()
    thread.join()
    assert seen == [before] * 3
    assert getattr(events[0], "thread", None) == "side"


def test_handlers_that_python_did_not_set_are_put_back_as_they_are_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    before = {each: signal.getsignal(each) for each in HEEDED}
    set_to: dict[int, Any] = {}
    monkeypatch.setattr(signal, "getsignal", lambda _number: None)
    monkeypatch.setattr(signal, "signal", set_to.__setitem__)
    with heard(told) as is_heard:
        assert is_heard
        assert set_to == dict.fromkeys(HEEDED, told.note)
    assert set_to == dict.fromkeys(HEEDED, signal.SIG_DFL)
    monkeypatch.undo()
    assert {each: signal.getsignal(each) for each in HEEDED} == before


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Interruptions arrive, also in tests that a shell started in the background: it has them ignored there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interruption_of_run_cancels_and_is_raised() -> None:
    source, sink, events = Parts({"a": ENDLESS}), Kept(), list[Event]()
    before = [signal.getsignal(each) for each in HEEDED]
    sender = raise_signals([signal.SIGINT], sink.written, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        Stream(source).to(sink).run(listener=events.append)
    sender.join()
    assert [signal.getsignal(each) for each in HEEDED] == before
    (cancelled,) = [event for event in events if isinstance(event, StreamCancelled)]
    assert cancelled.why == "KeyboardInterrupt"
    assert isinstance(events[-1], StreamEnded)
    assert source.closed == sink.closed == 1


class Unreachable:
    """A sink with transactions whose place does not answer."""

    name = "unreachable"

    def __init__(self) -> None:
        self.there, self.go_on = threading.Event(), threading.Event()

    def open(self) -> Any:
        self.there.set()
        assert self.go_on.wait(PATIENT)
        raise ConnectionError

    def progress(self) -> Progress:
        return Progress(0, {})


def test_signals_are_heard_also_while_a_sink_with_transactions_does_not_open() -> None:
    sink, source, events = Unreachable(), Parts({"a": ENDLESS}), list[Event]()
    # Of two that are alike, a process that is busy may see one only.
    sender = raise_signals([signal.SIGINT, signal.SIGTERM], sink.there, lambda: time.sleep(0.1))
    with pytest.raises(StreamHangs, match="being started"):
        Stream(source).to(sink).serve(settings=Settings(grace=0.1), listener=events.append)
    sender.join()
    assert any(isinstance(event, StreamCancelled) for event in events)
    sink.go_on.set()
    assert source.closed == 0


def test_a_sink_with_transactions_that_cannot_be_opened_is_a_crash_in_boot() -> None:
    sink, events = Unreachable(), list[Event]()
    sink.go_on.set()
    for run in ("run", "serve"):
        with pytest.raises(ConnectionError):
            getattr(Stream([1]).to(sink), run)(listener=events.append)
        assert [type(event) for event in events] == [StreamStarted, StreamCrashed, StreamEnded]
        events.clear()


# The runbook


def subclasses(of: type) -> Iterator[type]:
    for each in of.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_event_of_streams_names_a_section_that_exists() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    anchors = {line.strip("# ").lower().replace(" ", "-") for line in text.splitlines() if line[:1] == "#"}
    told = [
        each
        for each in subclasses(Event)
        if each.__module__.startswith(("sidestage.stream", "sidestage.policy"))
    ]
    assert len(told) > 10
    for kind in told:
        if kind is StreamTurned:
            continue
        section = runbook_of(kind).partition("#")[2]
        assert section in anchors, f"{kind}: give it a field `runbook`, and a section in {RUNBOOK.name}"


def test_a_grace_is_not_negative() -> None:
    with pytest.raises(DefinitionError):
        Settings(grace=-1.0)


def test_a_start_that_is_just_over_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the workers may be the last to leave, after all of them have failed."""
    start, is_waited_for = Engine.start, threading.Event()

    def slow(self: Engine) -> None:
        start(self)
        assert self.wait(PATIENT)
        is_waited_for.wait(0.5)

    def fail(number: int) -> int:
        raise ValueError(number)

    monkeypatch.setattr(Engine, "start", slow)
    with pytest.raises(StreamFailed, match="ValueError: 1"):
        Stream([1]).map(fail).to(Kept()).serve()


def test_an_engine_that_was_not_started_is_not_waited_for_and_one_runs_once() -> None:
    engine = Stream([1]).to(Kept()).engine()
    with pytest.raises(DefinitionError, match="was not started"):
        engine.join()
    assert engine.run().complete
    for again in (engine.start, engine.run):
        with pytest.raises(DefinitionError, match="was started before"):
            again()
    assert engine.join().complete
