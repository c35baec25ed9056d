"""Stages in processes do what they do in threads. Here the process is at hand, and dies when it is told to."""

import mmap
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.restart import Restart
from sidestage.policy.retry import Retry
from sidestage.stream import BatchSize, DeadLetter, Default, SetAside, Settings, Skip, Stream
from sidestage.stream.failing import StreamDied, WorkerDied
from sidestage.stream.workers import hands, processes
from sidestage.stream.workers.parcels import Parcel, unpacked

CALLS: Counter[str] = Counter()
"""How often a function was told of something, in the processes as well, since they are at hand."""


class Kill(BaseException):
    """Ends a process."""


class Near:
    """In place of a process: all goes there and back by parcel."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = pickle.loads(pickle.dumps(function))
        self._place = mmap.mmap(-1, mmap.PAGESIZE)

    def ask(self, sent: Parcel, *_: Any) -> Any:
        processes._note(self._place, processes.NOWHERE)
        CALLS["asked"] += 1
        try:
            items = _carried(sent)
            return _carried(processes._answer(processes._done(self._function, items, self._place)))
        except Kill:
            return processes.Death(processes._noted(self._place), WorkerDied("killed"), is_late=False)

    def used(self) -> float:
        return 0.25

    def end(self) -> None:
        CALLS["ended"] += 1


def _carried(sent: Parcel) -> Any:
    return unpacked(sent.body, [bytearray(b"".join(each)) for each in sent.buffers])


@pytest.fixture(autouse=True)
def _near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "Child", Near)
    CALLS.clear()


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": "x" * (number % 7)} for number in range(count)]


def ids(batch: Any) -> list[int]:
    if isinstance(batch, list):
        return [row["id"] for row in batch]
    return list(batch["id"].to_pylist() if isinstance(batch, pa.Table) else batch["id"])


class No:
    """Gives back tables, or lists, unless they have a bad row."""

    def __init__(self, bad: Iterable[int]) -> None:
        self.bad = frozenset(bad)
        self.__name__ = "no"

    def __call__(self, batch: Any) -> Any:
        found = self.bad.intersection(ids(batch))
        if found:
            raise ValueError(f"bad rows {sorted(found)}")
        return batch


Outcome = tuple[list[Any], list[tuple[Any, Any, str, int]], dict[str, Any]]


def outcome(build: Callable[[Stream[Any]], Stream[Any]], items: list[Any], sizes: list[int]) -> Outcome:
    """Return what is written, what is set aside, and how far it was acknowledged."""
    letters: list[DeadLetter] = []
    sink, source = Kept(), Parts({"a": items}, sizes)
    build(Stream(source)).to(sink).run(
        fail="soft", dead_letters=letters.append, settings=Settings(restart=Restart(times=99, delay=0.0))
    )
    told = [
        (_plain(it.item), it.origin and (it.origin.first, it.origin.index), str(it.error), it.attempt)
        for it in letters
    ]
    return sink.items, told, source.committed


def _plain(item: Any) -> Any:
    if isinstance(item, pa.Table):
        return item.to_pylist()
    return item.to_dicts() if isinstance(item, pl.DataFrame) else item


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 59), max_size=4),
    st.sampled_from([None, 1, 9, 40, BatchSize(bytes=400)]),
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(["arrow", "polars", "list"]),
    st.sampled_from([None, Skip(), SetAside()]),
    st.sampled_from([None, Retry(times=1, delay=0.0)]),
)
def test_tables_come_to_the_same_in_processes_and_in_threads(
    bad: set[int], size: Any, sizes: list[int], splittable: bool, of: Any, on_error: Any, retry: Any
) -> None:
    if of == "list":
        size = size if isinstance(size, int) else 8

    def build(on: Any) -> Callable[[Stream[Any]], Stream[Any]]:
        terms = {"on_error": on_error, "retry": retry, "on": on}
        return lambda stream: stream.map_batches(
            No(bad), size, of=of, splittable=splittable, **terms
        ).map_batches(No(()), 10)

    there, here = outcome(build("process"), rows(60), sizes), outcome(build("thread"), rows(60), sizes)
    assert there[1:] == here[1:]
    assert list(Stream(there[0]).rows()) == list(Stream(here[0]).rows())


def odd(number: int) -> int:
    if number % 11 == 10:
        raise ValueError(number)
    return number % 2


def many(number: int) -> Iterator[int]:
    for each in range(number % 5 * (4000 if number == 33 else 1)):
        if number % 11 == 10 and each == 1:
            raise ValueError(number)
        yield each


def few(number: int) -> list[int]:
    return list(many(number))


@pytest.mark.parametrize("on_error", [None, Skip(), SetAside(), Default([7, 8])])
@pytest.mark.parametrize("retry", [None, Retry(times=1, delay=0.0)])
@pytest.mark.parametrize("sizes", [[1], [10, 3], [100]])
@pytest.mark.parametrize("kind", ["filter", "flat_map"])
def test_items_come_to_the_same_in_processes_and_in_threads(
    kind: str, on_error: Any, retry: Any, sizes: list[int]
) -> None:
    function = odd if kind == "filter" else few

    def build(on: Any) -> Callable[[Stream[Any]], Stream[Any]]:
        return lambda stream: getattr(stream, kind)(function, on=on, on_error=on_error, retry=retry).map(abs)

    assert outcome(build("process"), list(range(60)), sizes) == outcome(
        build("thread"), list(range(60)), sizes
    )


def test_a_process_makes_all_of_an_item_or_nothing() -> None:
    assert outcome(lambda stream: stream.flat_map(many, on="process"), [9, 10 + 11 * 2, 3], [3])[0] == [
        0, 1, 2, 3, 0, 1, 2,
    ]  # fmt: skip


class Deadly:
    """Kills its process at some rows, each time or the first time only."""

    def __init__(self, at: int, times: int) -> None:
        self.at = at
        self.times = times
        self.__name__ = "deadly"

    def __call__(self, batch: Any) -> Any:
        if self.at in ids(batch) and CALLS["deaths"] < self.times:
            CALLS["deaths"] += 1
            raise Kill
        return batch


@pytest.mark.parametrize("of", ["arrow", "list"])
def test_a_table_that_kills_twice_is_set_aside_as_a_whole_and_no_other(of: Any) -> None:
    def build(stream: Stream[Any]) -> Stream[Any]:
        return stream.map_batches(Deadly(12, 99), 5, of=of, splittable=True, on="process")

    made, letters, committed = outcome(build, rows(30), [30])
    left = [row for row in rows(30) if not 10 <= row["id"] < 15]
    assert (made if of == "list" else list(Stream(made).rows())) == left
    assert [(item, error, attempt) for item, _, error, attempt in letters] == [(rows(15)[10:], "killed", 2)]
    assert CALLS["deaths"] == 2
    assert committed == {"a": 30}


def test_a_table_that_kills_once_is_done_by_the_next() -> None:
    made, letters, _ = outcome(
        lambda stream: stream.map_batches(Deadly(12, 1), 5, on="process").rows(), rows(30), [7]
    )
    assert (made, letters) == (rows(30), [])


def test_processes_that_keep_dying_end_the_stream() -> None:
    terms = Settings(restart=Restart(times=1, delay=0.0, longest=0.0))
    with pytest.raises(StreamDied, match="killed"):
        Stream(rows(9)).map_batches(Deadly(4, 99), 3, on="process").to(Kept()).run(settings=terms)


def neither(table: pa.Table) -> Any:
    CALLS["neither"] += 1
    return {"a": [1]}


def test_a_wrong_return_is_said_and_not_looked_for_in_rows() -> None:
    with pytest.raises(StreamFailed, match=r"returned a dict.*Return a pyarrow.Table"):
        list(Stream(rows(8)).map_batches(neither, 8, splittable=True, on="process"))
    assert CALLS["neither"] == 1


def pieces(table: pa.Table) -> Iterator[pa.Table]:
    yield table.slice(0, 1)
    yield table.slice(0, 0)
    yield from table.slice(1).to_batches()


def test_what_is_returned_may_be_an_iterator_of_tables() -> None:
    sink = Kept()
    Stream(rows(3)).map_batches(pieces, 3, on="process", timeout=60).to(sink).run()
    assert [(type(each), len(each)) for each in sink.items] == [(pa.Table, 1), (pa.Table, 2)]


def locked(table: pa.Table) -> list[Any]:
    return [_near if each == 2 else each for each in ids(table)] if len(table) > 9 else [lambda: 1]


def test_what_cannot_come_back_is_the_error_of_its_table() -> None:
    _, letters, _ = outcome(lambda stream: stream.map_batches(locked, 2, on="process"), rows(4), [4])
    assert [item for item, *_ in letters] == [rows(4)[:2], rows(4)[2:]]
    assert "cannot be sent back" in letters[0][2]


@pytest.mark.parametrize("kind", ["map", "filter", "flat_map", "map_batches"])
def test_a_function_that_cannot_be_sent_is_refused_before_anything_is_read(kind: str) -> None:
    stream = getattr(Stream([1]), kind)(lambda it: it, on="process")
    with pytest.raises(DefinitionError, match="cannot be sent to a process"):
        stream.to(Kept()).engine()


def test_a_timeout_for_a_generator_is_for_processes_only() -> None:
    for stream in (Stream([1]).flat_map(many, timeout=1.0), Stream([1]).map_batches(pieces, timeout=1.0)):
        with pytest.raises(DefinitionError, match="is a generator") as error:
            stream.to(Kept()).engine()
        assert 'on="process"' in error.value.hint


def test_explain_tells_processes_from_threads() -> None:
    stream = (
        Stream([1]).filter(odd, workers=2, on="process").map_batches(neither, on="process").rows(workers=2)
    )
    told = stream.to(Kept()).explain()
    assert "2 processes, in order" in told
    assert "neither  (1 process)" in told
    assert "2 threads, in order" in told


def test_unknown_terms_are_refused() -> None:
    terms: Any = {"worker": 2}
    with pytest.raises(TypeError, match="worker"):
        Stream([1]).map_batches(neither, **terms)


def test_rows_are_counted_and_processor_time_is_that_of_rows() -> None:
    ended = Stream(rows(40)).map_batches(No(()), 10, workers=2, on="process").to(Kept()).run()
    stage = next(each for each in ended.stages if each.name == "no")
    assert (stage.workers, stage.processed, stage.errors) == (2, 40, 0)
    assert stage.cpu == pytest.approx(4 * 0.25)
    assert ended.cpu >= 4 * 0.25


def test_chunks_of_lists_go_together_and_processes_are_ended() -> None:
    stream = Stream(Parts({"a": range(100)}, sizes=[100])).map_batches(
        itemgetter(0, 1), 2, of="list", on="process"
    )
    assert list(stream) == list(range(100))
    assert CALLS["asked"] <= 3
    assert CALLS["ended"] == 1
