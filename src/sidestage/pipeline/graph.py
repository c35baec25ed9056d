"""The graph that tasks form through datasets; refuses what cannot work before anything runs."""

import difflib
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from sidestage.data.dataset import Dataset
from sidestage.data.mapping import AnyMapping, default_mapping
from sidestage.data.names import clash
from sidestage.errors import DefinitionError, GraphError, NameRefused
from sidestage.pipeline.annotations import check_input_annotation, check_output_annotation
from sidestage.pipeline.pipeline import Pipeline
from sidestage.pipeline.task import Location, Task


class Graph:
    """Tasks of all pipelines of a project, checked, in an order in which each follows its inputs.

    Raises GraphError or NameRefused.
    """

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self.pipelines = tuple(pipelines)
        self.datasets = _datasets(self.pipelines)
        self.writers = _writers(self.pipelines)
        _refuse_unwritten(self.pipelines, self.writers)
        self.order = _ordered(self.writers)
        for _, task in self.order:
            _check_annotations(task)
        self.mappings = {
            (task.name, task.writes.name, parameter): _mapping(task, parameter)
            for _, task in self.order
            for parameter in task.reads
        }

    def mapping(self, task: Task, parameter: str) -> AnyMapping:
        """Return which partitions a task's input needs."""
        return self.mappings[task.name, task.writes.name, parameter]


def _all_tasks(pipelines: Sequence[Pipeline]) -> list[tuple[Pipeline, Task]]:
    return [(pipeline, task) for pipeline in pipelines for task in pipeline.tasks.values()]


def _datasets(pipelines: Sequence[Pipeline]) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    places: dict[str, Location] = {}
    for _, task in _all_tasks(pipelines):
        for dataset in (task.writes, *(read.dataset for read in task.reads.values())):
            known = datasets.setdefault(dataset.name, dataset)
            places.setdefault(dataset.name, task.location)
            if known is not dataset:
                raise GraphError(
                    f"{task.location}: task {task.name!r} uses a second Dataset object named "
                    f"{dataset.name!r}.",
                    hint="Declare each dataset once and import that object.",
                )
    twins = clash(sorted(datasets))
    if twins is not None:
        raise NameRefused(
            f"{places[twins[1]]}: the dataset {twins[1]!r} differs from {twins[0]!r} at {places[twins[0]]} "
            "only in upper and lower case.",
            hint="Rename one: some file systems and databases cannot tell them apart.",
        )
    return datasets


def _writers(pipelines: Sequence[Pipeline]) -> dict[str, tuple[Pipeline, Task]]:
    writers: dict[str, tuple[Pipeline, Task]] = {}
    for pipeline, task in _all_tasks(pipelines):
        other = writers.setdefault(task.writes.name, (pipeline, task))
        if other[1] is not task:
            raise GraphError(
                f"{task.location}: task {task.name!r} writes {task.writes.name!r}, which is written by "
                f"{other[1].name!r} at {other[1].location} already.",
                hint="A dataset has exactly one writer; give one of the tasks another dataset.",
            )
    return writers


def _refuse_unwritten(pipelines: Sequence[Pipeline], writers: dict[str, tuple[Pipeline, Task]]) -> None:
    for _, task in _all_tasks(pipelines):
        for read in task.reads.values():
            if read.dataset.name in writers:
                continue
            near = difflib.get_close_matches(read.dataset.name, writers, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise GraphError(
                f"{task.location}: task {task.name!r} reads {read.dataset.name!r}, which no task writes.",
                hint=f"Declare a task that writes it, or read another dataset.{guess}",
            )


def _ordered(writers: dict[str, tuple[Pipeline, Task]]) -> list[tuple[Pipeline, Task]]:
    edges = {name: [read.dataset.name for read in task.reads.values()] for name, (_, task) in writers.items()}
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        # graphlib lists the cycle from input to output with the first name repeated at the end.
        circle = " -> ".join(error.args[1])
        first = writers[error.args[1][0]][1]
        raise GraphError(
            f"{first.location}: the tasks form a cycle: {circle}.",
            hint="Let one of them read something that does not depend on its own output.",
        ) from None
    return [writers[name] for name in order]


def _check_annotations(task: Task) -> None:
    inputs, output = task.annotations()
    try:
        for parameter, annotation in inputs.items():
            if not task.reads[parameter].dataset.is_value:
                check_input_annotation(annotation)
        if not task.writes.is_value:
            check_output_annotation(output)
    except DefinitionError as error:
        raise DefinitionError(
            f"{task.location}: task {task.name!r}: {error.message}", hint=error.hint
        ) from error


def _mapping(task: Task, parameter: str) -> AnyMapping:
    read = task.reads[parameter]
    down, up = task.writes.partitions, read.dataset.partitions
    try:
        mapping = default_mapping(down, up) if read.mapping is None else read.mapping
        mapping.check(down, up)
    except DefinitionError as error:
        raise GraphError(
            f"{task.location}: task {task.name!r} cannot read {read.dataset.name!r} so: {error.message}",
            hint=error.hint,
        ) from error
    return mapping
