"""Bounds of mailboxes follow what stages do, within limits, and every change is told."""

import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.stream.places import Kept

from sidestage.errors import DefinitionError
from sidestage.events import Event
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.observing.exposition import exposition
from sidestage.stream.observing.metrics import Meter, StageCounts
from sidestage.stream.observing.recent import Recent, since
from sidestage.stream.observing.retuning import MOST_CHUNKS, BufferRetuned, Retuner, Tuned, decide
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.testing.turned_clock import HandClock

CHUNK = 100


def stage(
    name: str = "enrich", quick: int = 990, slow: int = 10, times: float = 10.0, **more: int
) -> StageCounts:
    """Counts of a stage that takes a millisecond for most items, and some times as long for others."""
    meter = Meter()
    for _ in range(quick):
        meter.took(1, 0.0009)
    for _ in range(slow):
        meter.took(1, 0.0009 * times)
    return StageCounts(
        name, more.get("workers", 1), 0, meter.processed, 0, meter.seconds, tuple(meter.buckets)
    )


def test_an_even_stage_has_room_for_four_chunks_of_the_size_that_comes() -> None:
    even = stage(slow=0)
    assert decide(4 * CHUNK, even, CHUNK, CHUNK) is None
    bound = decide(10 * CHUNK, even, CHUNK, CHUNK)
    assert bound is not None
    assert bound.items == 4 * CHUNK
    assert bound.why == "room for 4 chunks by the times of enrich, of 100 items each"
    small = decide(4 * CHUNK, even, 10, CHUNK)
    assert small is not None
    assert small.items == CHUNK  # never below one chunk


def test_an_uneven_stage_has_more_room_up_to_a_limit() -> None:
    bound = decide(4 * CHUNK, stage(slow=20), CHUNK, CHUNK)
    assert bound is not None
    assert bound.items == 20 * CHUNK  # P99 is ten times the median
    most = decide(4 * CHUNK, stage(slow=20, times=1000), CHUNK, CHUNK)
    assert most is not None
    assert most.items == MOST_CHUNKS * CHUNK


def test_nothing_is_changed_for_little_or_on_little_knowledge() -> None:
    assert decide(10 * CHUNK, stage(quick=90, slow=0), CHUNK, CHUNK) is None
    assert decide(10 * CHUNK, stage(), 0.0, CHUNK) is None
    assert decide(450, stage(slow=0), CHUNK, CHUNK) is None
    assert decide(360, stage(slow=0), CHUNK, CHUNK) is None


@given(
    st.integers(1, 10**6),
    st.integers(0, 500),
    st.integers(0, 500),
    st.floats(1, 1e5),
    st.floats(0, 1e4),
    st.integers(1, 8192),
)
def test_a_bound_lies_between_the_limits_and_stays_once_it_is_reached(
    now: int, quick: int, slow: int, times: float, mean: float, chunk: int
) -> None:
    seen = stage(quick=quick, slow=slow, times=times)
    bound = decide(now, seen, min(mean, chunk), chunk)
    if bound is not None:
        assert chunk <= bound.items <= MOST_CHUNKS * chunk
        assert decide(bound.items, seen, min(mean, chunk), chunk) is None


def test_the_retuner_sets_all_mailboxes_of_a_stage_and_tells_of_it() -> None:
    halt, told = Halt(), list[Event]()
    mailboxes = tuple(Mailbox(4 * CHUNK, halt, senders=1) for _ in range(2))
    seen = [stage(quick=0, slow=0), stage("store", quick=0, slow=0)]
    retuner = Retuner(
        [Tuned("enrich", mailboxes, ("enrich", "store"))],
        CHUNK,
        lambda: tuple(seen),
        HandClock(),
        told.append,
    )
    retuner.look()
    assert told == []
    seen[:] = [stage(slow=20), stage("store", quick=5, slow=0)]
    for mailbox in mailboxes:
        mailbox.push(Chunk([0] * CHUNK, (), 0.0))
    retuner.look()
    (event,) = told
    assert isinstance(event, BufferRetuned)
    assert (event.stage, event.before, event.after) == ("enrich", 8 * CHUNK, 40 * CHUNK)
    assert [each.most_items for each in mailboxes] == [20 * CHUNK] * 2
    retuner.look()  # nothing was done since then
    assert len(told) == 1
    seen[0] = add(stage(slow=20), stage(quick=1000, slow=0))
    for mailbox in mailboxes:
        mailbox.take(0)
        mailbox.push(Chunk([0] * CHUNK, (), 0.0))
    retuner.look()
    last = told[-1]
    assert isinstance(last, BufferRetuned)
    assert (last.before, last.after) == (40 * CHUNK, 8 * CHUNK)


