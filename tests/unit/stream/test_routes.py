"""Ways that part: each item on exactly one, failures and late items as streams, nothing acknowledged too early."""

import asyncio
from collections import Counter
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.stream import (
    Called,
    Collected,
    DeadLetter,
    Default,
    EventTime,
    SetAside,
    Settings,
    Skip,
    Stream,
    WindowPlan,
    count,
    tumbling,
)


def third(number: int) -> str:
    return ("a", "b", "c")[number % 3]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), max_size=120),
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 2]),
    st.integers(1, 50),
)
def test_each_item_goes_one_way_and_in_order(
    items: list[int], sizes: list[int], workers: int | None, further: int | None, chunk: int
) -> None:
    calls: list[int] = []

    def way(number: int) -> str:
        calls.append(number)
        return third(number)

    source = Parts({"p": items}, sizes)
    ways = Stream(source).map(lambda n: n, workers=workers).route(way, ("a", "b", "c"))
    sinks = {name: Kept() for name in ways}
    first, *others = (
        stream.map(lambda n: n, workers=further).to(sinks[name]) for name, stream in ways.items()
    )
    first.also(*others).run(settings=Settings(chunk, buffer=16))
    assert {name: sink.items for name, sink in sinks.items()} == {
        name: [number for number in items if third(number) == name] for name in "abc"
    }
    assert Counter(calls) == Counter(items)
    assert source.committed == ({"p": len(items)} if items else {})


def test_ways_that_come_together_again_have_all_items() -> None:
    even, odd = Stream(Parts({"p": range(100)})).split(lambda n: n % 2 == 0)
    found = list(even.map(lambda n: n * 10).merge(odd.map(str, workers=2)))
    assert Counter(found) == Counter([n * 10 if n % 2 == 0 else str(n) for n in range(100)])


def test_what_goes_where_nobody_follows_has_been_dealt_with() -> None:
    source = Parts({"p": range(10)})
    ways = Stream(source).route(third, "abc")
    assert list(ways["b"]) == [1, 4, 7]
    assert source.committed == {"p": 10}


def test_a_way_may_part_again_and_be_followed_twice() -> None:
    small, _ = Stream(range(12)).split(lambda n: n < 6)
    even, odd = small.split(lambda n: n % 2 == 0)
    sinks = [Kept() for _ in range(3)]
    flow = even.to(sinks[0]).also(odd.to(sinks[1]), even.map(lambda n: -n).to(sinks[2]))
    flow.run()
    assert [sink.items for sink in sinks] == [[0, 2, 4], [1, 3, 5], [0, -2, -4]]


def test_nothing_is_acknowledged_before_every_way_has_dealt_with_its_part() -> None:
    source = Parts({"p": range(6)}, sizes=[6])
    ways = Stream(source).route(third, "abc")
    ends = [
        ways["a"].to(Kept()),
        ways["b"].map(lambda n: n, workers=1).to(Kept(fail=[1])),
        ways["c"].to(Kept()),
    ]
    with pytest.raises(StreamFailed):
        ends[0].also(*ends[1:]).run(settings=Settings(commit_every=0.0))
    assert source.commits == []


@pytest.mark.parametrize("wrong", ["d", None, ["a"]])
def test_a_way_that_is_not_there_is_the_items_error(wrong: Any) -> None:
    letters: list[DeadLetter] = []
    ways = Stream(range(4)).route(lambda n: wrong if n == 2 else "a", "ab")
    sink = Kept()
    ways["a"].to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [0, 1, 3]
    assert [letter.item for letter in letters] == [2]


