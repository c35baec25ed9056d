"""Streams as outputs of tasks: drawn as they are written, cancelled with their step, dead letters kept."""

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidestage import Dataset, Partition, Pipeline, Static
from sidestage.clock import SystemClock
from sidestage.errors import DefinitionError
from sidestage.pipeline.annotations import check_input_annotation, check_output_annotation
from sidestage.run import rows_bench
from sidestage.run.attempt import Workbench
from sidestage.run.current import Cancelled
from sidestage.run.faults import Faults
from sidestage.run.messages import Execute, Failed, Written
from sidestage.stream import SetAside, Stream, read_letters

MADE = Dataset("made", Static(["all"]))


@dataclasses.dataclass
class Row:
    n: int


class Bench:
    """A task that returns what it is given, run as a worker's process runs it."""

    def __init__(self, folder: Path) -> None:
        self.numbers = itertools.count(1)
        self.lake = folder / "lake"
        self.log = folder / "logs" / "run-1" / "make@all.1.log"
        (folder / "temporary").mkdir()
        self.bench = Workbench(self.lake, "", folder / "temporary", SystemClock(), Faults({}))

    def __call__(self, make, returns: object = None) -> Written | Failed:
        pipeline = Pipeline("small")

        def task(part: Partition):
            return make()

        if returns is not None:
            task.__annotations__["return"] = returns
        pipeline.task(writes=MADE, name="make")(task)
        version = f"{next(self.numbers):024x}"
        request = Execute(1, "small.make@all", "small.make", "all", version, 1, "key", (), str(self.log))
        return self.bench.attempt(pipeline.tasks["make"], request, nullcontext)

    def rows(self, answer: Written | Failed) -> list[dict[str, object]]:
        assert isinstance(answer, Written), answer
        return pq.read_table(self.lake / answer.stored.path).to_pylist()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = threading.active_count()
    bench = Bench(tmp_path)
    yield bench
    assert threading.active_count() == before, "nothing that a stream started is left"
    bench.bench.close()


def test_a_stream_of_rows_is_written(bench: Bench) -> None:
    answer = bench(lambda: Stream(range(5)).map(lambda n: {"n": n}, workers=2))
    assert bench.rows(answer) == [{"n": n} for n in range(5)]
    assert not bench.log.with_suffix(".letters.jsonl").exists()


def test_its_annotation_promises_rows_even_if_there_are_none(bench: Bench) -> None:
    assert bench.rows(bench(lambda: Stream([]).map(Row), Stream[Row])) == []
    assert bench.rows(bench(lambda: Stream([1]).map(Row), Stream[Row])) == [{"n": 1}]


def test_a_stream_of_tables_is_written(bench: Bench) -> None:
    answer = bench(lambda: Stream([1, 2]).map(lambda n: pa.table({"n": [n, n]})), Stream[pa.Table])
    assert bench.rows(answer) == [{"n": 1}, {"n": 1}, {"n": 2}, {"n": 2}]


def test_annotations_of_streams() -> None:
    for fine in (Stream[Row], Stream[dict], Stream[pa.Table], Stream):
        check_output_annotation(fine)
    with pytest.raises(DefinitionError):
        check_output_annotation(Stream[int])
    with pytest.raises(DefinitionError):
        check_input_annotation(Stream[Row])


def test_it_is_read_as_it_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is never further ahead of what was written than the stream's buffers and two batches."""
    read, furthest, most = 0, 0, 100_000
    inner = rows_bench.to_batches

    def source() -> Iterator[int]:
        nonlocal read
        while read < most:
            read += 1
            yield read

    def watched(output: object, returns: object):
        nonlocal furthest
        schema, batches = inner(output, returns)
        written = 0

        class Watched:
            def __iter__(self):
                nonlocal written, furthest
                for batch in batches:
                    furthest = max(furthest, read - written)
                    written += batch.num_rows
                    yield batch

            def close(self) -> None:
                batches.close()

        return schema, Watched()

    monkeypatch.setattr(rows_bench, "to_batches", watched)
    answer = bench(lambda: Stream(source()).map(lambda n: {"n": n}, workers=2))
    assert len(bench.rows(answer)) == most
    assert furthest < 40_000


class Busy(Exception):
    failure_class = "rate-limited"


def fail_on(what: int, error: Exception):
    def function(n: int) -> dict[str, int]:
        if n == what:
            raise error
        return {"n": n}

    return function


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("bad"), "bug"), (ConnectionError("gone"), "transient"), (Busy(), "rate-limited")],
)
@pytest.mark.parametrize("at", [0, 50_000], ids=["first", "later"])
def test_an_error_of_the_stream_is_the_step_s(bench: Bench, error: Exception, expected: str, at: int) -> None:
    answer = bench(lambda: Stream(range(60_000)).map(fail_on(at, error), workers=2))
    assert isinstance(answer, Failed)
    assert answer.failure_class == expected
    assert type(error).__name__ in answer.details
    assert list(bench.lake.rglob("*.parquet")) == []


def test_rows_that_do_not_fit_end_the_stream(bench: Bench) -> None:
    def mixed(n: int) -> object:
        return {"n": n} if n < 30_000 else Row(n)

    answer = bench(lambda: Stream(iter(range(10**9))).map(mixed, workers=2))
    assert isinstance(answer, Failed)
    assert answer.failure_class == "schema"


@pytest.mark.parametrize("begun", [False, True], ids=["before the first row", "in the middle"])
def test_a_step_that_is_cancelled_cancels_its_stream(
    bench: Bench, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the main thread the exception comes: while it waits for the stream, or while it writes."""
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    def cancelled(*_: object) -> object:
        raise Cancelled("The attempt was told to stop.")

    if begun:
        encoder = "sidestage.data.lake_writer.LakeWriter.write"
        inner = rows_bench.LakeWriter.write

        def write(self, dataset, partition, version, schema, batches, **more):
            return inner(self, dataset, partition, version, schema, map(cancelled, batches), **more)

        monkeypatch.setattr(encoder, write)
    else:
        monkeypatch.setattr("sidestage.run.rows.RowEncoder.encode", cancelled)
    answer = bench(lambda: Stream(source()).map(lambda n: {"n": n}, workers=2))
    assert isinstance(answer, Failed)
    assert (answer.failure_class, answer.message) == ("transient", "Cancelled: The attempt was told to stop.")
    assert closed.wait(120)


def decode(n: int) -> dict[str, int]:
    return fail_on(3, ValueError("three"))(n)


def test_dead_letters_lie_beside_the_log(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    answer = bench(lambda: Stream(range(5)).map(decode, on_error=SetAside()))
    assert [row["n"] for row in bench.rows(answer)] == [0, 1, 2, 4]
    path = bench.log.with_name("make@all.1.letters.jsonl")
    assert [(letter.stage, letter.value()) for letter in read_letters(path)] == [("decode", 3)]
    assert capsys.readouterr().out == f"1 dead letter: {path}\n"


def test_behind_a_wall_dead_letters_are_printed(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "logs").write_text("no folder")
    bench(lambda: Stream(range(5)).map(decode, on_error=SetAside()))
    head, line = capsys.readouterr().out.splitlines()
    assert head == "1 dead letter:"
    assert '"shown":"3"' in line
    assert list((tmp_path / "temporary").iterdir()) == []