def add(one: StageCounts, other: StageCounts) -> StageCounts:
    buckets = tuple(ours + theirs for ours, theirs in zip(one.buckets, other.buckets, strict=True))
    return msgspec.structs.replace(one, buckets=buckets, seconds=one.seconds + other.seconds)


def test_whoever_waits_before_a_mailbox_is_woken_when_it_grows() -> None:
    halt = Halt()
    mailbox = Mailbox(1, halt, senders=1)
    mailbox.push(Chunk([1], (), 0.0))
    pushed = threading.Event()

    def push() -> None:
        mailbox.push(Chunk([2], (), 0.0))
        pushed.set()

    thread = threading.Thread(target=push)
    thread.start()
    assert not pushed.wait(0.05)
    mailbox.most_items = 2
    assert pushed.wait(120)
    thread.join()
    assert (mailbox.pending, mailbox.most_items, mailbox.came, mailbox.chunks) == (2, 2, 2, 2)
    mailbox.most_items = 1  # what is in it stays
    assert mailbox.pending == 2
    halt.stop()
    with pytest.raises(Stopped):
        mailbox.push(Chunk([3], (), 0.0))


def test_buffers_are_retuned_while_a_stream_runs_and_nothing_is_lost() -> None:
    """The real thing: a stage that turns uneven, in a stream that runs until its buffer was retuned."""
    told: list[Event] = []
    grown = threading.Event()

    def listener(event: Event) -> None:
        told.append(event)
        if isinstance(event, BufferRetuned) and event.stage == "work" and event.after > event.before:
            grown.set()

    def numbers() -> Iterator[int]:
        number = 0
        while not (grown.is_set() or number > 10**7):
            yield number
            number += 1

    waits = threading.Event()

    def work(number: int) -> int:
        if number % 50 == 0:
            waits.wait(0.002)
        return number

    out = Kept()
    settings = Settings(chunk=8, buffer="auto")
    engine = Stream(numbers()).map(work, workers=1).to(out).engine(settings=settings, listener=listener)
    ended = engine.run()
    assert ended.complete
    assert grown.is_set()
    assert out.items == list(range(len(out.items)))
    (counts,) = (each for each in ended.stages if each.name == "work")
    assert counts.buffer > 4 * 8
    assert f'pipeline_stage_buffer_items{{stage="work"}} {counts.buffer}' in exposition(ended.stages)
    assert not [thread for thread in threading.enumerate() if thread.name == "buffers"]


def test_settings_say_what_a_buffer_may_be() -> None:
    assert Settings(buffer="auto", chunk=10).first_buffer == 40
    assert Settings(buffer=7).first_buffer == 7
    for wrong in (0, "most"):
        with pytest.raises(DefinitionError):
            Settings(buffer=wrong)  # type: ignore[arg-type]
    drawn = Stream(iter([1])).map(str, name="b", workers=1).to(Kept()).explain(Settings(buffer="auto"))
    assert "--[4,096 items at first]--> b" in drawn


def test_utilisation_is_that_of_late() -> None:
    clock = HandClock()
    recent = Recent(clock.monotonic, 30.0)
    busy = stage(quick=1000, slow=0, workers=2)  # 0.9 s of work
    clock.advance(10.0)
    (now,) = recent.note((busy,))
    assert now.busy == pytest.approx(0.9 / 20)
    clock.advance(1000.0)
    (now,) = recent.note((busy,))  # nobody had looked for so long: since the last look
    assert now.busy == 0.0
    clock.advance(2.0)
    more = msgspec.structs.replace(busy, seconds=busy.seconds + 4.0, processed=busy.processed + 100)
    (now,) = recent.note((more,))
    assert now.busy == pytest.approx(4.0 / (2 * 2.0))
    assert "bottleneck: 2 workers 100% busy" in recent.advice((more,))
    clock.advance(31.0)
    recent.note((more,))
    clock.advance(31.0)
    assert recent.advice((more,)) == "Nothing has been done yet."


def test_what_was_done_since_is_never_negative() -> None:
    one, other = stage(quick=10, slow=0), stage(quick=20, slow=3)
    (less,) = since([one], [other])
    assert (less.processed, less.seconds, sum(less.buckets)) == (0, 0.0, 0)
    (new,) = since([one], [])
    assert new == one
