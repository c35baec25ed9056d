"""What the store remembers, as frozen values."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from sidestage.data.check import Finding
from sidestage.data.version import Version
from sidestage.policy.pool import Pool

EnvironmentState = Literal["open", "promoted", "closed"]
RunState = Literal["running", "done", "failed", "cancelled"]
StepState = Literal["waiting", "ready", "running", "done", "reused", "failed"]
MoveKind = Literal["publish", "promote", "rollback", "withdraw"]
DEFAULT_QUEUE = "default"


class Environment(msgspec.Struct, frozen=True):
    """A set of pointers. ``base`` is the environment it reads through (None for production).

    ``code`` names the code it runs: ``git:<commit>``, ``tree:<hash>`` or, for production before its first
    promotion, ``""``.
    """

    name: str
    base: str | None
    code: str
    state: EnvironmentState
    created_at: datetime


class Run(msgspec.Struct, frozen=True):
    """An execution of a plan. ``plan`` is the plan's JSON, ``by`` the person who asked, ``reason`` why.

    ``driver`` is the worker that attends to it until it ends; None if any worker may.
    """

    id: int
    pipeline: str
    environment: str
    state: RunState
    code: str
    by: str
    reason: str
    plan: str
    created_at: datetime
    ended_at: datetime | None = None
    driver: str | None = None


class NewRun(msgspec.Struct, frozen=True):
    """A run to be begun; the store gives it its id.

    ``driver`` is the worker that attends to it until it ends; None if any worker may. ``key`` names what
    asked for it, such as one tick of a schedule: the same key never begins a second run.
    """

    pipeline: str
    environment: str
    code: str
    by: str
    reason: str
    plan: str
    driver: str | None = None
    key: str | None = None


class NewStep(msgspec.Struct, frozen=True):
    """A step of a run to be begun.

    ``expects`` is the version that the step's pointer showed when the plan was made (None: nothing);
    publishing is refused if it shows another by then. ``after`` names the steps that must be done before.
    Only workers that serve ``queue`` run it, and it holds ``slots`` of ``pool`` meanwhile, if that is given.
    """

    id: str
    task: str
    dataset: str
    partition: str
    expects: str | None
    after: tuple[str, ...] = ()
    queue: str = DEFAULT_QUEUE
    pool: str | None = None
    slots: int = 1


class Step(msgspec.Struct, frozen=True):
    """A step of a run as the store knows it.

    ``fence`` grows with each claim; only the holder of the newest may publish. ``attempt`` counts from 1
    once started. ``version`` is set when done or reused; the failure fields when the last attempt failed.
    ``ready_at`` is when it last became ready.
    """

    run: int
    id: str
    task: str
    dataset: str
    partition: str
    state: StepState
    attempt: int
    fence: int
    owner: str | None
    version: str | None
    failure_class: str | None
    message: str | None
    seconds: float | None
    queue: str = DEFAULT_QUEUE
    pool: str | None = None
    slots: int = 1
    ready_at: datetime | None = None


class Claim(msgspec.Struct, frozen=True):
    """The right to run one step, while its lease lasts."""

    run: int
    step: str
    owner: str
    attempt: int
    fence: int


class Demand(msgspec.Struct, frozen=True):
    """What a worker would run now: up to ``limit`` steps, each under a lease of ``lease`` seconds.

    ``runs`` and ``queues`` confine what is claimed (None: anything). Steps that hold slots of a pool are
    claimed only if ``pools`` names it and enough of it is free.
    """

    owner: str
    limit: int
    lease: float
    runs: Collection[int] | None = None
    queues: Collection[str] | None = None
    pools: Collection[Pool] = ()


class Waiting(msgspec.Struct, frozen=True):
    """A step that is ready and was not claimed yet, with what it waits for."""

    run: int
    pipeline: str
    step: str
    queue: str
    pool: str | None
    slots: int
    since: datetime


class Holding(msgspec.Struct, frozen=True):
    """A step that runs and holds slots of a pool."""

    run: int
    pipeline: str
    step: str
    pool: str
    slots: int
    owner: str


class Worker(msgspec.Struct, frozen=True):
    """A process that claims steps, as it last said itself.

    ``name`` is the owner of its claims. ``alive``: its heart beat less than its lease ago. A draining worker
    finishes what it runs and claims nothing new.
    """

    name: str
    queues: tuple[str, ...]
    slots: int
    draining: bool
    started_at: datetime
    seen_at: datetime
    alive: bool = True


class Beat(msgspec.Struct, frozen=True):
    """What a worker learns from its heartbeat: the claims it still holds, and whether it is to drain."""

    held: frozenset[tuple[int, str, int]]
    """(run, step, fence)"""
    draining: bool


class Attempt(msgspec.Struct, frozen=True):
    """One try of a step; ``state`` is abandoned if its owner died or lost its lease.

    ``isolation`` is how the task's code was walled in, such as ``process`` or ``landlock-7``.
    """

    run: int
    step: str
    number: int
    owner: str
    state: Literal["running", "done", "failed", "abandoned"]
    started_at: datetime
    ended_at: datetime | None = None
    failure_class: str | None = None
    message: str | None = None
    details: str | None = None
    findings: tuple[Finding, ...] = ()
    isolation: str = ""


class Publication(msgspec.Struct, frozen=True, tag="publication"):
    """Make a version the current one of its partition and mark the step done: all or nothing."""

    claim: Claim
    version: Version
    findings: tuple[Finding, ...] = ()
    isolation: str = ""


class Reuse(msgspec.Struct, frozen=True, tag="reuse"):
    """Mark a step as reused: point at an existing version instead of making one.

    With ``point`` False no pointer is set, because the environment already shows that version through its
    base.
    """

    claim: Claim
    version: str
    point: bool = True


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """An attempt failed. With ``retry_in`` (seconds) the step becomes ready again after that time."""

    claim: Claim
    failure_class: str
    message: str
    details: str = ""
    findings: tuple[Finding, ...] = ()
    retry_in: float | None = None
    isolation: str = ""


Outcome = Publication | Reuse | Failure


class Settled(msgspec.Struct, frozen=True):
    """What became of an outcome.

    ``fenced``: the claim was no longer the newest, nothing was changed. ``stale``: the pointer had moved
    since the plan was made, the step was marked failed with class ``stale`` and nothing was published.
    """

    step: str
    result: Literal["done", "reused", "retry", "failed", "fenced", "stale"]


class Exchanged(NamedTuple):
    """What became of outcomes, and what was claimed together with them; None if nothing was tried."""

    settled: tuple[Settled, ...]
    claims: tuple[Claim, ...] | None


class PointerChange(msgspec.Struct, frozen=True):
    """One pointer's move. None means: no pointer there."""

    dataset: str
    partition: str
    old: str | None
    new: str | None