def test_a_default_is_the_name_of_a_way() -> None:
    ways = Stream([1, 0, 2]).route(lambda n: "ab"[2 // n - 1], "ab", on_error=Default("b"))
    assert list(ways["b"]) == [1, 0]


def test_ways_may_be_called_like_other_ports() -> None:
    ways = Stream(range(4)).route(lambda n: ("late", "failed")[n % 2], ("late", "failed"))
    assert list(ways["failed"]) == [1, 3]


def test_a_mapping_of_ways() -> None:
    ways = Stream(range(3)).route(third, ["a", "b", "c", "a"])
    assert list(ways) == ["a", "b", "c"]
    assert len(ways) == 3
    with pytest.raises(KeyError):
        ways["d"]
    with pytest.raises(DefinitionError):
        Stream([1]).route(third, ())


def half(number: int) -> float:
    return 1 / number


async def half_later(number: int) -> float:
    await asyncio.sleep(0)
    return 1 / number


@pytest.mark.parametrize("function", [half, half_later])
@pytest.mark.parametrize("workers", [None, 3])
def test_failures_are_a_stream(function: Any, workers: int | None) -> None:
    source = Parts({"p": [1, 0, 2, 0, 4]}, sizes=[2])
    halves = Stream(source).map(function, workers=workers)
    good, bad = Kept(), Kept()
    halves.to(good).also(halves.failures().map(lambda letter: (letter.stage, letter.item)).to(bad)).run()
    assert good.items == [1.0, 0.5, 0.25]
    assert bad.items == [(function.__name__, 0)] * 2
    assert source.committed == {"p": 5}


def test_failures_know_where_they_came_from_and_wait_to_be_dealt_with() -> None:
    source = Parts({"p": [1, 0, 2, 0, 4]}, sizes=[5])
    halves = Stream(source).filter(lambda n: n != 1).map(half)
    origins: list[Any] = []
    stop = halves.failures().map(lambda letter: letter.origin).to(Called(origins.extend))
    halves.to(Kept()).also(stop).run()
    assert [(each.part, each.first, each.index) for each in origins] == [("p", 0, 1), ("p", 0, 3)]
    failing = halves.failures().to(Kept(fail=[1]))
    with pytest.raises(StreamFailed):
        halves.to(Kept()).also(failing).run(settings=Settings(commit_every=0.0))
    assert source.committed == {"p": 5}
    assert len(source.commits) == 1


def test_failures_alone_may_be_followed() -> None:
    halves = Stream([1, 0, 2]).map(half)
    assert [letter.item for letter in halves.failures()] == [0]


def test_failures_of_other_stages_stay_dead_letters() -> None:
    letters: list[DeadLetter] = []
    halves = Stream(["1", "x", "0"]).map(int).map(half)
    bad = Kept()
    halves.to(Kept()).also(halves.failures().map(lambda letter: letter.item).to(bad)).run(
        fail="soft", dead_letters=letters.append
    )
    assert bad.items == [0]
    assert [letter.item for letter in letters] == ["x"]


def test_failures_of_a_stage_of_batches_are_those_of_its_rows_too() -> None:
    def check(table: Any) -> Any:
        if 3 in table["id"].to_pylist():
            raise ValueError("three")
        return table

    stream = Stream([{"id": 1}, "no row", {"id": 3}, {"id": 4}]).map_batches(check, 10, splittable=True)
    good, bad = Kept(), Kept()
    stream.rows().to(good).also(stream.failures().map(lambda letter: letter.item).to(bad)).run()
    assert good.items == [{"id": 1}, {"id": 4}]
    assert len(bad.items) == 2
    assert "no row" in bad.items
    assert {"id": 3} in bad.items


def test_stages_that_set_nothing_aside_have_no_failures() -> None:
    for stream in (
        Stream([1]),
        Stream([1]).batch(2),
        Stream([1]).by_key(half),
        Stream([1]).map(half, on_error=Skip()),
    ):
        with pytest.raises(DefinitionError, match="sets nothing aside"):
            stream.failures()
    assert [letter.item for letter in Stream([0]).map(half, on_error=SetAside()).failures()] == [0]


def by_minute(**more: Any) -> WindowPlan:
    return WindowPlan(windows=tumbling(60), aggregate=count(), time=EventTime(at=itemgetter(0)), **more)


def test_late_items_are_a_stream_and_wait_to_be_dealt_with() -> None:
    source = Parts({"p": [(10, "x"), (100, "y"), (20, "late"), (130, "z"), (30, "later")]}, sizes=[2])
    windows = Stream(source).window(by_minute())
    results, late, beside = Collected[Any](), Kept(), Kept()
    both = Stream(source).window(by_minute(), beside=beside)
    both.to(results).also(both.late.map(lambda each: each.item[1]).to(late)).run()
    assert late.items == ["late", "later"]
    assert [each.item[1] for each in beside.items] == ["late", "later"]
    assert [each.value for each in results.items] == [1, 1, 1]
    assert source.committed == {"p": 5}
    del source.commits[:]
    failing = windows.to(Kept()).also(windows.late.to(Kept(fail=[1])))
    with pytest.raises(StreamFailed):
        failing.run(settings=Settings(commit_every=0.0))
    assert source.committed.get("p", 0) <= 2


def test_late_items_of_several_workers() -> None:
    items = [(second if second % 5 else 0, "abcd"[second % 4]) for second in range(60, 400)]
    keyed = Stream(items).by_key(itemgetter(1), into=4).map(lambda item: item, workers=4)
    windows = keyed.window(by_minute(key=itemgetter(1)))
    late, results = Kept(), Kept()
    windows.to(results).also(windows.late.to(late)).run(settings=Settings(chunk=10))
    assert sum(each.value for each in results.items) + len(late.items) == len(items)
    assert late.items


def test_it_is_drawn_with_its_ways() -> None:
    ways: Any = Stream(iter([]), name="clicks").route(third, ("a", "b", "c"), name="kind")
    flow = (
        ways["a"]
        .to(Called(print, name="one"))
        .also(ways["c"].map(str, workers=2).to(Called(print, name="two")))
    )
    assert flow.explain().splitlines()[:2] == [
        "clicks + kind [a or b or c] + a + > one + c  (1 thread)",
        "c --[4,096 items]--> str  (2 threads, in order)",
    ]
