"""The plan of an environment that reads through nothing: production."""

from sidestage.data.partition import Partition
from sidestage.pipeline.manifest import TaskSpec
from sidestage.plan.inputs import made_here, resolve_inputs, same_inputs, step_id
from sidestage.plan.plan import Blocked, Plan, PlannedStep, Reason, StepInput, Unreleased
from sidestage.plan.select import PartitionChoice, selected_pipeline, selected_tasks, services_of
from sidestage.plan.world import Selection, World


def plan_production(world: World, selection: Selection) -> Plan:
    """Return what must run so that everything selected is there and up to date.

    A partition must run if it is missing, was asked for, was made by other code or of other inputs than it
    would be made of now, or if a step of this plan makes one of its inputs. Raises NotFound and
    PartitionKeyError.
    """
    tasks = selected_tasks(world.manifest, selection)
    datasets = world.manifest.dataset_by_name
    choice = PartitionChoice(
        selection.partitions, [datasets[task.writes].partitions for task in tasks], world.now
    )
    planned: dict[tuple[str, str], PlannedStep] = {}
    blocked: list[Blocked] = []
    current = 0
    for task in tasks:
        for partition in choice.of(datasets[task.writes].partitions):
            inputs = resolve_inputs(
                world, task, partition, planned, lambda dataset, key: world.own.get((dataset, key))
            )
            if isinstance(inputs, Blocked):
                blocked.append(inputs)
                continue
            reason = _reason(world, task, partition, inputs, recompute=selection.recompute)
            if reason is None:
                current += 1
                continue
            planned[task.writes, partition.key] = _step(world, task, partition, inputs, reason)
    pipeline = selected_pipeline(world.manifest, selection)
    return Plan(
        pipeline=pipeline,
        environment=world.environment,
        base=None,
        code_name=world.code_name,
        code={task.id: task.fingerprint for task in tasks},
        steps=tuple(planned.values()),
        blocked=tuple(blocked),
        unreleased=_unreleased(world, tasks),
        current=current,
        services=services_of(world.manifest, pipeline),
    )


def _reason(
    world: World, task: TaskSpec, partition: Partition, inputs: tuple[StepInput, ...], *, recompute: bool
) -> Reason | None:
    pointer = world.own.get((task.writes, partition.key))
    if pointer is None:
        return Reason("missing", "never published")
    if recompute:
        return Reason("requested", "recomputation was asked for")
    version = world.versions[pointer]
    if version.code != task.fingerprint:
        return Reason("code changed", f"published by other code ({version.code[:8]})")
    if made_here(inputs):
        return Reason("upstream", "an input is made by this plan")
    if not same_inputs(version, inputs, world.versions):
        return Reason("inputs changed", "an input has a newer version")
    return None


def _step(
    world: World, task: TaskSpec, partition: Partition, inputs: tuple[StepInput, ...], reason: Reason
) -> PlannedStep:
    pointer = world.own.get((task.writes, partition.key))
    return PlannedStep(
        id=step_id(task.id, partition.key),
        task=task.id,
        dataset=task.writes,
        partition=partition.key,
        reason=reason,
        inputs=inputs,
        expects=pointer,
        reuse=pointer if reason.kind == "upstream" else None,
        seconds=world.seconds.get(task.id),
    )


def _unreleased(world: World, tasks: tuple[TaskSpec, ...]) -> tuple[Unreleased, ...]:
    return tuple(
        Unreleased(task.id, task.location)
        for task in tasks
        if world.released.get(task.id, task.fingerprint) != task.fingerprint
    )
