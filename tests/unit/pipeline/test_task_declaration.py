"""Declaring tasks: which functions, queries and inputs are accepted, and where a refusal points."""

import functools
import re

import pytest

from sidestage.data.calendar import Daily
from sidestage.data.dataset import Dataset, same, window
from sidestage.errors import DefinitionError, NameRefused
from sidestage.pipeline.pipeline import Pipeline

DAYS = Daily("2013-01-01")
A, B, OUT = (Dataset(name, DAYS) for name in ("a", "b", "out"))
HERE = re.escape(__file__) + r":\d+: "


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline("flow")


def test_a_function_stays_as_it_is(pipeline):
    def make(day, rows):
        return rows

    assert pipeline.task(reads=A, writes=OUT)(make) is make
    assert list(pipeline.tasks["make"].reads) == ["rows"]


def test_inputs_stand_in_the_order_of_the_functions_parameters(pipeline):
    @pipeline.task(reads={"second": B, "first": A}, writes=OUT)
    def make(day, first, second): ...

    assert [read.dataset for read in pipeline.tasks["make"].reads.values()] == [A, B]
    assert list(pipeline.tasks["make"].reads) == ["first", "second"]


def test_the_name_can_be_given(pipeline):
    pipeline.task(writes=OUT, name="other")(lambda day: [])
    assert list(pipeline.tasks) == ["other"]


@pytest.mark.parametrize(
    ("reads", "function", "text"),
    [
        ([A, B], lambda day, a: a, "reads 2 dataset(s) but its function takes 1 input(s)"),
        ([], lambda day, a: a, "reads 0 dataset(s) but its function takes 1 input(s)"),
        ([A], lambda day: [], "reads 1 dataset(s) but its function takes 0 input(s)"),
        ([], lambda: None, "must be a function of a partition and its inputs"),
        ([A], lambda day, *, a: a, "must be a function of a partition and its inputs"),
        ([A], lambda day, *rows: rows, "must be a function of a partition and its inputs"),
        ({"b": A}, lambda day, a: a, "takes (a) but reads= names (b)"),
        ({"a": "a"}, lambda day, a: a, "reads 'a', which is not a Dataset"),
        (["a"], lambda day, a: a, "reads 'a', which is not a Dataset"),
        (5, lambda day, a: a, "reads 5, which is not a Dataset"),
    ],
)
def test_inputs_and_parameters_must_agree(pipeline, reads, function, text):
    with pytest.raises(DefinitionError, match=HERE) as caught:
        pipeline.task(reads=reads, writes=OUT, name="make")(function)
    assert text in str(caught.value)


@pytest.mark.parametrize("writes", [None, "out", [OUT], same(OUT)])
def test_exactly_one_dataset_is_written(pipeline, writes):
    with pytest.raises(DefinitionError, match=f"{HERE}.*must write exactly one Dataset"):
        pipeline.task(writes=writes)(test_exactly_one_dataset_is_written)


class Callable:
    def __call__(self, day): ...


@pytest.mark.parametrize("thing", [functools.partial(max, 1), Callable(), len, 5])
def test_only_functions_are_tasks(pipeline, thing):
    with pytest.raises(DefinitionError, match=f"{HERE}.*not a plain function") as caught:
        pipeline.task(writes=OUT, name="make")(thing)
    assert caught.value.hint


def test_a_duplicate_names_both_places(pipeline):
    def make(day): ...

    pipeline.task(writes=OUT)(make)
    with pytest.raises(DefinitionError, match=f"{HERE}pipeline 'flow' has a task 'make' already") as caught:
        pipeline.sql("make", writes=A, query="select 1")
    line = make.__code__.co_firstlineno
    assert f"declared at {__file__}:{line}" in str(caught.value)


@pytest.mark.parametrize("name", ["", "1st", "a b", "a.b", "a@b", "ü", "a" * 101])
def test_names(pipeline, name):
    with pytest.raises(NameRefused):
        pipeline.sql(name, writes=OUT, query="select 1")
    with pytest.raises(NameRefused):
        Pipeline(name)


def test_inputs_of_a_query_are_named_by_the_end_of_their_names(pipeline):
    raw, rates = Dataset("flights/raw-2", DAYS), Dataset("rates", DAYS)
    pipeline.sql("make", reads=[raw, window(rates, before=1)], writes=OUT, query="select 1")
    assert list(pipeline.tasks["make"].reads) == ["raw_2", "rates"]


def test_inputs_of_a_query_that_would_have_one_name_are_refused(pipeline):
    first, second = Dataset("flights/raw", DAYS), Dataset("weather/raw", DAYS)
    with pytest.raises(DefinitionError, match=f"{HERE}.*'flights/raw' and 'weather/raw'") as caught:
        pipeline.sql("make", reads=[first, second], writes=OUT, query="select 1")
    assert "reads={" in caught.value.hint
    pipeline.sql("make", reads={"f": first, "w": second}, writes=OUT, query="select 1")


class TestQueries:
    def test_a_missing_file(self, pipeline):
        with pytest.raises(DefinitionError, match=f"{HERE}there is no SQL file 'nowhere/none.sql'"):
            pipeline.sql("make", writes=OUT, query="nowhere/none.sql")

    def test_text_that_ends_like_a_file_is_text(self, pipeline):
        text = "select 1\n-- was once in revenue.sql"
        pipeline.sql("make", writes=OUT, query=text)
        assert pipeline.tasks["make"].query == text
        long = f"select {', '.join(map(str, range(200)))} -- see revenue.sql"
        pipeline.sql("more", writes=A, query=long)
        assert pipeline.tasks["more"].query == long

    def test_a_file_beside_or_above_the_code(self, tmp_path):
        module = tmp_path / "src" / "shop" / "flow.py"
        module.parent.mkdir(parents=True)
        module.write_text(
            "def declare(pipeline, out):\n    pipeline.sql('make', writes=out, query='sum.sql')\n"
        )
        (tmp_path / "sum.sql").write_text("select 'above'")

        def declared() -> str | None:
            space: dict = {}
            exec(compile(module.read_text(), str(module), "exec"), space)
            pipeline = Pipeline("flow")
            space["declare"](pipeline, OUT)
            assert str(pipeline.tasks["make"].location) == f"{module}:2"
            return pipeline.tasks["make"].query

        assert declared() == "select 'above'"
        (module.parent / "sum.sql").write_text("select 'beside'")
        assert declared() == "select 'beside'"

    def test_a_file_that_is_not_text(self, pipeline, tmp_path):
        (tmp_path / "bad.sql").write_bytes(b"select '\xff'")
        with pytest.raises(DefinitionError, match=HERE):
            pipeline.sql("make", writes=OUT, query=str(tmp_path / "bad.sql"))


def test_annotations_that_cannot_be_resolved_name_the_place(pipeline):
    @pipeline.task(reads=A, writes=OUT)
    def make(day, rows: "Nowhere") -> int: ...  # noqa: F821

    with pytest.raises(DefinitionError, match=f"{HERE}the annotations of task 'make' cannot be resolved"):
        pipeline.tasks["make"].annotations()


def test_annotations_of_inputs_and_result(pipeline):
    @pipeline.task(reads=[A, B], writes=OUT)
    def make(day: int, first: list[int], second) -> str: ...

    assert pipeline.tasks["make"].annotations()[0]["first"] == list[int]
    assert pipeline.tasks["make"].annotations()[1] is str