class CodeChange(msgspec.Struct, frozen=True):
    """One task's released fingerprint before and after a move. None means: not released."""

    task: str
    old: str | None
    new: str | None


class NewMove(msgspec.Struct, frozen=True):
    """Pointers to be moved together, if each still shows its ``old`` value.

    ``source`` names where the new pointers come from: the candidate's environment, or the move undone.
    ``undoes`` is the id of the move that a rollback takes back.
    """

    kind: MoveKind
    environment: str
    by: str
    reason: str
    source: str
    changes: tuple[PointerChange, ...]
    code: tuple[CodeChange, ...] = ()
    code_name: str | None = None
    undoes: int | None = None


class Move(msgspec.Struct, frozen=True):
    """A move that was made; ``changes`` is empty where only the summary was asked for."""

    id: int
    kind: MoveKind
    environment: str
    at: datetime
    by: str
    reason: str
    source: str
    pointers: int
    undone_by: int | None = None
    undoes: int | None = None
    changes: tuple[PointerChange, ...] = ()
    code: tuple[CodeChange, ...] = ()
    old_code_name: str = ""
    new_code_name: str = ""


class PointerEntry(msgspec.Struct, frozen=True):
    """A line of the pointer log: at a moment, one pointer began to show ``version`` (None: nothing)."""

    at: datetime
    environment: str
    dataset: str
    partition: str
    version: str | None
    kind: MoveKind
    move: int | None
    run: int | None


class ComparisonRecord(msgspec.Struct, frozen=True):
    """A comparison that was made.

    ``world`` is the digest of every pointer pair that it looked at; ``summary`` its JSON.
    """

    id: int
    environment: str
    base: str
    at: datetime
    passed: bool
    verdict: str
    world: str
    summary: str
    report: str


class EventEntry(msgspec.Struct, frozen=True):
    """A line of the record of events; ``body`` is the event's JSON, ``kind`` the name of its type."""

    id: int
    at: datetime
    run: int | None
    kind: str
    body: str
