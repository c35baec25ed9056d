"""Little worlds to plan in, and a fake executor that publishes what a plan asks for."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from sidestage.data.calendar import Daily
from sidestage.data.keyed import AnyPartitions
from sidestage.data.mapping import AnyMapping, Same
from sidestage.data.version import Digest, InputVersion, Stored, Version
from sidestage.pipeline.manifest import DatasetSpec, Manifest, PipelineSpec, ReadSpec, TaskSpec
from sidestage.plan.inputs import same_inputs
from sidestage.plan.plan import Plan, PlannedStep
from sidestage.plan.world import World
from sidestage.policy.retry import Retry

NOW = datetime(2013, 1, 5, 12, tzinfo=UTC)
DAYS = Daily("2013-01-01")
CLOSED = ["2013-01-01", "2013-01-02", "2013-01-03", "2013-01-04"]

Place = tuple[str, str]
Content = Callable[[str, list[str]], str]
"""(code, contents of the inputs) -> content of the output"""


def task(
    writes: str, *reads: str | tuple[str, AnyMapping], code: str = "1", pipeline: str = "flow"
) -> TaskSpec:
    """A task named after what it writes, with a ``make_`` before it."""
    pairs = [(read, Same()) if isinstance(read, str) else read for read in reads]
    return TaskSpec(
        id=f"{pipeline}.make_{writes}",
        pipeline=pipeline,
        name=f"make_{writes}",
        reads=tuple(ReadSpec(f"p{n}", dataset, mapping) for n, (dataset, mapping) in enumerate(pairs)),
        writes=writes,
        fingerprint=f"{writes}-{code}",
        location=f"src/flow.py:{writes}",
        retry=Retry(),
    )


def manifest(*tasks: TaskSpec, sets: Mapping[str, AnyPartitions] | None = None) -> Manifest:
    """A manifest of tasks in dependency order; datasets are daily unless ``sets`` says otherwise."""
    sets = sets or {}
    return Manifest(
        pipelines=tuple(PipelineSpec(name, "", "", ()) for name in dict.fromkeys(t.pipeline for t in tasks)),
        datasets=tuple(DatasetSpec(t.writes, sets.get(t.writes, DAYS), (), (), ()) for t in tasks),
        tasks=tasks,
    )


def coded(declared: Manifest, **codes: str) -> Manifest:
    """The same manifest, with other code for the tasks that write the named datasets."""
    return msgspec.structs.replace(
        declared,
        tasks=tuple(
            msgspec.structs.replace(t, fingerprint=f"{t.writes}-{codes[t.writes]}")
            if t.writes in codes
            else t
            for t in declared.tasks
        ),
    )


def all_new(code: str, inputs: list[str]) -> str:
    """Content that differs whenever code or any input's content does."""
    return sha256("|".join([code, *inputs]).encode()).hexdigest()[:32]


class Stage:
    """Versions, and the pointers of production and of one candidate."""

    def __init__(self, content: Content = all_new) -> None:
        self.content = content
        self.versions: dict[str, Version] = {}
        self.production: dict[Place, str] = {}
        self.candidate: dict[Place, str] = {}

    def publish(
        self,
        dataset: str,
        partition: str,
        *inputs: str,
        code: str = "1",
        content: str | None = None,
        to: dict[Place, str] | None = None,
    ) -> str:
        """Publish a version made of other versions, given by id; return its id."""
        made_of = [self.versions[one] for one in inputs]
        code = code if "-" in code else f"{dataset}-{code}"
        if content is None:
            content = self.content(code, [one.stored.digest.content for one in made_of])
        name = f"v{len(self.versions):03d}"
        self.versions[name] = Version(
            id=name,
            dataset=dataset,
            partition=partition,
            stored=Stored(f"{name}.parquet", 1, "", (), Digest("test", 1, content, ())),
            environment="production",
            run="1",
            step="",
            code=code,
            inputs=tuple(InputVersion(one.dataset, one.partition, one.id) for one in made_of),
            created_at=NOW,
            seconds=1.0,
        )
        (self.production if to is None else to)[dataset, partition] = name
        return name

    def world(self, declared: Manifest, *, staged: bool = False, **other: Any) -> World:
        """What a planner sees: production, or the candidate's environment."""
        values: dict[str, Any] = {
            "manifest": declared,
            "environment": "fix" if staged else "production",
            "base_name": "production" if staged else None,
            "own": self.candidate if staged else self.production,
            "base": self.production if staged else {},
            "versions": self.versions,
            "released": {},
            "seconds": {},
            "now": NOW,
        }
        return World(**{**values, **other})

    def execute(self, plan: Plan) -> list[str]:
        """Do what a plan says, as a runner does; return the ids of the steps that really ran."""
        target = self.production if plan.base is None else self.candidate
        made: dict[Place, str] = {}
        ran: list[str] = []
        for step in plan.steps:
            assert target.get((step.dataset, step.partition)) == step.expects
            inputs = [
                msgspec.structs.replace(entry, version=entry.version or made[entry.dataset, entry.partition])
                for entry in step.inputs
            ]
            place = (step.dataset, step.partition)
            if step.reuse is not None and same_inputs(self.versions[step.reuse], inputs, self.versions):
                made[place] = step.reuse
                if step.expects not in (None, step.reuse):
                    target[place] = step.reuse
                continue
            used = [entry.version for entry in inputs if entry.version is not None]
            made[place] = self.publish(*place, *used, code=plan.code[step.task], to=target)
            ran.append(step.id)
        for entry in plan.withdrawals:
            assert target.pop((entry.dataset, entry.partition)) == entry.version
        return ran


def reasons(plan: Plan) -> dict[str, str]:
    """Why each step of a plan runs: ``dataset partition`` -> kind of reason."""
    return {f"{step.dataset} {step.partition}": step.reason.kind for step in plan.steps}


def step_of(plan: Plan, dataset: str, partition: str) -> PlannedStep:
    """A step of a plan."""
    return plan.step_of[dataset, partition]
