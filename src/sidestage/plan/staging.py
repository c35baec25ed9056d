"""The plan of a candidate's environment: production's inputs, the candidate's code, only what changes."""

from collections.abc import Mapping

from sidestage.data.partition import Partition
from sidestage.data.version import Version
from sidestage.pipeline.manifest import TaskSpec
from sidestage.plan.inputs import made_here, may_be_same, resolve_inputs, same_inputs, step_id
from sidestage.plan.plan import Blocked, Plan, PlannedStep, Reason, StepInput, Withdrawal
from sidestage.plan.select import PartitionChoice, selected_pipeline, selected_tasks, services_of
from sidestage.plan.world import Selection, World
from sidestage.store.contract import PointerKey


class _Staging:
    """The state of one planning: what the plan makes, and what the environment has of its own already."""

    def __init__(self, world: World, selection: Selection) -> None:
        self.world = world
        self.selection = selection
        # A pointer that shows what the base shows says nothing of its own (as after a promotion).
        self.own = {place: shown for place, shown in world.own.items() if world.base.get(place) != shown}
        self.planned: dict[tuple[str, str], PlannedStep] = {}
        self.blocked: list[Blocked] = []
        self.withdrawals: list[Withdrawal] = []
        self.current = 0

    def consider(self, task: TaskSpec, partition: Partition) -> None:
        """Decide about one task on one partition."""
        place = (task.writes, partition.key)
        base = self._version(self.world.base.get(place))
        own = self._version(self.own.get(place))
        inputs = resolve_inputs(self.world, task, partition, self.planned, self._lookup_for(base))
        if isinstance(inputs, Blocked):
            self.blocked.append(inputs)
            return
        if not self.selection.recompute:
            if self._as_in_base(task, base, inputs):
                self._leave_to_base(place)
                return
            if own is not None and self._is(own, task, inputs):
                self.current += 1
                return
        self.planned[place] = self._step(task, partition, inputs, own, base)

    def _lookup_for(self, base: Version | None) -> "_Pinned":
        recorded = {} if base is None else {(i.dataset, i.partition): i.version for i in base.inputs}
        return _Pinned(self.own, recorded, self.world.base)

    def _as_in_base(self, task: TaskSpec, base: Version | None, inputs: tuple[StepInput, ...]) -> bool:
        return base is not None and self._is(base, task, inputs)

    def _is(self, version: Version, task: TaskSpec, inputs: tuple[StepInput, ...]) -> bool:
        return version.code == task.fingerprint and same_inputs(version, inputs, self.world.versions)

    def _leave_to_base(self, place: tuple[str, str]) -> None:
        self.current += 1
        shown = self.own.pop(place, None)
        if shown is not None:
            self.withdrawals.append(Withdrawal(*place, shown))

    def _step(
        self,
        task: TaskSpec,
        partition: Partition,
        inputs: tuple[StepInput, ...],
        own: Version | None,
        base: Version | None,
    ) -> PlannedStep:
        reusable = (
            version.id
            for version in (own, base)
            if version is not None
            and version.code == task.fingerprint
            and made_here(inputs)
            and may_be_same(version, inputs, self.world.versions)
        )
        return PlannedStep(
            id=step_id(task.id, partition.key),
            task=task.id,
            dataset=task.writes,
            partition=partition.key,
            reason=self._reason(task, inputs, own or base),
            inputs=inputs,
            expects=self.world.own.get((task.writes, partition.key)),
            reuse=None if self.selection.recompute else next(reusable, None),
            seconds=self.world.seconds.get(task.id),
        )

    def _reason(self, task: TaskSpec, inputs: tuple[StepInput, ...], known: Version | None) -> Reason:
        if self.selection.recompute:
            return Reason("requested", "recomputation was asked for")
        if known is None:
            return Reason("missing", "the base has no version of it")
        if known.code != task.fingerprint:
            return Reason("code changed", f"{task.location} differs from what made {known.id[:12]}")
        if made_here(inputs):
            return Reason("upstream", "an input is made by this plan")
        return Reason("inputs changed", "an input differs from the base's")

    def _version(self, version_id: str | None) -> Version | None:
        return None if version_id is None else self.world.versions[version_id]


class _Pinned:
    """Which version a candidate's step reads: its own, else the one production read, else production's."""

    def __init__(
        self,
        own: dict[tuple[str, str], str],
        recorded: dict[tuple[str, str], str],
        base: Mapping[PointerKey, str],
    ) -> None:
        self._own = own
        self._recorded = recorded
        self._base = base

    def __call__(self, dataset: str, partition: str) -> str | None:
        place = (dataset, partition)
        return self._own.get(place) or self._recorded.get(place) or self._base.get(place)


def plan_staging(world: World, selection: Selection) -> Plan:
    """Return what must run so that a candidate shows what its code makes of production's inputs.

    Steps whose code and inputs equal those of the base are left to the base and cost nothing; steps of which
    the environment has the right version already are current. Only partitions that the base has are staged,
    those of which the environment has a version of its own, and all closed ones of datasets that the base
    does not know. Raises NotFound and PartitionKeyError.
    """
    tasks = selected_tasks(world.manifest, selection)
    datasets = world.manifest.dataset_by_name
    choice = PartitionChoice(
        selection.partitions, [datasets[task.writes].partitions for task in tasks], world.now
    )
    known = {dataset for dataset, _ in world.base}
    staging = _Staging(world, selection)
    for task in tasks:
        for partition in choice.of(datasets[task.writes].partitions):
            place = (task.writes, partition.key)
            if task.writes not in known or place in world.base or place in world.own:
                staging.consider(task, partition)
    pipeline = selected_pipeline(world.manifest, selection)
    return Plan(
        pipeline=pipeline,
        environment=world.environment,
        base=world.base_name,
        code_name=world.code_name,
        code={task.id: task.fingerprint for task in tasks},
        steps=tuple(staging.planned.values()),
        blocked=tuple(staging.blocked),
        withdrawals=tuple(staging.withdrawals),
        current=staging.current,
        services=services_of(world.manifest, pipeline),
    )
