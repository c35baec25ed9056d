"""Judge outcomes against the world as it is, without touching it.

A group is what one transaction is about: the rows its outcomes depend on, read under lock, and the rows that
are to be written for them. Each outcome sees what the outcomes before it in the group did.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sidestage.data.version import Version
from sidestage.events import Event, StepFailed, StepPublished, StepReused
from sidestage.store.records import Claim, Failure, Outcome, Publication, Reuse, Settled

PointerAddress = tuple[str, str, str]
"""(environment, dataset, partition)"""


class HeldStep(NamedTuple):
    """A step, its run, and the world it depends on, as read under lock."""

    run: int
    id: str
    position: int
    task: str
    dataset: str
    partition: str
    expects: str | None
    state: str
    fence: int
    attempt: int
    owner: str | None
    environment: str
    run_state: str
    shown: str | None
    released: str | None

    @property
    def pointer(self) -> PointerAddress:
        """The pointer that publishing the step moves."""
        return self.environment, self.dataset, self.partition


class KnownVersion(NamedTuple):
    """A version that is in the catalog; ``is_gone`` says that its data was removed."""

    id: str
    dataset: str
    partition: str
    is_gone: bool


class MadeVersion(NamedTuple):
    """A version to be recorded, with the run and the task that made it."""

    version: Version
    run: int
    task: str


@dataclass
class Rows:
    """What is to be written for a group, in the words of the statements that write it."""

    versions: list[MadeVersion] = field(default_factory=list)
    new_pointers: list[dict[str, Any]] = field(default_factory=list)
    moved_pointers: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    ended_steps: list[dict[str, Any]] = field(default_factory=list)
    retried_steps: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[int | None, Event]] = field(default_factory=list)


@dataclass
class Group:
    """The outcomes of one transaction: what they found, and what is to be written for them."""

    now: datetime
    steps: dict[tuple[int, str], HeldStep] = field(default_factory=dict)
    known: dict[str, KnownVersion] = field(default_factory=dict)
    shown: dict[PointerAddress, str | None] = field(default_factory=dict)
    released: dict[tuple[str, str], str | None] = field(default_factory=dict)
    rows: Rows = field(default_factory=Rows)

    def hold(self, step: HeldStep) -> None:
        """Take in a step that was read."""
        self.steps[step.run, step.id] = step
        self.shown[step.pointer] = step.shown
        self.released[step.environment, step.task] = step.released


def judge(group: Group, outcome: Outcome) -> Settled:
    """Say what becomes of an outcome, and note in the group what is to be written for it."""
    claim = outcome.claim
    step = group.steps.get((claim.run, claim.step))
    if step is None or not _holds(step, claim):
        return Settled(claim.step, "fenced")
    # Whatever else this group says about the step comes too late.
    del group.steps[claim.run, claim.step]
    match outcome:
        case Publication():
            return _publish(group, step, outcome)
        case Reuse():
            return _reuse(group, step, outcome)
        case Failure():
            return _fail(group, step, outcome)


def _holds(step: HeldStep, claim: Claim) -> bool:
    return bool(
        step.run_state == "running"
        and step.state == "running"
        and step.fence == claim.fence
        and step.owner == claim.owner
    )


def _publish(group: Group, step: HeldStep, outcome: Publication) -> Settled:
    made = outcome.version
    meant = (str(step.run), step.id, step.environment, step.dataset, step.partition)
    if (made.run, made.step, made.environment, made.dataset, made.partition) != meant:
        return _refuse(group, step, outcome, "bug", f"Version {made.id} is not the output of this step.")
    if made.id in group.known:
        return _refuse(group, step, outcome, "bug", f"There is a version {made.id} already.")
    released_code = group.released[step.environment, step.task]
    if released_code is not None and released_code != made.code:
        return _stale(
            group,
            step,
            outcome,
            f"{step.environment} has other code released for task {step.task!r}: {released_code},"
            f" while this step ran {made.code}.",
        )
    if message := _moved(group, step):
        return _stale(group, step, outcome, message)
    group.known[made.id] = KnownVersion(made.id, made.dataset, made.partition, is_gone=False)
    group.rows.versions.append(MadeVersion(made, step.run, step.task))
    _point(group, step, made.id)
    _done(group, step, outcome, "done", made.id, made.seconds)
    rows = made.stored.digest.rows
    group.rows.events.append(
        (step.run, StepPublished(group.now, str(step.run), step.id, made.id, rows, made.seconds))
    )
    return Settled(step.id, "done")


def _reuse(group: Group, step: HeldStep, outcome: Reuse) -> Settled:
    known = group.known.get(outcome.version)
    if known is None or (known.dataset, known.partition) != (step.dataset, step.partition):
        return _refuse(
            group, step, outcome, "bug", f"{outcome.version} is no version of this step's partition."
        )
    if known.is_gone:
        return _stale(group, step, outcome, f"The data of version {outcome.version} is gone.")
    if outcome.point:
        if message := _moved(group, step):
            return _stale(group, step, outcome, message)
        _point(group, step, outcome.version)
    _done(group, step, outcome, "reused", outcome.version, None)
    group.rows.events.append((step.run, StepReused(group.now, str(step.run), step.id, outcome.version)))
    return Settled(step.id, "reused")


def _fail(group: Group, step: HeldStep, outcome: Failure) -> Settled:
    if outcome.retry_in is None:
        _failed(group, step, outcome, outcome.failure_class, outcome.message)
        return Settled(step.id, "failed")
    values = {"retry_in": outcome.retry_in, **_words(outcome.failure_class, outcome.message)}
    group.rows.retried_steps.append({**_key(step), **values})
    _attempt(group, step, "failed", outcome, outcome.failure_class, outcome.message)
    _failure_event(group, step, outcome.failure_class, outcome.message, final=False)
    return Settled(step.id, "retry")


def _moved(group: Group, step: HeldStep) -> str:
    """Return what is wrong if the step's pointer does not show what the plan saw, or an empty text."""
    shown = group.shown[step.pointer]
    if shown == step.expects:
        return ""
    return (
        f"{step.dataset} [{step.partition}] shows {shown or 'nothing'} in {step.environment} by now;"
        f" when the plan was made it showed {step.expects or 'nothing'}."
    )


