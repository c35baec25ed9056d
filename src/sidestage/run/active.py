"""A run as one worker sees it: what it planned, what its steps made so far, and what to ask of an attempt."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from sidestage.data.lake import Lake
from sidestage.data.mapping import ONE_PARTITION
from sidestage.data.version import InputVersion, Version
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.plan.inputs import same_inputs
from sidestage.plan.plan import Plan, PlannedStep, StepInput
from sidestage.run import outcome
from sidestage.run.crews import Answered, Home, WorkerDied
from sidestage.run.messages import Execute, Failed, InputFiles
from sidestage.runtime.logs import attempt_log
from sidestage.store.contract import Store
from sidestage.store.records import Claim, Outcome, Reuse

_KEYS = uuid.UUID("5d1f3a52-6d6d-4c1e-9a63-0f0c5d1e57a6")


class Prepared(msgspec.Struct, frozen=True):
    """An attempt to be made: what to ask, where, and what its output will have been made of."""

    request: Execute
    home: Home
    claim: Claim
    inputs: tuple[InputVersion, ...]


class ActiveRun:
    """One run that is being executed.

    ``made`` and ``versions`` grow as steps are done, here or elsewhere.
    """

    def __init__(self, run: int, plan: Plan, manifest: Manifest, home: Home, lake: Lake, logs: Path) -> None:
        self.id = run
        self.plan = plan
        self.home = home
        self._tasks: dict[str, TaskSpec] = dict(manifest.task_by_id)
        self._lake = lake
        self._logs = logs
        self._made: dict[tuple[str, str], str] = {}
        self._versions: dict[str, Version] = {}

    def recall(self, store: Store, steps: Iterable[str]) -> None:
        """Learn which versions the steps before these made, and all that is to be known of their inputs."""
        planned = [self.plan.step_by_id[each] for each in steps]
        unknown = {
            self.plan.step_of[entry.dataset, entry.partition].id
            for step in planned
            for entry in step.inputs
            if entry.version is None and (entry.dataset, entry.partition) not in self._made
        }
        if unknown:
            for each, version in store.made(self.id, unknown).items():
                step = self.plan.step_by_id[each]
                self._made[step.dataset, step.partition] = version
        self._know(store, (entry.version for step in planned for entry in self._inputs(step)))
        reusable = {step.reuse for step in planned if step.reuse is not None}
        if reusable:
            self._know(store, reusable)
            known = [self._versions[each] for each in reusable if each in self._versions]
            self._know(store, (entry.version for version in known for entry in version.inputs))

    def prepare(self, claim: Claim, version: str) -> Prepared | Reuse:
        """Return what a claimed step needs: an attempt that makes ``version``, or nothing but a pointer."""
        step = self.plan.step_by_id[claim.step]
        inputs = self._inputs(step)
        if step.reuse is not None and self._is_reusable(step.reuse, inputs):
            point = step.expects is not None and step.expects != step.reuse
            return Reuse(claim=claim, version=step.reuse, point=point)
        task = self._tasks[step.task]
        request = Execute(
            run=claim.run,
            step=claim.step,
            task=step.task,
            partition=step.partition,
            version=version,
            attempt=claim.attempt,
            key=str(uuid.uuid5(_KEYS, f"{self.plan.environment}/{claim.run}/{claim.step}")),
            inputs=self._received(task, inputs),
            log=str(attempt_log(self._logs, claim.run, claim.step, claim.attempt)),
            limits=task.limits,
        )
        home = msgspec.structs.replace(self.home, runtime=task.runtime)
        lineage = tuple(
            InputVersion(entry.dataset, entry.partition, entry.version)
            for entry in inputs
            if entry.version is not None
        )
        return Prepared(request, home, claim, lineage)

    def outcome(self, prepared: Prepared, found: Answered | WorkerDied, jitter: float) -> Outcome:
        """Return what an answer, or the loss of whoever would have given it, means for the step."""
        step = self.plan.step_by_id[prepared.request.step]
        retry = self._tasks[step.task].retry
        if isinstance(found, WorkerDied):
            return outcome.lost(prepared.claim, found, retry, jitter)
        if isinstance(found.answer, Failed):
            return outcome.failure(prepared.claim, found.answer, retry, jitter, found.isolation)
        return outcome.publication(
            prepared.claim,
            found.answer,
            prepared.request.version,
            step,
            prepared.inputs,
            code=self.plan.code[step.task],
            environment=self.plan.environment,
            isolation=found.isolation,
        )

    def published(self, version: Version) -> None:
        """Note that a step published a version."""
        self._versions[version.id] = version
        self._made[version.dataset, version.partition] = version.id

    def reused(self, step: str, version: str) -> None:
        """Note that a step reused a version."""
        planned = self.plan.step_by_id[step]
        self._made[planned.dataset, planned.partition] = version

    def _know(self, store: Store, ids: Iterable[str | None]) -> None:
        unknown = {version for version in ids if version is not None and version not in self._versions}
        if unknown:
            self._versions.update(store.versions(unknown))

    def _inputs(self, step: PlannedStep) -> tuple[StepInput, ...]:
        return tuple(
            entry
            if entry.version is not None
            else msgspec.structs.replace(entry, version=self._made[entry.dataset, entry.partition])
            for entry in step.inputs
        )

    def _is_reusable(self, version: str, inputs: tuple[StepInput, ...]) -> bool:
        known = self._versions.get(version)
        return known is not None and same_inputs(known, inputs, self._versions)

    def _received(self, task: TaskSpec, inputs: tuple[StepInput, ...]) -> tuple[InputFiles, ...]:
        files: defaultdict[str, list[str]] = defaultdict(list)
        values: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for entry in inputs:
            assert entry.version is not None
            stored = self._versions[entry.version].stored
            if stored.value is None:
                files[entry.parameter].append(str(self._lake.path(stored)))
            else:
                values[entry.parameter].append((entry.partition, stored.value))
        return tuple(
            InputFiles(
                read.parameter,
                tuple(files[read.parameter]),
                tuple(values[read.parameter]),
                single=isinstance(read.mapping, ONE_PARTITION),
            )
            for read in task.reads
        )


OpenRun = Callable[[int], "ActiveRun | None"]
"""Takes a run up: returns None while its code is being loaded; raises SidestageError if it cannot be."""
