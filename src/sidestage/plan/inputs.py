"""Which versions a step reads: found once, shared by all plans."""

from collections.abc import Callable, Iterable, Mapping

from sidestage.data.partition import Partition
from sidestage.data.version import Version
from sidestage.pipeline.manifest import TaskSpec
from sidestage.plan.plan import Blocked, PlannedStep, StepInput
from sidestage.plan.world import World

Lookup = Callable[[str, str], str | None]
"""(dataset, partition) -> version that the step may read, or None"""

_SHOWN = 3


def step_id(task: str, partition: str) -> str:
    """Return the id of a step."""
    return f"{task}@{partition}"


def resolve_inputs(
    world: World,
    task: TaskSpec,
    partition: Partition,
    planned: dict[tuple[str, str], PlannedStep],
    lookup: Lookup,
) -> tuple[StepInput, ...] | Blocked:
    """Return the inputs of a step: made by this plan, or pinned to what ``lookup`` says; else why not."""
    datasets = world.manifest.dataset_by_name
    own_set = datasets[task.writes].partitions
    inputs: list[StepInput] = []
    missing: dict[str, list[str]] = {}
    for read in task.reads:
        needed = read.mapping.upstream(partition, own_set, datasets[read.dataset].partitions, world.now)
        if not needed:
            missing.setdefault(read.dataset, []).append("any partition")
        for upstream in needed:
            version = None
            if (read.dataset, upstream.key) not in planned:
                version = lookup(read.dataset, upstream.key)
                if version is None:
                    missing.setdefault(read.dataset, []).append(upstream.key)
                elif version in world.gone:
                    missing.setdefault(read.dataset, []).append(
                        f"{upstream.key}, whose data was cleaned away"
                    )
            inputs.append(StepInput(read.parameter, read.dataset, upstream.key, version))
    if missing:
        place = (task.writes, partition.key)
        shown = place in world.own or place in world.base
        return Blocked(task.id, task.writes, partition.key, _waits_for(missing), shown)
    return tuple(inputs)


def same_inputs(version: Version, inputs: Iterable[StepInput], versions: Mapping[str, Version]) -> bool:
    """Whether a version was made of exactly these inputs, or of others with provably equal content."""
    then = {(entry.dataset, entry.partition): entry.version for entry in version.inputs}
    now = {(entry.dataset, entry.partition): entry.version for entry in inputs}
    if then.keys() != now.keys():
        return False
    return all(_same_content(then[place], now[place], versions) for place in now)


def may_be_same(version: Version, inputs: Iterable[StepInput], versions: Mapping[str, Version]) -> bool:
    """Whether inputs may turn out the same as a version's, once those that a plan makes are made."""
    then = {(entry.dataset, entry.partition): entry.version for entry in version.inputs}
    now = {(entry.dataset, entry.partition): entry.version for entry in inputs}
    return then.keys() == now.keys() and all(
        shown is None or _same_content(then[place], shown, versions) for place, shown in now.items()
    )


def _same_content(then: str, now: str | None, versions: Mapping[str, Version]) -> bool:
    if now is None:
        return False
    if then == now:
        return True
    first, second = versions.get(then), versions.get(now)
    return first is not None and second is not None and first.stored.digest.proves_equal(second.stored.digest)


def made_here(inputs: Iterable[StepInput]) -> bool:
    """Whether any of the inputs is made by a step of the same plan."""
    return any(entry.version is None for entry in inputs)


def _waits_for(missing: dict[str, list[str]]) -> str:
    parts = []
    for dataset, keys in missing.items():
        shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
        parts.append(f"{dataset} ({shown})")
    return f"waits for {'; '.join(parts)}"
