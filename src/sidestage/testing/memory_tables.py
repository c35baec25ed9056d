"""What the store in memory holds: rows, and the indexes that make every call cost what it touches."""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from operator import attrgetter

from sidestage.data.version import Version
from sidestage.errors import StoreError
from sidestage.events import Event
from sidestage.store.outcomes import PointerAddress
from sidestage.store.records import (
    Attempt,
    ComparisonRecord,
    Environment,
    Move,
    MoveKind,
    NewRun,
    NewStep,
    RunState,
    StepState,
    Worker,
)
from sidestage.store.service_records import ServiceState
from sidestage.store.tick_records import Tick, TriggerState


@dataclass(slots=True, eq=False)
class StepRow:
    """A step: what was planned, and how far it is. ``due`` is in seconds of the database's clock."""

    of: "RunRow"
    position: int
    plan: NewStep
    waiting_for: int
    state: StepState = "waiting"
    attempt: int = 0
    fence: int = 0
    owner: str | None = None
    version: str | None = None
    failure_class: str | None = None
    message: str | None = None
    seconds: float | None = None
    ready_at: datetime | None = None
    due: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    dependents: list["StepRow"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class RunRow:
    """A run, its steps, and which of them are ready: positions in the order of the plan."""

    id: int
    plan: NewRun
    created_at: datetime
    state: RunState = "running"
    driver: str | None = None
    ended_at: datetime | None = None
    steps: list[StepRow] = field(default_factory=list)
    by_id: dict[str, StepRow] = field(default_factory=dict)
    ready: list[int] = field(default_factory=list)
    ready_pooled: list[int] = field(default_factory=list)
    under_way: int = 0
    """Steps that are ready, run, or wait to be tried again."""

    def ready_of(self, step: StepRow) -> list[int]:
        """Return the ready positions among which a step of its kind belongs."""
        return self.ready if step.plan.pool is None else self.ready_pooled


@dataclass(slots=True)
class VersionRow:
    """A version, the run and task that made it, and when its data went."""

    version: Version
    run: int
    task: str
    gone_at: datetime | None = None


@dataclass(slots=True)
class LogRow:
    """A line of the pointer log."""

    at: datetime
    address: PointerAddress
    previous: str | None
    version: str | None
    kind: MoveKind
    move: int | None
    run: int | None


@dataclass(slots=True)
class WorkerRow:
    """A worker as it last said itself, and when it must say so again."""

    said: Worker
    due: float


@dataclass(slots=True)
class ServiceRow:
    """A service as it was held and noted last, and when its lease is over."""

    state: ServiceState
    due: float


class Tables:
    """All rows of one database, behind one lock: a call holds ``turn`` from its first look to its last write.

    ``clock`` returns the seconds by which leases are measured.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.turn = threading.Lock()
        self.changes = 0
        self.environments: dict[str, Environment] = {}
        self.pointers: dict[str, dict[tuple[str, str], str]] = {}
        self.released: dict[str, dict[str, str]] = {}
        self.versions: dict[str, VersionRow] = {}
        self.log: list[LogRow] = []
        self.moves: list[Move] = []
        self.comparisons: list[ComparisonRecord] = []
        self.events: list[tuple[int | None, Event]] = []
        self.runs: list[RunRow] = []
        self.keys: dict[str, int] = {}
        self.triggers: dict[str, TriggerState] = {}
        self.triggers_gone: dict[str, datetime] = {}
        self.ticks: dict[str, list[Tick]] = {}
        self.services: dict[str, ServiceRow] = {}
        self.workers: dict[str, WorkerRow] = {}
        self.claimable: list[int] = []
        self.pooled: list[int] = []
        self.owned: dict[str, dict[StepRow, None]] = {}
        self.holding: dict[StepRow, None] = {}
        self._due: list[tuple[float, int, StepRow]] = []
        self._pushed = 0

    def run(self, run_id: int) -> RunRow | None:
        """Return a run by its id, which counts from 1."""
        return self.runs[run_id - 1] if 0 < run_id <= len(self.runs) else None

    def make_ready(self, step: StepRow, ready_at: datetime | None) -> None:
        """Let anybody claim a step; ``ready_at`` None keeps the moment that is there."""
        self._leave(step)
        step.state = "ready"
        if ready_at is not None:
            step.ready_at = ready_at
        run = step.of
        run.under_way += 1
        ready = run.ready_of(step)
        if not ready:
            insort(self._runs_with(step), run.id)
        insort(ready, step.position)

    def make_running(self, step: StepRow, owner: str, due: float) -> None:
        """Give a step to an owner until ``due``."""
        self._leave(step)
        step.state = "running"
        step.owner = owner
        step.of.under_way += 1
        self.owned.setdefault(owner, {})[step] = None
        if step.plan.pool is not None:
            self.holding[step] = None
        self.set_due(step, due)

    def make_waiting(self, step: StepRow, due: float | None) -> None:
        """Have a step wait: for its time to be tried again, or, without ``due``, for its run to go on."""
        self._leave(step)
        step.state = "waiting"
        if due is not None:
            step.of.under_way += 1
            self.set_due(step, due)

    def make_ended(self, step: StepRow, state: StepState) -> None:
        """Mark a step done, reused or failed."""
        self._leave(step)
        step.state = state

    def set_due(self, step: StepRow, due: float) -> None:
        """Set when a step's lease expires or it may be tried again."""
        step.due = due
        self._pushed += 1
        heappush(self._due, (due, self._pushed, step))

    def overdue(self) -> Iterator[StepRow]:
        """Yield the steps whose time has passed; the caller gives each another state before the next."""
        while self._due and self._due[0][0] <= self.clock():
            due, _, step = heappop(self._due)
            if step.due == due:
                yield step

    def next_due(self) -> float | None:
        """Return when the next lease expires or step may be tried again."""
        while self._due and self._due[0][2].due != self._due[0][0]:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def point(self, line: LogRow) -> None:
        """Have a pointer show another version, or nothing, and log it."""
        environment, dataset, partition = line.address
        shown = self.pointers.setdefault(environment, {})
        if line.version is None:
            shown.pop((dataset, partition), None)
        else:
            shown[dataset, partition] = line.version
        self.log.append(line)

    def _runs_with(self, step: StepRow) -> list[int]:
        return self.claimable if step.plan.pool is None else self.pooled

    def _leave(self, step: StepRow) -> None:
        """Take a step out of the indexes that its present state put it in."""
        run = step.of
        match step.state:
            case "ready":
                ready = run.ready_of(step)
                del ready[bisect_left(ready, step.position)]
                if not ready:
                    runs = self._runs_with(step)
                    del runs[bisect_left(runs, run.id)]
                run.under_way -= 1
            case "running":
                owner = step.owner or ""
                del self.owned[owner][step]
                if not self.owned[owner]:
                    del self.owned[owner]
                if step.plan.pool is not None:
                    del self.holding[step]
                step.owner = None
                run.under_way -= 1
            case "waiting" if step.due is not None:
                run.under_way -= 1
        step.due = None


class MemoryPart:
    """A part of the store that works on tables in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables


IN_PLAN_ORDER = attrgetter("of.id", "position")
"""Sorts steps: older runs first, then as planned."""


def require_zone(moment: datetime) -> None:
    """Refuse a moment without a time zone. Raises StoreError."""
    if moment.tzinfo is None:
        raise StoreError(
            f"{moment!r} has no time zone, and the store keeps no guesses.", hint="Give it one, such as UTC."
        )
