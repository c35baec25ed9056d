"""What was declared, as values: the only form in which definitions leave the process that loaded the code."""

from functools import cached_property

import msgspec

from sidestage.checks.ready import AnyCheck
from sidestage.checks.rules import AnyRule
from sidestage.data.keyed import AnyPartitions
from sidestage.data.mapping import AnyMapping
from sidestage.errors import NotFound
from sidestage.pipeline.playbook import KnownFailure
from sidestage.pipeline.service import ServiceTerms
from sidestage.pipeline.trigger import AnyTrigger
from sidestage.policy.limits import Limits
from sidestage.policy.retry import Retry


class DatasetSpec(msgspec.Struct, frozen=True):
    """A dataset as declared."""

    name: str
    partitions: AnyPartitions
    key: tuple[str, ...]
    checks: tuple[AnyCheck, ...]
    compare: tuple[AnyRule, ...]
    description: str = ""
    is_value: bool = False


class ReadSpec(msgspec.Struct, frozen=True):
    """One input of a task: the parameter that receives it, the dataset, and which of its partitions."""

    parameter: str
    dataset: str
    mapping: AnyMapping


class TaskSpec(msgspec.Struct, frozen=True):
    """A task as declared. ``id`` is ``pipeline.name``; ``fingerprint`` stands for all code it runs.

    Only workers that serve ``queue`` run it; each step holds ``slots`` of ``pool`` meanwhile, if it has one.
    ``runtime`` is ``process``, ``fresh`` or ``venv:FILE``.
    """

    id: str
    pipeline: str
    name: str
    reads: tuple[ReadSpec, ...]
    writes: str
    fingerprint: str
    location: str
    retry: Retry
    limits: Limits = Limits()
    runtime: str = "process"
    queue: str = "default"
    pool: str | None = None
    slots: int = 1


class ServiceSpec(msgspec.Struct, frozen=True):
    """A service as declared. ``id`` is ``pipeline.name``; ``fingerprint`` stands for all code it runs.

    Only workers that serve ``queue`` run it.
    """

    id: str
    fingerprint: str
    location: str
    terms: ServiceTerms
    queue: str = "default"


class PipelineSpec(msgspec.Struct, frozen=True):
    """A pipeline as declared."""

    name: str
    owner: str
    description: str
    playbook: tuple[KnownFailure, ...]
    trigger: AnyTrigger | None = None
    services: tuple[ServiceSpec, ...] = ()


class Manifest(msgspec.Struct, frozen=True, dict=True):
    """Everything that a project declares. ``tasks`` stand in an order in which each follows its inputs."""

    pipelines: tuple[PipelineSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    tasks: tuple[TaskSpec, ...]

    @cached_property
    def dataset_by_name(self) -> dict[str, DatasetSpec]:
        """Datasets by name."""
        return {dataset.name: dataset for dataset in self.datasets}

    @cached_property
    def writer_of(self) -> dict[str, TaskSpec]:
        """The task that writes a dataset, by the dataset's name."""
        return {task.writes: task for task in self.tasks}

    @cached_property
    def task_by_id(self) -> dict[str, TaskSpec]:
        """Tasks by id."""
        return {task.id: task for task in self.tasks}

    def pipeline(self, name: str) -> PipelineSpec:
        """Return a pipeline. Raises NotFound."""
        for pipeline in self.pipelines:
            if pipeline.name == name:
                return pipeline
        names = ", ".join(sorted(pipeline.name for pipeline in self.pipelines)) or "none"
        raise NotFound(f"There is no pipeline {name!r}.", hint=f"This project declares: {names}.")
