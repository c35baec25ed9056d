"""Load a project's code into this process, and describe it as values.

Only processes that exist for one release of the code do this: a worker, or a loader. The process that plans,
compares and promotes sees manifests only, so that code under test is never imported beside another release.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidestage.checks.ready import AnyCheck
from sidestage.checks.rules import AnyRule
from sidestage.data.dataset import Dataset
from sidestage.data.keyed import Product
from sidestage.data.partition import PartitionSet
from sidestage.data.timeline import Timeline
from sidestage.errors import ConfigurationError, DefinitionError, SidestageError
from sidestage.pipeline.fingerprint import CodeIndex, lock_digest
from sidestage.pipeline.graph import Graph
from sidestage.pipeline.manifest import DatasetSpec, Manifest, PipelineSpec, ReadSpec, ServiceSpec, TaskSpec
from sidestage.pipeline.pipeline import Pipeline
from sidestage.pipeline.projectfile import FILE_NAME, ProjectFile
from sidestage.pipeline.service import Service
from sidestage.pipeline.task import Task
from sidestage.pipeline.terms import VENV, requirements_of
from sidestage.policy.limits import Limits


def load(root: Path, file: ProjectFile) -> Graph:
    """Import the modules that a project names, and return the graph of their pipelines.

    Raises ConfigurationError if a module cannot be imported or declares no pipeline, and whatever the
    declarations themselves raise.
    """
    source = (root / file.project.source).resolve()
    if not source.is_dir():
        raise ConfigurationError(
            f"{root / FILE_NAME}: the source folder {source} does not exist.",
            hint='Set source in [project], for example source = "src".',
        )
    sys.path.insert(0, str(source))
    pipelines: dict[int, Pipeline] = {}
    for name in file.project.pipelines:
        for pipeline in _pipelines_of(name, source):
            pipelines.setdefault(id(pipeline), pipeline)
    _refuse_twins(list(pipelines.values()))
    return Graph(list(pipelines.values()))


def describe(graph: Graph, root: Path, file: ProjectFile) -> Manifest:
    """Return everything that was declared, as values."""
    index = CodeIndex(root / file.project.source, lock_digest(root))
    return Manifest(
        pipelines=tuple(
            PipelineSpec(
                name=pipeline.name,
                owner=pipeline.owner,
                description=pipeline.description,
                playbook=() if pipeline.playbook is None else pipeline.playbook.failures,
                trigger=pipeline.trigger,
                services=tuple(
                    _service_spec(pipeline, service, root, index) for service in pipeline.services.values()
                ),
            )
            for pipeline in graph.pipelines
        ),
        datasets=tuple(_dataset_spec(dataset) for dataset in graph.datasets.values()),
        tasks=tuple(_task_spec(graph, pipeline, task, root, index) for pipeline, task in graph.order),
    )


def _pipelines_of(name: str, source: Path) -> Iterator[Pipeline]:
    try:
        module = importlib.import_module(name)
    except SidestageError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(source)]
        place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
        raise ConfigurationError(
            f"{place}importing the module {name!r} failed: {type(error).__name__}: {error}.",
            hint=f"Check [project] in {FILE_NAME} and that the packages the code needs are installed.",
        ) from error
    found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    if not found:
        raise ConfigurationError(
            f"The module {name!r} declares no Pipeline.",
            hint=f"Declare one in it, or correct pipelines in {FILE_NAME}.",
        )
    yield from found


def _refuse_twins(pipelines: list[Pipeline]) -> None:
    seen: set[str] = set()
    for pipeline in pipelines:
        if pipeline.name in seen:
            raise ConfigurationError(
                f"Two pipelines are named {pipeline.name!r}.", hint="Give one of them another name."
            )
        seen.add(pipeline.name)


def _dataset_spec(dataset: Dataset) -> DatasetSpec:
    return DatasetSpec(
        name=dataset.name,
        partitions=dataset.partitions,
        key=dataset.key,
        checks=_only(AnyCheck, dataset.checks, dataset),
        compare=_only(AnyRule, dataset.compare, dataset),
        description=dataset.description,
        is_value=dataset.is_value,
    )


def _only(union: Any, values: tuple[Any, ...], dataset: Dataset) -> tuple[Any, ...]:
    """Return the values, if each is one of those that a manifest can carry. Raises DefinitionError."""
    for value in values:
        if not isinstance(value, union):
            raise DefinitionError(
                f"Dataset {dataset.name!r}: {value!r} cannot be used here.",
                hint="Checks and comparison rules are made by the functions in sidestage.checks.",
            )
    return values


def _task_spec(graph: Graph, pipeline: Pipeline, task: Task, root: Path, index: CodeIndex) -> TaskSpec:
    reads = tuple(
        ReadSpec(parameter=parameter, dataset=read.dataset.name, mapping=graph.mapping(task, parameter))
        for parameter, read in task.reads.items()
    )
    cut = _cut(task.writes.partitions)
    terms = task.terms.merged(pipeline.terms)
    declared: tuple[object, ...] = (reads, task.writes.name, cut, task.writes.checks)
    if terms.runtime is not None and terms.runtime.startswith(VENV):
        declared = (*declared, requirements_of(terms.runtime, root))
    text = msgspec.json.encode(declared).decode()
    if task.function is not None:
        fingerprint = index.of_function(task.function, text)
    else:
        fingerprint = index.of_query(task.query or "", text)
    return TaskSpec(
        id=f"{pipeline.name}.{task.name}",
        pipeline=pipeline.name,
        name=task.name,
        reads=reads,
        writes=task.writes.name,
        fingerprint=fingerprint,
        location=_relative(str(task.location), root),
        retry=pipeline.retry if task.retry is None else task.retry,
        limits=Limits() if terms.limits is None else terms.limits,
        runtime=terms.runtime or "process",
        queue=terms.queue or "default",
        pool=terms.pool,
        slots=terms.slots or 1,
    )


def _service_spec(pipeline: Pipeline, service: Service, root: Path, index: CodeIndex) -> ServiceSpec:
    return ServiceSpec(
        id=f"{pipeline.name}.{service.name}",
        fingerprint=index.of_function(service.function, "service"),
        location=_relative(str(service.location), root),
        terms=service.terms,
        queue=pipeline.terms.queue or "default",
    )


def _cut(partitions: PartitionSet) -> tuple[object, ...]:
    """Return how a set is cut, without its bounds and keys: more partitions do not change the old ones."""
    kind = type(partitions).__name__
    if isinstance(partitions, Product):
        return (kind, *((name, _cut(part)) for name, part in partitions.parts))
    return (kind, partitions.tz) if isinstance(partitions, Timeline) else (kind,)


def _relative(location: str, root: Path) -> str:
    return location.removeprefix(f"{root.resolve()}/")
