"""One worker is cancelled: its item is decided about once, all others go on, and a new worker takes its place."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, SidestageError, StreamFailed
from sidestage.events import Event
from sidestage.policy.retry import Retry
from sidestage.stream import Bulkhead, Default, Guard, SetAside, Skip, Stream
from sidestage.stream.engine import Engine
from sidestage.stream.failing import DeadLetter
from sidestage.stream.scopes import scopes
from sidestage.stream.scopes.events import WorkerAtWork, WorkerCancellation, WorkerCancelled
from sidestage.stream.scopes.hands import Hand, Held
from sidestage.stream.scopes.scope import Cancelled

PATIENT = 60.0
LONG = 3600.0


class Hanging:
    """A function that does not return from some items until it may."""

    def __init__(self, *at: int) -> None:
        self.at = at
        self.there = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.seen: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.__name__ = "decode"

    def __call__(self, number: int) -> int:
        self.seen.append(number)
        if number in self.at:
            self.threads.add(threading.current_thread())
            self.there.release()
            assert self.go_on.wait(PATIENT)
        return number

    async def slowly(self, number: int) -> int:
        self.seen.append(number)
        if number in self.at:
            self.there.release()
            await asyncio.sleep(LONG)
        return number


def started(flow: Any, hanging: Hanging, **terms: Any) -> Engine:
    engine: Engine = flow.engine(**terms)
    engine.start()
    for _ in hanging.at:
        assert hanging.there.acquire(timeout=PATIENT)
    return engine


def at_work(engine: Engine, stage: str, count: int) -> list[WorkerAtWork]:
    """Wait until only so many workers of a stage have something in hand: those that hang."""
    while len(found := [each for each in engine.workers() if each.stage == stage]) != count:
        time.sleep(0.001)
    return found


def all_but(count: int, *gone: int) -> list[int]:
    return [number for number in range(count) if number not in gone]


def test_the_call_of_a_thread_is_written_off_and_its_place_is_kept() -> None:
    hanging, sink, source = Hanging(5), Kept(), Parts({"a": range(40)}, sizes=[4])
    letters, events = list[DeadLetter](), list[Event]()
    flow = Stream(source).map(hanging, workers=2, timeout=LONG).to(sink)
    engine = started(flow, hanging, fail="soft", dead_letters=letters.append, listener=events.append)
    (hangs,) = at_work(engine, "decode", 1)
    assert hangs.kind == "thread"
    number = hangs.number
    came = engine.cancel_worker("decode", number, why="hangs since 2 a.m.", by="ann")
    assert came == WorkerCancellation("decode", number, "thread", "5")
    assert engine.join().complete
    assert sink.items == all_but(40, 5), "in order, and the others of its chunk are there"
    assert sorted(hanging.seen) == list(range(40)), "each was done once"
    assert source.committed == {"a": 40}
    (letter,) = letters
    assert (letter.item, letter.failure_class, letter.attempt) == (5, "cancelled", 1)
    assert str(letter.error) == f"the worker decode {number} was cancelled by ann: hangs since 2 a.m."
    (told,) = [event for event in events if isinstance(event, WorkerCancelled)]
    assert (told.stage, told.number, told.kind, told.by) == ("decode", number, "thread", "ann")
    stage = engine.counts()[0]
    assert (stage.errors, stage.cancelled, stage.workers, stage.processed) == (1, 1, 2, 40)
    assert 'pipeline_stage_cancelled_total{stage="decode"} 1' in engine.metrics()
    hanging.go_on.set()
    for thread in hanging.threads:
        thread.join(PATIENT)
        assert not thread.is_alive(), "what came back late ends"
    assert sink.items == all_but(40, 5), "and what it returned is ignored"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("keyed", [True, False])
def test_a_coroutine_is_cancelled(ordered: bool, keyed: bool) -> None:
    hanging, sink, source = Hanging(5, 12), Kept(), Parts({"a": range(40)}, sizes=[4])
    letters: list[DeadLetter] = []
    stream: Stream[int] = Stream(source)
    if keyed:
        stream = stream.by_key(lambda n: n % 4, into=4)
    retry = Retry(times=3, delay=0.0, longest=0.0)
    flow = stream.map(hanging.slowly, name="decode", workers=3, ordered=ordered, retry=retry).to(sink)
    engine = started(flow, hanging, fail="soft", dead_letters=letters.append)
    numbers = [each.number for each in at_work(engine, "decode", 2)]
    assert {engine.cancel_worker("decode", number).item for number in numbers} == {"5", "12"}
    assert engine.join().complete
    assert sorted(sink.items) == all_but(40, 5, 12)
    assert ordered is False or keyed or sink.items == sorted(sink.items)
    assert sorted(letter.item for letter in letters) == [5, 12]
    assert {letter.failure_class for letter in letters} == {"cancelled"}
    assert len(hanging.seen) == 40, "none is tried again"
    assert source.committed == {"a": 40}


def test_a_coroutine_that_makes_something_else_of_its_cancellation_is_given_up_all_the_same() -> None:
    there = threading.Event()

    async def stubborn(number: int) -> int:
        if number == 1:
            there.set()
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                raise ConnectionError("something else") from None
        return number

    retry = Retry(times=3, delay=0.0, longest=0.0)
    sink = Kept()
    flow = Stream(range(4)).map(stubborn, workers=4, retry=retry, on_error=Default(-1)).to(sink)
    engine: Engine = flow.engine()
    engine.start()
    assert there.wait(PATIENT)
    (hangs,) = at_work(engine, "stubborn", 1)
    assert engine.cancel_worker("stubborn", hangs.number).item == "1"
    engine.join()
    assert sink.items == [0, -1, 2, 3]


def test_an_event_loop_that_is_kept_busy_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestage.stream.workers.coroutines._END_SECONDS", 0.05)
    there, go_on = threading.Event(), threading.Event()

    async def blocks(number: int) -> int:
        there.set()
        assert go_on.wait(PATIENT)
        return number

    engine: Engine = Stream([1]).map(blocks).to(Kept()).engine()
    engine.start()
    assert there.wait(PATIENT)
    with pytest.raises(SidestageError, match="does not answer: a coroutine keeps it busy"):
        engine.cancel_worker("blocks", 1)
    go_on.set()
    engine.join()


def test_a_sink_with_a_timeout_is_opened_anew_and_the_other_items_are_written() -> None:
    class Poisoned(Kept):
        def write(self, items: Sequence[Any]) -> None:
            if 5 in items:
                hanging(5)
            super().write(items)

    hanging, sink, source = Hanging(5), Poisoned(), Parts({"a": range(10)}, sizes=[10])
    letters: list[DeadLetter] = []
    flow = Stream(source).to(sink, timeout=LONG)
    engine = started(flow, hanging, fail="soft", dead_letters=letters.append)
    assert engine.cancel_worker("kept", 1).item is not None
    assert hanging.there.acquire(timeout=PATIENT), "its chunk is tried one by one, and this item hangs again"
    assert engine.cancel_worker("kept", 1).item == "[5]"
    assert engine.join().complete
    assert sink.items == all_but(10, 5)
    assert [letter.item for letter in letters] == [5]
    assert source.committed == {"a": 10}
    assert sink.opened == 3
    hanging.go_on.set()


@pytest.mark.parametrize(
    ("on_error", "left"), [(Skip(), [0, 1, 3]), (Default(7), [0, 1, 7, 3]), (SetAside(), [0, 1, 3])]
)
def test_the_policy_of_the_stage_decides(on_error: Any, left: list[int]) -> None:
    hanging, sink = Hanging(2), Kept()
    guard = Guard(bulkhead=Bulkhead(calls=2, timeout=LONG))
    stream = Stream(range(4)).map(hanging, on_error=on_error).guarded(guard)
    engine = started(stream.to(sink), hanging, dead_letters=lambda _: None)
    engine.cancel_worker("decode", 1)
    engine.join()
    assert sink.items == left
    hanging.go_on.set()


def test_without_a_policy_it_ends_the_stream_as_any_failure() -> None:
    hanging = Hanging(2)
    engine = started(Stream(range(4)).map(hanging, timeout=LONG).to(Kept()), hanging)
    engine.cancel_worker("decode", 1)
    with pytest.raises(StreamFailed, match=r"failed on 2 .* the worker decode 1 was cancelled: request"):
        engine.join()
    hanging.go_on.set()


def test_what_cannot_be_cancelled_is_said() -> None:
    hanging, sink = Hanging(2), Kept()
    stream = Stream(range(4), name="numbers").map(hanging).filter(lambda _: True, name="odd", workers=2)
    flow = stream.map(str, workers=3, timeout=LONG).to(sink)
    unstarted: Engine = flow.engine()
    with pytest.raises(DefinitionError, match="does not run"):
        unstarted.cancel_worker("str", 1)
    engine = started(flow, hanging)
    with pytest.raises(DefinitionError, match="threads without a timeout") as error:
        engine.cancel_worker("decode", 1)
    assert "timeout=3600" in error.value.hint
    with pytest.raises(DefinitionError, match="threads without a timeout"):
        engine.cancel_worker("numbers", 1)
    with pytest.raises(DefinitionError, match="no stage 'strange'") as error:
        engine.cancel_worker("strange", 1)
    assert error.value.hint == "There are decode, odd, str, kept."
    for number in (0, 4):
        with pytest.raises(DefinitionError, match=f"no worker {number}") as error:
            engine.cancel_worker("str", number)
        assert "from 1 to 3" in error.value.hint
    assert engine.cancel_worker("str", 2) == WorkerCancellation("str", 2, "thread", None)
    assert engine.workers() == ()
    hanging.go_on.set()
    engine.join()
    assert sink.items == ["0", "1", "2", "3"]
    with pytest.raises(DefinitionError, match="does not run"):
        engine.cancel_worker("str", 1)


def test_a_worker_that_does_not_look_is_reported_and_its_next_item_is_safe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scopes, "PATIENCE", 0.01)
    hanging, sink = Hanging(2), Kept()
    flow = Stream(range(4)).map(hanging, timeout=LONG).to(sink)
    engine = started(flow, hanging)
    hand = engine._assembly.scopes._hands[engine._assembly.layout.segments[0], 0]
    monkeypatch.setattr(type(hand), "look", lambda _hand: None)
    with pytest.raises(SidestageError, match=r"did not give up what it has in hand within 0\.01 s"):
        engine.cancel_worker("decode", 1)
    monkeypatch.undo()
    hanging.go_on.set()
    engine.join()
    assert sink.items == [0, 1, 2, 3]


def test_what_is_asked_for_never_hits_the_next_item() -> None:
    hand, error = Hand(), Cancelled("it was cancelled")
    assert hand.ask(error, lambda _: True) is None
    with hand.holding(Held("decode", "thread", 0.0, 1)):
        assert hand.ask(error, lambda stage: stage != "decode") is None
        ask = hand.ask(error, lambda stage: stage == "decode")
        assert ask is not None
        assert hand.ask(error, lambda _: True) is ask
    assert ask.over.is_set()
    assert not ask.was_given_up
    with hand.holding(Held("decode", "thread", 0.0, 2)):
        hand.look()
        ask = hand.ask(error, lambda _: True)
        assert ask is not None
        hand.withdraw(ask)
        hand.look()
        ask = hand.ask(error, lambda _: True)
        assert ask is not None
        with pytest.raises(Cancelled):
            hand.look()
        assert (ask.was_given_up, ask.item) == (True, "2")
