"""The state of a project in a few values."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from sidestage.data.version import Version
from sidestage.errors import NotFound
from sidestage.observe.waits import Wait, read_waits
from sidestage.pipeline.trigger import AnyTrigger
from sidestage.policy.pool import Pool
from sidestage.runtime.logs import attempt_log
from sidestage.store.contract import PointerKey, Store
from sidestage.store.records import Attempt, Environment, Run, Step, Worker
from sidestage.store.service_records import ServiceState
from sidestage.store.tick_records import Tick, TriggerState

_PRODUCTION = "production"
_LATE_AFTER = timedelta(seconds=5)


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


class FailedStep(msgspec.Struct, frozen=True):
    """A step that failed: how often it was tried, how its last attempt ended, where its output was kept.

    ``log`` is the path of what the last attempt printed, "" if it printed nothing.
    """

    step: str
    attempts: int
    failure_class: str
    message: str
    log: str


class Warned(msgspec.Struct, frozen=True):
    """A check that did not block and did not pass: on how many steps, and on which first."""

    check: str
    steps: int
    first: str
    message: str


class RunDetails(msgspec.Struct, frozen=True):
    """One run: its failed steps, and what its checks warned of."""

    run: Run
    steps: dict[str, int]
    failures: tuple[FailedStep, ...]
    warnings: tuple[Warned, ...]


class TriggerStatus(msgspec.Struct, frozen=True):
    """The last and the next tick of a pipeline's trigger (None: there is none), and what that is in words.

    ``late``: the next one is due for some seconds and was not begun; ``why`` says what is in its way, as far
    as that is known.
    """

    pipeline: str
    trigger: str
    last: Tick | None
    next: datetime | None
    late: bool = False
    why: str = ""


class ServiceStatus(msgspec.Struct, frozen=True):
    """A service: its state since when, who keeps it, how often it was started again, what is said of it.

    ``state`` is "lost" while nobody holds it although nobody gave it back. ``url``: where its metrics are.
    """

    service: str
    state: str
    owner: str | None
    since: datetime
    restarts: int
    note: str
    url: str


class Status(msgspec.Struct, frozen=True):
    """Environments, how many pointers each owns, newest runs, workers, waits, triggers, services."""

    environments: tuple[Environment, ...]
    own_pointers: dict[str, int]
    runs: tuple[RunStatus, ...]
    workers: tuple[Worker, ...] = ()
    waits: tuple[Wait, ...] = ()
    triggers: tuple[TriggerStatus, ...] = ()
    services: tuple[ServiceStatus, ...] = ()


def read_status(
    store: Store, *, runs: int = 5, pools: Collection[Pool] = (), now: datetime | None = None
) -> Status:
    """Return the state of everything that the store knows; what waits, and triggers, only with ``now``."""
    environments = store.environments()
    return Status(
        environments=environments,
        own_pointers={
            environment.name: len(store.pointers(environment.name)) for environment in environments
        },
        runs=tuple(_run_status(store, run) for run in store.runs(limit=runs)),
        workers=store.workers(),
        waits=() if now is None else read_waits(store, pools, now),
        triggers=() if now is None else read_triggers(store, now),
        services=tuple(_service_status(state) for state in store.services()),
    )


def _service_status(state: ServiceState) -> ServiceStatus:
    said = state.said
    is_lost = state.owner is None and said.state not in ("waiting", "stopped", "ended", "failed")
    return ServiceStatus(
        service=state.service,
        state="lost" if is_lost else said.state,
        owner=state.owner,
        since=state.since,
        restarts=said.restarts,
        note=said.note,
        url="" if is_lost else said.url,
    )


def read_triggers(store: Store, now: datetime) -> tuple[TriggerStatus, ...]:
    """Return the last and the next tick of each pipeline that has a trigger."""
    open_in = {run.pipeline: run.id for run in store.open_runs() if run.environment == _PRODUCTION}
    workers = any(worker.alive for worker in store.workers())
    return tuple(
        _trigger_status(state, state.trigger, open_in.get(state.pipeline), now, workers=workers)
        for state in store.triggers()
        if state.trigger is not None
    )


def _trigger_status(
    state: TriggerState, text: str, open_run: int | None, now: datetime, *, workers: bool
) -> TriggerStatus:
    trigger = msgspec.json.decode(text, type=AnyTrigger)
    due = next(trigger.after(state.reached), None)
    late = due is not None and due <= now.astimezone(UTC) - _LATE_AFTER
    why = state.held or ""
    if open_run is not None:
        why = f"It waits for the end of run {open_run}."
    elif not workers:
        why = "There is no worker to begin it."
    return TriggerStatus(
        pipeline=state.pipeline,
        trigger=trigger.describe(),
        last=state.last,
        next=due,
        late=late,
        why=why if late else "",
    )


def _run_status(store: Store, run: Run) -> RunStatus:
    steps = store.steps(run.id)
    failures = (f"{step.id}: {step.message}" for step in steps if step.state == "failed")
    return RunStatus(run=run, steps=_by_state(steps), first_failure=next(failures, ""))


def read_run(store: Store, run_id: int, logs: Path) -> RunDetails:
    """Return what happened in a run. Raises NotFound."""
    run = store.run(run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}.", hint="See: sidestage status")
    steps = store.steps(run_id)
    return RunDetails(
        run=msgspec.structs.replace(run, plan=""),
        steps=_by_state(steps),
        failures=tuple(_failed(step, logs) for step in steps if step.state == "failed"),
        warnings=_warnings(store.attempts(run_id)),
    )


def _by_state(steps: tuple[Step, ...]) -> dict[str, int]:
    return dict(Counter(step.state for step in steps))


def _failed(step: Step, logs: Path) -> FailedStep:
    log = attempt_log(logs, step.run, step.id, step.attempt)
    return FailedStep(
        step=step.id,
        attempts=step.attempt,
        failure_class=step.failure_class or "",
        message=step.message or "",
        log=str(log) if log.exists() else "",
    )


def _warnings(attempts: tuple[Attempt, ...]) -> tuple[Warned, ...]:
    found: dict[str, list[tuple[str, str]]] = {}
    for attempt in attempts:
        for finding in attempt.findings:
            if not finding.passed and not finding.blocking and attempt.state == "done":
                found.setdefault(finding.check, []).append((attempt.step, finding.message))
    return tuple(
        Warned(check=check, steps=len(where), first=where[0][0], message=where[0][1])
        for check, where in found.items()
    )


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