def _point(group: Group, step: HeldStep, new: str) -> None:
    old = group.shown[step.pointer]
    if old == new:
        return
    group.shown[step.pointer] = new
    where = {"environment": step.environment, "dataset": step.dataset, "partition": step.partition}
    if old is None:
        group.rows.new_pointers.append({**where, "version": new})
    else:
        at = {f"at_{name}": value for name, value in where.items()}
        group.rows.moved_pointers.append({**at, "old": old, "new": new})
    group.rows.log.append(
        {**where, "at": group.now, "previous": old, "version": new, "kind": "publish", "run": step.run}
    )


def _done(
    group: Group, step: HeldStep, outcome: Publication | Reuse, state: str, made: str, seconds: float | None
) -> None:
    ending = {"new_state": state, "new_version": made, "new_seconds": seconds}
    group.rows.ended_steps.append({**_key(step), **ending, **_words(None, None)})
    _attempt(group, step, "done", outcome, None, None)
    group.rows.done.append({"of_run": step.run, "done_position": step.position, "now": group.now})


def _stale(group: Group, step: HeldStep, outcome: Outcome, message: str) -> Settled:
    _failed(group, step, outcome, "stale", message)
    return Settled(step.id, "stale")


def _refuse(group: Group, step: HeldStep, outcome: Outcome, failure_class: str, message: str) -> Settled:
    _failed(group, step, outcome, failure_class, message)
    return Settled(step.id, "failed")


def _failed(group: Group, step: HeldStep, outcome: Outcome, failure_class: str, message: str) -> None:
    ending = {"new_state": "failed", "new_version": None, "new_seconds": None}
    group.rows.ended_steps.append({**_key(step), **ending, **_words(failure_class, message)})
    _attempt(group, step, "failed", outcome, failure_class, message)
    _failure_event(group, step, failure_class, message, final=True)


def _failure_event(group: Group, step: HeldStep, failure_class: str, message: str, *, final: bool) -> None:
    event = StepFailed(group.now, str(step.run), step.id, step.attempt, failure_class, message, final)
    group.rows.events.append((step.run, event))


def _attempt(
    group: Group,
    step: HeldStep,
    state: str,
    outcome: Outcome,
    failure_class: str | None,
    message: str | None,
) -> None:
    findings = () if isinstance(outcome, Reuse) else outcome.findings
    group.rows.attempts.append(
        {
            "of_run": step.run,
            "at_position": step.position,
            "at_number": step.attempt,
            "new_state": state,
            "now": group.now,
            "new_details": outcome.details or None if isinstance(outcome, Failure) else None,
            "new_findings": findings,
            "new_isolation": None if isinstance(outcome, Reuse) else outcome.isolation or None,
            **_words(failure_class, message),
        }
    )


def _key(step: HeldStep) -> dict[str, Any]:
    return {"of_run": step.run, "at_position": step.position, "at_fence": step.fence}


def _words(failure_class: str | None, message: str | None) -> dict[str, str | None]:
    return {"new_class": failure_class, "new_message": message}
