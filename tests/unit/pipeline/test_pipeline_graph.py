"""The graph: what it refuses, by file and line, before anything runs."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.calendar import Daily, Hourly, Monthly
from sidestage.data.dataset import Dataset, Read, all_of, fixed, latest, same, window
from sidestage.data.keyed import Static
from sidestage.data.mapping import AllOf, Fixed, Same, Window
from sidestage.errors import DefinitionError, GraphError, NameRefused
from sidestage.pipeline.graph import Graph
from sidestage.pipeline.pipeline import Pipeline

DAYS = Daily("2013-01-01")
HERE = re.escape(__file__) + r":\d+: "


def source(pipeline: Pipeline, dataset: Dataset) -> Dataset:
    pipeline.sql(f"make_{dataset.name.replace('/', '_')}", writes=dataset, query="select 1")
    return dataset


def refused(error: type[Exception], text: str, *pipelines: Pipeline) -> str:
    """Return the whole message; it must begin with this file and a line of it."""
    with pytest.raises(error, match=HERE) as caught:
        Graph(pipelines)
    assert text in str(caught.value)
    return str(caught.value)


def test_tasks_follow_their_inputs_across_pipelines():
    first, second = Pipeline("first"), Pipeline("second")
    raw, middle, last = Dataset("raw", DAYS), Dataset("middle", DAYS), Dataset("last", DAYS)
    second.sql("c", reads=middle, writes=last, query="select 1")
    first.sql("b", reads=raw, writes=middle, query="select 1")
    source(first, raw)
    assert [task.name for _, task in Graph([second, first]).order] == ["make_raw", "b", "c"]


def test_a_dataset_that_nobody_writes():
    pipeline = Pipeline("flow")
    source(pipeline, Dataset("flights/raw", DAYS))
    pipeline.sql("use", reads=Dataset("flights/row", DAYS), writes=Dataset("out", DAYS), query="select 1")
    message = refused(GraphError, "task 'use' reads 'flights/row', which no task writes", pipeline)
    assert "Did you mean 'flights/raw'?" in message


def test_no_suggestion_where_nothing_is_near():
    pipeline = Pipeline("flow")
    pipeline.sql("use", reads=Dataset("weather", DAYS), writes=Dataset("out", DAYS), query="select 1")
    assert "Did you mean" not in refused(GraphError, "'weather', which no task writes", pipeline)


def test_a_cycle_is_shown_as_it_goes_round():
    pipeline = Pipeline("flow")
    a, b, c = (Dataset(name, DAYS) for name in "abc")
    pipeline.sql("one", reads=a, writes=b, query="select 1")
    pipeline.sql("two", reads=b, writes=c, query="select 1")
    pipeline.sql("three", reads=c, writes=a, query="select 1")
    message = refused(GraphError, "the tasks form a cycle", pipeline)
    circle = re.search(r"cycle: (.*?)\.", message)
    assert circle is not None
    steps = circle[1].split(" -> ")
    assert steps[0] == steps[-1]
    assert set(pairwise(steps)) == {("a", "b"), ("b", "c"), ("c", "a")}


def test_a_task_that_reads_its_own_output():
    pipeline = Pipeline("flow")
    a = Dataset("a", DAYS)
    pipeline.sql("one", reads=window(a, before=1), writes=a, query="select 1")
    refused(GraphError, "cycle: a -> a", pipeline)


def test_two_writers_name_both_places():
    pipeline, a = Pipeline("flow"), Dataset("a", DAYS)
    pipeline.sql("one", writes=a, query="select 1")
    pipeline.sql("two", writes=a, query="select 1")
    message = refused(GraphError, "task 'two' writes 'a', which is written by 'one' at", pipeline)
    assert len(re.findall(re.escape(__file__) + r":\d+", message)) == 2


def test_two_datasets_of_one_name():
    pipeline = Pipeline("flow")
    source(pipeline, Dataset("a", DAYS))
    pipeline.sql("use", reads=Dataset("a", DAYS), writes=Dataset("b", DAYS), query="select 1")
    refused(GraphError, "task 'use' uses a second Dataset object named 'a'", pipeline)


def test_names_that_differ_only_in_case_name_the_places():
    pipeline = Pipeline("flow")
    source(pipeline, Dataset("sales/raw", DAYS))
    source(pipeline, Dataset("sales/Raw", DAYS))
    message = refused(NameRefused, "only in upper and lower case", pipeline)
    assert "'sales/raw'" in message
    assert "'sales/Raw'" in message


@pytest.mark.parametrize(
    ("read", "out", "text"),
    [
        (lambda days: days, Hourly("2013-01-01"), "do not have a key for each"),
        (same, Monthly("2013-01"), "do not have a key for each"),
        (lambda days: window(days, before=1), Static(["eu"]), "cut by time"),
        (all_of, Hourly("2013-01-01"), "longer"),
        (lambda days: fixed(days, "2013-02-30"), DAYS, "2013-02-30"),
        (lambda days: fixed(days, "2012-01-01"), DAYS, "before the first day"),
    ],
)
def test_a_mapping_that_does_not_lead_there(read, out, text):
    pipeline = Pipeline("flow")
    days = source(pipeline, Dataset("days", DAYS))
    pipeline.sql("use", reads=read(days), writes=Dataset("out", out), query="select 1")
    message = refused(GraphError, "task 'use' cannot read 'days' so: ", pipeline)
    assert text in message


def test_latest_of_names_is_refused():
    pipeline = Pipeline("flow")
    regions = source(pipeline, Dataset("regions", Static(["eu"])))
    pipeline.sql("use", reads=latest(regions), writes=Dataset("out", DAYS), query="select 1")
    refused(GraphError, "None of the input's partitions is the latest", pipeline)


def test_mappings_are_found_by_task_and_parameter():
    pipeline = Pipeline("flow")
    days, whole = source(pipeline, Dataset("days", DAYS)), source(pipeline, Dataset("whole"))

    @pipeline.task(
        reads={"week": window(days, before=6), "rates": whole, "today": days}, writes=Dataset("out", DAYS)
    )
    def use(day, today, week, rates): ...

    graph = Graph([pipeline])
    task = pipeline.tasks["use"]
    assert graph.mapping(task, "today") == Same()
    assert graph.mapping(task, "week") == Window(before=6)
    assert graph.mapping(task, "rates") == Fixed("all")


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
def test_any_graph_is_ordered_or_refused_as_a_cycle(drawn):
    count, edges = drawn
    datasets = [Dataset(f"d{number}", DAYS) for number in range(count)]
    pipeline = Pipeline("flow")
    for number in range(count):
        reads = {
            f"p{source}": Read(datasets[source], AllOf()) for source, target in edges if target == number
        }
        pipeline.sql(f"t{number}", reads=reads, writes=datasets[number], query="select 1")
    try:
        order = [task.writes.name for _, task in Graph([pipeline]).order]
    except GraphError as error:
        circle = re.search(r"cycle: (.*?)\.", str(error))
        assert circle is not None
        steps = [int(step[1:]) for step in circle[1].split(" -> ")]
        assert all(pair in edges for pair in pairwise(steps))
        return
    assert sorted(order) == sorted(dataset.name for dataset in datasets)
    assert all(order.index(f"d{source}") < order.index(f"d{target}") for source, target in edges)


def test_a_graph_error_is_a_definition_error():
    assert issubclass(GraphError, DefinitionError)
