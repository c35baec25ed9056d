"""Items that are taken back on their way: wherever they are, they end once, written or cleaned up."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.events import Event
from sidestage.policy.retry import Retry
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.engine import Engine
from sidestage.stream.failing import DeadLetter, SetAside
from sidestage.stream.life.phases import ItemRevoked
from sidestage.stream.life.revoking import Revocation
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import EventTime
from sidestage.testing.turned_clock import HandClock

PATIENT = 30.0


class Gate:
    """A function that stops at one item until it may go on."""

    def __init__(self, at: int = 5) -> None:
        self.at = at
        self.there = threading.Event()
        self.go_on = threading.Event()
        self.seen: list[int] = []

    def __call__(self, number: int) -> int:
        self.seen.append(number)
        if number == self.at:
            self.there.set()
            assert self.go_on.wait(PATIENT)
        return number


class Cleaned(list[Any]):
    """What was cleaned up after, and when that was."""

    def __init__(self) -> None:
        super().__init__()
        self.any = threading.Event()

    def __call__(self, item: Any) -> None:
        self.append(item)
        self.any.set()


def started(flow: Any, at: threading.Event, **terms: Any) -> Engine:
    engine: Engine = flow.engine(**terms)
    engine.start()
    assert at.wait(PATIENT)
    return engine


def is_clean(engine: Engine) -> None:
    """Nothing of what was under way is remembered."""
    for stage in engine._assembly.revoking.stages.values():
        assert stage._moving == {}


def test_a_thread_finishes_its_call_and_nothing_comes_of_it() -> None:
    gate, cleaned, sink, events = Gate(), Cleaned(), Kept(), list[Event]()
    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n, clean_up=cleaned).map(gate, workers=1)
    engine = started(stream.map(lambda n: n).to(sink), gate.there, listener=events.append)
    assert engine.revoke(5) == Revocation(1, 0, written=False)
    assert cleaned == [], "not while somebody is at work on it"
    gate.go_on.set()
    assert engine.join().complete
    assert sink.items == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert cleaned == [5]
    assert source.committed == {"a": 10}
    assert engine.revoked() == {"revocable": 1}
    assert [(event.stage, event.key) for event in events if isinstance(event, ItemRevoked)] == [
        ("revocable", "5")
    ]
    is_clean(engine)


def test_work_does_not_begin_on_what_waits() -> None:
    gate, cleaned, sink = Gate(at=0), Cleaned(), Kept()
    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n % 5, clean_up=cleaned).map(gate, workers=1)
    engine = started(stream.to(sink), gate.there)
    while engine.counts()[1].pending < 9:
        time.sleep(0.001)
    assert engine.revoke(3) == Revocation(2, 0, written=False)
    gate.go_on.set()
    engine.join()
    assert gate.seen == sink.items == [0, 1, 2, 4, 5, 6, 7, 9]
    assert cleaned == [3, 8]


def test_work_does_not_begin_either_where_stages_share_a_worker() -> None:
    gate, sink = Gate(at=0), Kept()
    stream = Stream(Parts({"a": range(10)}, sizes=[10])).revocable(by=lambda n: n).map(gate)
    engine = started(stream.to(sink), gate.there)
    engine.revoke(7)
    gate.go_on.set()
    engine.join()
    assert gate.seen == sink.items == [0, 1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_coroutine_is_cancelled(ordered: bool) -> None:
    there, said, cleaned, sink = threading.Event(), list[str](), Cleaned(), Kept()

    async def work(number: int) -> int:
        if number == 5:
            there.set()
            try:
                await asyncio.sleep(3600)
            finally:
                said.append("cancelled")
        return number

    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n, clean_up=cleaned)
    engine = started(stream.map(work, workers=3, ordered=ordered).to(sink), there)
    assert engine.revoke(5).taken == 1
    assert engine.join().complete
    assert said == ["cancelled"]
    assert sorted(sink.items) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert cleaned == [5]
    assert source.committed == {"a": 10}


def test_coroutines_that_wait_for_their_turn_or_to_try_again_are_cancelled() -> None:
    there, begun, cleaned, sink = threading.Event(), list[int](), Cleaned(), Kept()
    release: list[Callable[[], object]] = []

    async def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            free = asyncio.Event()
            loop = asyncio.get_running_loop()
            release.append(lambda: loop.call_soon_threadsafe(free.set))
            await free.wait()
        if number == 1:
            there.set()
            raise ConnectionError
        return number

    patient = Retry(times=9, delay=3600.0, longest=3600.0)
    stream = Stream(Parts({"a": range(4)}, sizes=[4])).revocable(by=lambda n: n, clean_up=cleaned)
    engine = started(stream.flat_map(lambda n: [n]).map(work, workers=2, retry=patient).to(sink), there)
    engine.revoke(3)  # before the other one, whose place it would get
    engine.revoke(1)
    release[0]()
    engine.join()
    assert sink.items == [0, 2]
    assert sorted(cleaned) == [1, 3]
    assert 3 not in begun


def sleeps_at_five(number: int) -> int:
    if number == 5:
        time.sleep(3600)
    return number


def test_a_process_is_ended_and_the_next_does_the_rest() -> None:
    cleaned, sink = Cleaned(), Kept()
    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n, clean_up=cleaned)
    engine = stream.map(sleeps_at_five, workers=1, on="process").to(sink, workers=1).engine()
    engine.start()
    while len(sink.items) < 5:
        time.sleep(0.005)
    engine.revoke(5)
    assert engine.join().complete
    assert sink.items == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert cleaned == [5]
    assert source.committed == {"a": 10}


def test_an_error_of_what_was_revoked_is_nobodys() -> None:
    gate, sink, letters = Gate(), Kept(), list[DeadLetter]()

    def gone(number: int) -> int:
        if gate(number) == 5:
            raise FileNotFoundError("the picture was deleted")
        return number

    for terms in ({}, {"fail": "soft", "dead_letters": letters.append}):
        gate.__init__()  # type: ignore[misc]
        sink.items.clear()
        stream = Stream(Parts({"a": range(10)}, sizes=[10])).revocable(by=lambda n: n)
        engine = started(stream.map(gone).to(sink), gate.there, **terms)
        engine.revoke(5)
        gate.go_on.set()
        assert engine.join().complete
        assert sink.items == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert letters == []


def test_what_was_revoked_is_not_tried_again() -> None:
    there, tries, cleaned = threading.Event(), list[int](), Cleaned()

    def work(number: int) -> int:
        if number == 5:
            tries.append(number)
            there.set()
            raise ConnectionError
        return number

    stream = Stream(Parts({"a": range(10)})).revocable(by=lambda n: n, clean_up=cleaned)
    often = Retry(times=1000, delay=0.3, longest=0.3)
    engine = started(stream.map(work, retry=often).to(Kept()), there)
    engine.revoke(5)
    assert engine.join().complete
    assert len(tries) <= 2
    assert cleaned == [5]


def test_all_that_came_of_an_item_is_taken_out_and_cleaned_up_after_once() -> None:
    gate, cleaned, sizes, thumbs = Gate(at=50), Cleaned(), Kept(), Kept()
    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n, clean_up=cleaned)
    many = stream.flat_map(lambda n: [n * 10, n * 10 + 1]).map(gate, workers=1)
    flow = many.map(lambda n: n, workers=2).to(thumbs).also(many.map(str).to(sizes))
    engine = started(flow, gate.there)
    assert engine.revoke(5).taken == 1
    gate.go_on.set()
    engine.join()
    expected = [n * 10 + more for n in range(10) if n != 5 for more in (0, 1)]
    assert thumbs.items == expected
    assert sizes.items == [str(n) for n in expected]
    assert cleaned == [5]
    assert source.committed == {"a": 10}
    is_clean(engine)


def test_what_is_being_written_or_was_is_told() -> None:
    there, go_on, cleaned = threading.Event(), threading.Event(), Cleaned()

    class Blocking(Kept):
        def write(self, items: Sequence[Any]) -> None:
            if 5 in items:
                there.set()
                assert go_on.wait(PATIENT)
            super().write(items)

    sink = Blocking()
    stream = Stream(Parts({"a": range(10)}, sizes=[10])).revocable(by=lambda n: n, clean_up=cleaned)
    engine = started(stream.map(lambda n: n, workers=1).to(sink), there)
    assert engine.revoke(5) == Revocation(0, 1, written=False)
    assert engine.revoke(3) == Revocation(0, 0, written=True)
    assert engine.revoke(77) == Revocation(0, 0, written=False)
    go_on.set()
    engine.join()
    assert engine.revoke(5) == Revocation(0, 0, written=True)
    assert sink.items == list(range(10))
    assert cleaned == []


def test_what_was_put_together_with_others_is_beyond_it() -> None:
    gate, sink = Gate(at=5), Kept()
    stream = Stream(Parts({"a": range(8)}, sizes=[8])).revocable(by=lambda n: n).map(gate)
    engine = started(stream.batch(4).map(lambda some: some, workers=2).to(sink), gate.there)
    assert engine.revoke(4) == Revocation(0, 1, written=False)
    assert engine.revoke(6) == Revocation(1, 0, written=False)
    gate.go_on.set()
    engine.join()
    assert [n for some in sink.items for n in some] == [0, 1, 2, 3, 4, 5, 7]


def test_windows_count_what_was_not_revoked(tmp_path: Path) -> None:
    gate, sink = Gate(at=30), Kept()
    plan = WindowPlan(windows=tumbling(60), aggregate=count(), time=EventTime(at=lambda n: n))
    source = Parts({"a": range(0, 120, 10)}, sizes=[3])
    flow = Stream(source).revocable(by=lambda n: n).map(gate, workers=1).window(plan).to(sink)
    checkpoint = Checkpoint(tmp_path / "c")
    engine = started(flow, gate.there, checkpoint=checkpoint, settings=Settings(commit_every=0.0))
    engine.revoke(30)
    gate.go_on.set()
    engine.join()
    assert [each.value for each in sink.items] == [5, 6]
    assert checkpoint.positions("parts") == {"a": 12}


# How long a revocation holds


def test_revocations_are_forgotten_in_time() -> None:
    clock, gate, sink = HandClock(), Gate(at=0), Kept()
    source = Parts({"a": [0, 1, 2, 3, 1, 2]}, sizes=[1])
    stream = Stream(source).map(gate).revocable(by=lambda n: n, keep=60.0, most=2)
    engine = started(stream.to(sink), gate.there, clock=clock)
    for key in (3, 1, 2):  # more than two: the oldest is forgotten
        assert engine.revoke(key).taken == 0
    gate.go_on.set()
    engine.join()
    assert sink.items == [0, 3]

    sink, gate = Kept(), Gate(at=0)
    stream = Stream(source).map(gate).revocable(by=lambda n: n, keep=60.0, most=2)
    engine = started(stream.to(sink), gate.there, clock=clock)
    engine.revoke(1)
    clock.advance(61.0)
    gate.go_on.set()
    engine.join()
    assert sink.items == [0, 1, 2, 3, 1, 2]
    engine.revoke(7)
    (stage,) = engine._assembly.revoking.stages.values()
    assert list(stage._revoked) == [7]
    assert list(stage._written) == [1, 2]


def test_cancelling_leaves_what_was_revoked_for_the_next_run() -> None:
    gate, cleaned = Gate(), Cleaned()
    source = Parts({"a": range(10)}, sizes=[10])
    stream = Stream(source).revocable(by=lambda n: n, clean_up=cleaned).map(gate, workers=1)
    engine = started(stream.map(lambda n: n, workers=1).to(Kept()), gate.there)
    engine.revoke(7)
    engine.cancel()
    gate.go_on.set()
    engine.join()
    assert cleaned == []
    assert source.commits == []


# What goes wrong


def test_a_clean_up_that_fails_is_decided_about_like_any_other_failure() -> None:
    letters, tries, sink = list[DeadLetter](), list[int](), Kept()

    def broken(number: int) -> None:
        tries.append(number)
        raise ConnectionError("no bucket")

    def flow(gate: Gate, **more: Any) -> Any:
        stream = Stream(Parts({"a": range(10)}, sizes=[10])).revocable(
            by=lambda n: n, clean_up=broken, name="pictures", **more
        )
        return stream.map(gate, workers=1).to(sink)

    gate = Gate()
    soft = flow(gate, on_error=SetAside(), retry=Retry(times=1, delay=0.0))
    engine = started(soft, gate.there, dead_letters=letters.append)
    engine.revoke(5)
    gate.go_on.set()
    assert engine.join().complete
    (letter,) = letters
    assert (letter.stage, letter.item, letter.attempt) == ("pictures", 5, 2)
    assert tries == [5, 5]
    gate = Gate()
    engine = started(flow(gate), gate.there)
    engine.revoke(5)
    gate.go_on.set()
    with pytest.raises(StreamFailed, match="no bucket"):
        engine.join()


def test_an_item_without_a_key_is_an_error_of_its_own() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    source = Parts({"a": [1, [2], 3]}, sizes=[3])
    stream = Stream(source).revocable(by=lambda item: item).filter(lambda item: item != 3)
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [1]
    assert [(letter.stage, letter.item) for letter in letters] == [("revocable", [2])]
    assert source.committed == {"a": 3}


def test_dead_letters_of_revocable_items_say_where_they_came_from() -> None:
    letters: list[DeadLetter] = []
    stream = Stream(Parts({"a": [1, 2, "x", 4]}, sizes=[2])).filter(lambda item: item != 1)
    stream.revocable(by=lambda item: item).map(int, workers=1).to(Kept()).run(
        fail="soft", dead_letters=letters.append
    )
    origin = letters[0].origin
    assert origin is not None
    assert (origin.part, origin.first, origin.index) == ("a", 2, 0)
    letters.clear()
    stream = Stream(Parts({"a": ["1", "x"]}, sizes=[1])).batch(2).revocable(by=len).flat_map(list)
    stream.map(int, workers=1).to(Kept()).run(fail="soft", dead_letters=letters.append)
    assert [(letter.item, letter.origin) for letter in letters] == [("x", None)]


def test_what_makes_no_sense_is_refused() -> None:
    twice = Stream([1]).revocable(by=abs).map(abs).revocable(by=abs)
    with pytest.raises(DefinitionError, match="revocable already"):
        twice.to(Kept()).engine()
    with pytest.raises(DefinitionError, match="Nothing of this stream"):
        Stream([1]).to(Kept()).engine().revoke(1)
    for wrong in ({"keep": 0.0}, {"most": 0}, {"keep": float("nan")}):
        with pytest.raises(DefinitionError):
            Stream([1]).revocable(by=abs, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Stream([1]).revocable(by=abs).to(Kept()).engine().revoke([1])


# All together


@given(
    revoked=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6)), max_size=12),
    workers=st.sampled_from([None, 1, 3]),
    ordered=st.booleans(),
    keyed=st.booleans(),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_every_item_is_written_or_cleaned_up_and_acknowledged(
    revoked: list[tuple[int, int]], workers: int | None, ordered: bool, keyed: bool, sizes: list[int]
) -> None:
    """Whenever somebody revokes, from within the stages: told ``taken`` means not written, and the reverse."""
    when: dict[int, list[int]] = {}
    for at, key in revoked:
        when.setdefault(at, []).append(key)
    answers: list[Revocation] = []
    cleaned: list[int] = []
    source, sink = Parts({"a": range(61)}, sizes=sizes), Kept()

    def work(number: int) -> int:
        answers.extend(engine.revoke(key) for key in when.get(number, ()))
        return number

    stream: Stream[int] = Stream(source)
    if keyed:
        stream = stream.by_key(lambda n: n % 3, into=3)
    stream = stream.revocable(by=lambda n: n % 7, clean_up=cleaned.append)
    stream = stream.map(work, workers=workers, ordered=ordered).filter(lambda n: n % 11, workers=workers)
    stream = stream.merge().map(lambda n: n, workers=2, ordered=ordered)
    engine = stream.to(sink).engine(settings=Settings(chunk=8, buffer=16))
    engine.run()
    numbers = [n for n in range(61) if n % 11]
    assert set(sink.items).isdisjoint(cleaned)
    assert sorted({*sink.items, *(n for n in cleaned if n % 11)}) == numbers
    assert len(sink.items) == len(set(sink.items))
    assert len(cleaned) == len(set(cleaned))
    assert engine.revoked() == {"revocable": len(cleaned)}
    assert sum(answer.taken for answer in answers) <= len(cleaned)
    assert source.committed == {"a": 61}
    is_clean(engine)
