"""The state of a project in a few values."""

from collections.abc import Mapping

import msgspec

from sidestage.data.version import Version
from sidestage.store.contract import PointerKey, Store
from sidestage.store.records import Environment, Run


class DatasetStatus(msgspec.Struct, frozen=True):
    """What one environment shows of a dataset."""

    environment: str
    dataset: str
    partitions: int
    first: str
    last: str
    rows: int
    bytes: int


class RunStatus(msgspec.Struct, frozen=True):
    """A run, and how many of its steps are in which state."""

    run: Run
    steps: dict[str, int]
    first_failure: str


class Status(msgspec.Struct, frozen=True):
    """Environments, the newest runs, and how much each environment has of its own."""

    environments: tuple[Environment, ...]
    own_pointers: dict[str, int]
    runs: tuple[RunStatus, ...]


def read_status(store: Store, *, runs: int = 5) -> Status:
    """Return the state of everything that the store knows."""
    environments = store.environments()
    return Status(
        environments=environments,
        own_pointers={
            environment.name: len(store.pointers(environment.name)) for environment in environments
        },
        runs=tuple(_run_status(store, run) for run in store.runs(limit=runs)),
    )


def _run_status(store: Store, run: Run) -> RunStatus:
    counts: dict[str, int] = {}
    failure = ""
    for step in store.steps(run.id):
        counts[step.state] = counts.get(step.state, 0) + 1
        if step.state == "failed" and not failure:
            failure = f"{step.id}: {step.message}"
    return RunStatus(run=run, steps=counts, first_failure=failure)


def dataset_status(
    environment: str, pointers: Mapping[PointerKey, str], versions: Mapping[str, Version]
) -> tuple[DatasetStatus, ...]:
    """Return what an environment shows, by dataset."""
    shown: dict[str, list[Version]] = {}
    for (dataset, _), version in sorted(pointers.items()):
        shown.setdefault(dataset, []).append(versions[version])
    return tuple(
        DatasetStatus(
            environment=environment,
            dataset=dataset,
            partitions=len(found),
            first=found[0].partition,
            last=found[-1].partition,
            rows=sum(version.stored.digest.rows for version in found),
            bytes=sum(version.stored.bytes for version in found),
        )
        for dataset, found in shown.items()
    )
