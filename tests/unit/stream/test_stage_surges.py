"""Error surges in streams: who hears of them, what they end, what they cost nobody."""

from collections import Counter
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import StreamFailed
from sidestage.events import Event
from sidestage.policy.failure import FailureClass
from sidestage.policy.surge import Surge, SurgeBegan, SurgeEnded
from sidestage.stream.assembly import Assembly
from sidestage.stream.failing import DeadLetter, Halt, SetAside, Skip
from sidestage.stream.guarding.surges import StageSurge, WatchedMeter
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.testing.turned_clock import HandClock

SCHEMA = [*range(100), *(f"new {number}" for number in range(100)), *range(200, 1000)]


def twice(number: Any) -> int:
    """Return twice a number; it fails on what is none."""
    return int(number) * 2


async def twice_later(number: Any) -> int:
    return twice(number)


def surges(heard: list[Event]) -> list[Event]:
    return [each for each in heard if isinstance(each, SurgeBegan | SurgeEnded)]


def test_a_surge_begins_and_ends_by_what_each_chunk_brings() -> None:
    clock, heard, halt = HandClock(), list[Event](), Halt()
    errors: Counter[FailureClass] = Counter()
    surge = Surge(share=0.5, least=10, within=10)
    meter = WatchedMeter(StageSurge("decode", surge, lambda: Counter(errors), halt, clock, heard.append))
    meter.took(8, 0.001)
    errors["bug"] += 4
    meter.took(4, 0.001)
    assert heard == []
    errors["schema"] += 9
    meter.took(10, 0.001)
    (began,) = heard
    assert isinstance(began, SurgeBegan)
    assert (began.stage, began.items, began.failed) == ("decode", 22, 13)
    assert began.classes == {"bug": 4, "schema": 9}
    assert meter.processed == 22
    clock.advance(20)
    meter.took(20, 0.001)
    assert isinstance(heard[-1], SurgeEnded)
    assert heard[-1].failed == 0
    assert not halt.is_set


def test_a_surge_tells_the_listener_and_the_stream_carries_on() -> None:
    heard, letters, sink = list[Event](), list[DeadLetter](), Kept()
    surge = Surge(share=0.5, least=50, times_usual=None)
    ended = (
        Stream(Parts({"a": SCHEMA[100:]}, sizes=[20]))
        .map(twice, name="decode")
        .to(sink)
        .run(fail="soft", dead_letters=letters.append, settings=Settings(surge=surge), listener=heard.append)
    )
    assert ended.complete
    assert (len(letters), len(sink.items)) == (100, 800)
    began, over = surges(heard)
    assert isinstance(began, SurgeBegan)
    assert (began.stage, began.items, began.failed, began.classes) == ("decode", 60, 60, {"bug": 60})
    assert isinstance(over, SurgeEnded)


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize("function", [twice, twice_later])
def test_a_surge_that_is_to_stop_the_stream_ends_it_and_acknowledges_what_was_done(
    workers: int | None, function: Any
) -> None:
    heard, letters, sink = list[Event](), list[DeadLetter](), Kept()
    source = Parts({"a": SCHEMA}, sizes=[20])
    surge = Surge(share=0.25, least=40, times_usual=None, then="stop")
    stream = Stream(source).map(function, name="decode", workers=workers).guarded(surge=surge)
    with pytest.raises(StreamFailed, match=r"'decode' failed on \d+ of the last \d+ items .* bug") as raised:
        stream.to(sink).run(
            fail="soft",
            dead_letters=letters.append,
            settings=Settings(commit_every=0.0, buffer=20),
            listener=heard.append,
        )
    assert "dead letters" in raised.value.hint
    assert len(sink.items) < 800
    dealt_with = source.committed.get("a", 0)
    done = {*sink.items} | {letter.item for letter in letters}
    for item in SCHEMA[:dealt_with]:
        assert (item if isinstance(item, str) else item * 2) in done
    assert isinstance(surges(heard)[0], SurgeBegan)


def test_the_surge_of_a_stage_counts_instead_of_that_of_the_settings() -> None:
    heard = list[Event]()
    (
        Stream(["x"] * 60)
        .map(twice, name="calm", on_error=Skip())
        .guarded(surge=Surge(least=1000))
        .to(Kept())
        .run(settings=Settings(surge=Surge(least=10)), listener=heard.append)
    )
    assert surges(heard) == []


def test_a_sink_that_refuses_too_much_surges_too() -> None:
    heard, letters = list[Event](), list[DeadLetter]()
    Stream(range(60)).to(Kept(refuse=range(60)), on_error=SetAside()).run(
        dead_letters=letters.append, settings=Settings(surge=Surge(least=50)), listener=heard.append
    )
    assert [each.stage for each in heard if isinstance(each, SurgeBegan)] == ["kept"]


def test_nobody_counts_where_nobody_watches() -> None:
    flow = Stream([1]).map(abs).to(Kept())
    layout = flow.layout()
    plain = Assembly(layout, Settings(), HandClock(), fail="fast", post=None, listener=None)
    assert {type(plain.new_meter(node)) for node in layout.nodes} == {Meter}


def test_a_surge_in_the_last_chunk_of_coroutines_is_told() -> None:
    heard, letters = list[Event](), list[DeadLetter]()
    Stream(["x"] * 60).map(twice_later, name="decode", workers=9).to(Kept()).run(
        fail="soft",
        dead_letters=letters.append,
        settings=Settings(surge=Surge(least=50)),
        listener=heard.append,
    )
    (began,) = surges(heard)
    assert isinstance(began, SurgeBegan)
    assert (began.items, began.failed) == (60, 60)
