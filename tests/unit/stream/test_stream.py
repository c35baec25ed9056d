"""What stages do with items, and what becomes of those they fail on."""

import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.retry import Retry
from sidestage.stream.chunk import Origin
from sidestage.stream.failing import DeadLetter, Default, Raise, SetAside, Skip
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import EventTime


def twice(number: int) -> int:
    return number * 2


async def soon(number: int) -> int:
    return number


def not_seven(number: int) -> int:
    if number % 7 == 0:
        raise ValueError(f"{number} has a seven in it")
    return number


def test_a_stream_gives_what_its_stages_make() -> None:
    stream = Stream(range(10)).map(twice).filter(lambda n: n % 3 == 0).flat_map(lambda n: [n, -n])
    assert list(stream) == [0, 0, 6, -6, 12, -12, 18, -18]
    assert list(stream) == [0, 0, 6, -6, 12, -12, 18, -18], "a description can be run again"


@pytest.mark.parametrize("workers", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_order_is_kept_however_many_work(workers: int | None, chunk: int) -> None:
    sink = Kept()
    stream = Stream(range(500)).map(twice, workers=workers).filter(lambda n: n % 3, workers=workers)
    stream.flat_map(lambda n: (n, n), workers=workers).to(sink).run(settings=Settings(chunk, chunk * 2))
    assert sink.items == [n for number in range(500) if number * 2 % 3 for n in (number * 2, number * 2)]
    assert (sink.opened, sink.closed) == (1, 1)


def test_an_unordered_stage_loses_and_doubles_nothing() -> None:
    sink = Kept()
    Stream(range(2000)).map(twice, workers=4, ordered=False).to(sink).run(settings=Settings(chunk=10))
    assert sorted(sink.items) == [number * 2 for number in range(2000)]


def test_items_of_one_key_stay_in_order_and_are_done_one_after_another() -> None:
    busy, who = set[int](), set[str]()

    def note(number: int) -> int:
        assert number % 11 not in busy
        busy.add(number % 11)
        who.add(threading.current_thread().name)
        busy.remove(number % 11)
        return number

    sink = Kept()
    stream = Stream(range(3000)).by_key(lambda n: n % 11, into=8).map(note, workers=3)
    stream.map(twice).to(sink).run(settings=Settings(chunk=50))
    assert sorted(sink.items) == [n * 2 for n in range(3000)]
    assert who <= {"note 1", "note 2", "note 3"}
    for key in range(11):
        mine = [n for n in sink.items if n // 2 % 11 == key]
        assert mine == sorted(mine)


def test_more_workers_than_keys_are_shared_among_is_refused() -> None:
    stream = Stream([1]).by_key(twice, into=2).map(twice, workers=3)
    with pytest.raises(DefinitionError, match="3 workers") as error:
        stream.to(Kept()).run()
    assert "into=3" in error.value.hint


def test_keys_are_those_that_items_had_at_by_key_whatever_became_of_them() -> None:
    busy = set[tuple[str, int]]()

    def note(item: tuple[int, str]) -> tuple[int, str]:
        mine = threading.current_thread().name.split()[0], item[0] % 5
        assert mine not in busy
        busy.add(mine)
        busy.remove(mine)
        return item

    sink = Kept()
    stream = Stream(range(1000)).by_key(lambda n: n % 5, into=4).map(lambda n: (n, "other"))
    stream.map(note, workers=3).map(note, workers=2).to(sink).run(settings=Settings(chunk=20))
    assert sorted(sink.items) == [(n, "other") for n in range(1000)]
    for key in range(5):
        mine = [n for n, _ in sink.items if n % 5 == key]
        assert mine == sorted(mine)


def test_stages_that_share_keys_have_as_many_workers_as_they_say() -> None:
    stream = Stream([1]).by_key(twice, into=4).map(twice, workers=1).filter(twice).map(twice, workers=3)
    layout = stream.map(twice, workers=2).map(twice, workers=1).to(Kept()).layout()
    found = [(segment.workers, segment.lines) for segment in layout.segments]
    assert found == [(1, 0), (1, 4), (3, 4), (2, 4), (1, 0)]


def test_windows_keep_their_keys_so_all_stages_before_them_have_as_many_workers() -> None:
    plan = WindowPlan(windows=tumbling(60), aggregate=count(), time=EventTime(at=float))
    keyed = Stream([1]).by_key(twice, into=4)
    for stream in (
        keyed.map(twice, workers=2).map(twice, workers=3),
        keyed.map(twice, workers=1).map(twice, workers=2),
        keyed.map(soon, workers=2),
    ):
        with pytest.raises(DefinitionError) as error:
            stream.window(plan).to(Kept()).run()
        assert "merge()" in error.value.hint
    brought = keyed.map(twice, workers=2).map(twice, workers=1).map(twice, workers=2).window(plan)
    with pytest.raises(DefinitionError, match="brought all keys together"):
        brought.to(Kept()).run()


def test_a_key_that_cannot_be_had_concerns_its_item_only() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    stream = Stream([[1], (2,), None, "x" * 100_000]).by_key(lambda item: item, into=2)
    stream.map(lambda item: item, workers=2).to(sink).run(fail="soft", dead_letters=letters.append)
    assert sorted(map(str, sink.items)) == sorted(["(2,)", "None", "x" * 100_000])
    assert [(letter.stage, letter.item) for letter in letters] == [("by_key", [1])]


# What a stage fails on


def test_the_first_failure_ends_a_stream_and_says_where() -> None:
    source = Parts({"a": range(100)}, sizes=[10])
    with pytest.raises(
        StreamFailed, match=r"'not_seven' failed on 7 \(item 7 of the batch at 0 of a, trace [0-9a-f]{32}\)"
    ) as error:
        Stream(source).filter(bool).map(not_seven).to(Kept()).run()
    assert isinstance(error.value.__cause__, ValueError)
    assert source.committed.get("a", 0) == 0
    assert source.closed == 1


def test_a_stream_told_to_carry_on_sets_items_aside_with_all_that_is_known() -> None:
    sink, letters = Kept(refuse=[8]), list[DeadLetter]()
    source = Parts({"a": range(20)}, sizes=[10])
    stream = Stream(source).filter(lambda n: n > 3).map(not_seven)
    ended = stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [n for n in range(4, 20) if n not in (7, 8, 14)]
    found = {letter.item: letter for letter in letters}
    assert sorted(found) == [7, 8, 14]
    assert (found[7].stage, found[7].failure_class, found[7].attempt) == ("not_seven", "bug", 1)
    assert str(found[7].error) == "7 has a seven in it"
    assert found[7].origin == Origin("a", 0, 7)
    assert found[14].origin == Origin("a", 10, 4)
    assert (found[8].stage, found[8].origin) == ("kept", Origin("a", 0, 8))
    assert source.committed == {"a": 20}
    assert (ended.complete, ended.dead_letters) == (True, 3)
    assert [(each.name, each.processed, each.errors) for each in ended.stages] == [
        ("filter", 20, 0),
        ("not_seven", 16, 2),
        ("kept", 14, 1),
    ]


def test_each_stage_may_say_what_becomes_of_what_it_fails_on() -> None:
    numbers = Stream(range(1, 9))
    assert list(numbers.map(not_seven, on_error=Skip())) == [1, 2, 3, 4, 5, 6, 8]
    assert list(numbers.map(not_seven, on_error=Default(0))) == [1, 2, 3, 4, 5, 6, 0, 8]
    assert list(numbers.filter(not_seven, on_error=Skip())) == [1, 2, 3, 4, 5, 6, 8]
    assert list(numbers.filter(not_seven, on_error=Default(value=True))) == list(range(1, 9))
    assert list(numbers.flat_map(lambda n: [not_seven(n)] * 2, on_error=Default([0]))) == [
        *[n for n in range(1, 7) for _ in "ab"], 0, 8, 8,
    ]  # fmt: skip
    letters: list[DeadLetter] = []
    flow = numbers.map(not_seven, on_error=SetAside()).to(Kept())
    flow.run(dead_letters=letters.append)
    assert [letter.item for letter in letters] == [7]
    with pytest.raises(StreamFailed):
        numbers.map(not_seven, on_error=Raise()).to(Kept()).run(fail="soft", dead_letters=letters.append)


def test_setting_aside_needs_a_place() -> None:
    with pytest.raises(DefinitionError, match="no place") as error:
        Stream([1]).map(not_seven, on_error=SetAside()).to(Kept()).run()
    assert "dead_letters=" in error.value.hint
    with pytest.raises(DefinitionError, match="no place"):
        Stream([1]).to(Kept()).run(fail="soft")


def test_what_may_pass_is_tried_again_and_no_neighbour_runs_twice() -> None:
    calls: defaultdict[int, int] = defaultdict(int)

    def shaky(number: int) -> int:
        calls[number] += 1
        if number == 5 and calls[number] < 3:
            raise ConnectionError
        return number

    assert list(Stream(range(10)).map(shaky, retry=Retry(times=3, delay=0.0))) == list(range(10))
    assert calls == {**dict.fromkeys(range(10), 1), 5: 3}


def test_what_stays_broken_is_set_aside_after_its_tries() -> None:
    def down(number: int) -> int:
        raise ConnectionError

    letters: list[DeadLetter] = []
    Stream([1]).map(down, retry=Retry(times=2, delay=0.0)).to(Kept()).run(
        fail="soft", dead_letters=letters.append
    )
    assert [(letter.attempt, letter.failure_class) for letter in letters] == [(3, "transient")]


def test_a_write_that_is_lost_is_repeated_as_a_whole() -> None:
    sink = Kept(fail=[1, 2])
    Stream(range(10)).to(sink, retry=Retry(times=2, delay=0.0)).run()
    assert sink.items == list(range(10))
    letters: list[DeadLetter] = []
    lost = Kept(fail=[1])
    source = Parts({"a": range(20)}, sizes=[10])
    Stream(source).to(lost).run(fail="soft", dead_letters=letters.append)
    assert lost.items == list(range(10, 20))
    assert [letter.item for letter in letters] == list(range(10))
    assert source.committed == {"a": 20}


def test_a_generator_that_fails_half_way_gives_nothing_of_that_item() -> None:
    def halves(number: int) -> Iterator[int]:
        yield number
        not_seven(number)
        yield -number

    assert list(Stream([6, 7, 8]).flat_map(halves, on_error=Skip())) == [6, -6, 8, -8]


def test_an_item_may_become_more_than_memory_holds() -> None:
    sink = Kept()
    Stream([3, 50_000, 2]).flat_map(range).to(sink).run()
    assert sink.items == [*range(3), *range(50_000), *range(2)]
    assert max(sink.chunks) <= 3 * 8192


# Sources


def test_what_a_source_raises_ends_the_stream() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="disk is gone"):
        got += list(Stream(numbers()))


def test_nothing_can_be_read_from_a_number() -> None:
    with pytest.raises(DefinitionError, match="int"):
        Stream(7)  # type: ignore[arg-type]


def test_whoever_stops_iterating_stops_the_stream() -> None:
    before = threading.active_count()
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    stream = iter(Stream(numbers()).map(twice, workers=2))
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert closed.wait(120)
    assert threading.active_count() == before


def test_several_streams_come_together_and_one_goes_several_ways() -> None:
    odd, even, all_of_them = Kept(), Kept(), Kept()
    numbers = Stream(range(100)).map(twice)
    both = numbers.merge(Stream(range(1, 200, 2)))
    flow = (
        both.filter(lambda n: n % 2)
        .to(odd)
        .also(both.filter(lambda n: n % 2 == 0).to(even), both.to(all_of_them))
    )
    flow.run(settings=Settings(chunk=9))
    assert odd.items == list(range(1, 200, 2))
    assert even.items == list(range(0, 200, 2))
    assert sorted(all_of_them.items) == list(range(200))


def test_batches_are_full_but_for_the_last() -> None:
    assert list(Stream(range(10)).batch(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(Stream([]).batch(4)) == []
    with pytest.raises(DefinitionError):
        Stream([1]).batch(0)
