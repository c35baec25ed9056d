"""Who runs which step, in memory: claims under a lease, and the workers that hold them."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from itertools import islice

import msgspec

from sidestage.events import StepStarted
from sidestage.store.records import Attempt, Beat, Claim, Demand, Holding, Waiting, Worker
from sidestage.testing.memory_tables import (
    IN_PLAN_ORDER,
    MemoryPart,
    RunRow,
    StepRow,
    Tables,
    WorkerRow,
    require_zone,
)

_FORGOTTEN_AFTER_SECONDS = 24 * 3600.0


class MemoryClaims(MemoryPart):
    """Gives steps to those who run them, and takes them back."""

    def claim(self, demand: Demand, now: datetime) -> tuple[Claim, ...]:
        """Claim ready steps: older runs first, then as planned."""
        require_zone(now)
        tables = self._tables
        with tables.turn:
            if expired := list(tables.overdue()):
                let_go(tables, expired, now)
            return take(tables, demand, now)

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Say that a worker lives: extend the leases of all that it runs, and return what it still holds."""
        require_zone(now)
        tables = self._tables
        with tables.turn:
            due = tables.clock() + lease
            owned = tables.owned.get(worker.name, {})
            for step in owned:
                tables.set_due(step, due)
            known = tables.workers.get(worker.name)
            if known is None:
                _forget_dead(tables)
            draining = worker.draining or (known is not None and known.said.draining)
            said = msgspec.structs.replace(
                worker,
                draining=draining,
                seen_at=now,
                started_at=worker.started_at if known is None else known.said.started_at,
            )
            tables.workers[worker.name] = WorkerRow(said, due)
            return Beat(frozenset((step.of.id, step.plan.id, step.fence) for step in owned), draining)

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that are known, by name; those long dead are forgotten."""
        with self._tables.turn:
            now = self._tables.clock()
            rows = sorted(self._tables.workers.items())
            return tuple(msgspec.structs.replace(row.said, alive=row.due > now) for _, row in rows)

    def drain(self, worker: str) -> bool:
        """Have a worker finish what it runs and claim nothing new; return False if there is no such."""
        with self._tables.turn:
            row = self._tables.workers.get(worker)
            if row is None:
                return False
            row.said = msgspec.structs.replace(row.said, draining=True)
            self._tables.changes += 1
            return True

    def abandon(self, owner: str, now: datetime, *, run: int | None = None) -> int:
        """Make ready again all steps that an owner, known to be gone, was running; return how many."""
        require_zone(now)
        with self._tables.turn:
            if run is None:
                self._tables.workers.pop(owner, None)
            owned = self._tables.owned.get(owner, {})
            return let_go(self._tables, [s for s in owned if run is None or s.of.id == run], now)

    def owners(self, run_id: int) -> tuple[str, ...]:
        """Return who is running steps of the run."""
        with self._tables.turn:
            owned = self._tables.owned.items()
            return tuple(sorted(who for who, steps in owned if any(s.of.id == run_id for s in steps)))

    def waiting(self, limit: int = 1000) -> tuple[Waiting, ...]:
        """Return ready steps that nobody has claimed, in the order in which they would be."""
        with self._tables.turn:
            return tuple(_waiting_of(step) for step in islice(_unclaimed(self._tables), limit))

    def holdings(self) -> tuple[Holding, ...]:
        """Return the steps that run and hold slots of a pool."""
        with self._tables.turn:
            held = sorted(self._tables.holding, key=lambda step: (step.plan.pool, *IN_PLAN_ORDER(step)))
            return tuple(_holding_of(step) for step in held)

    def next_due(self) -> float | None:
        """Return the seconds until a lease expires or a step may be tried again, whichever is first."""
        with self._tables.turn:
            due = self._tables.next_due()
            return None if due is None else max(0.0, due - self._tables.clock())


def take(tables: Tables, demand: Demand, now: datetime) -> tuple[Claim, ...]:
    """Claim steps that are ready, by one who has the turn."""
    chosen = _choose_pooled(tables, demand) if demand.pools and tables.pooled else []
    if len(chosen) < demand.limit:
        chosen += islice(_ready(tables, demand), demand.limit - len(chosen))
    chosen.sort(key=IN_PLAN_ORDER)
    return tuple([_take(tables, step, demand, now) for step in chosen])


def let_go(tables: Tables, steps: Collection[StepRow], now: datetime) -> int:
    """Make steps ready again and mark their attempts abandoned; return how many."""
    for step in steps:
        if step.state == "running":
            last = msgspec.structs.replace(step.attempts[-1], state="abandoned", ended_at=now)
            step.attempts[-1] = last
        tables.make_ready(step, now)
    if steps:
        tables.changes += 1
    return len(steps)


def _take(tables: Tables, step: StepRow, demand: Demand, now: datetime) -> Claim:
    owner = demand.owner
    step.fence += 1
    step.attempt += 1
    tables.make_running(step, owner, tables.clock() + demand.lease)
    run, name = step.of.id, step.plan.id
    step.attempts.append(Attempt(run, name, step.attempt, owner, "running", now))
    tables.events.append((run, StepStarted(now, str(run), name, step.attempt)))
    return Claim(run, name, owner, step.attempt, step.fence)


def _among(tables: Tables, ids: Iterable[int], wanted: Collection[int] | None) -> Iterator[RunRow]:
    return (tables.runs[each - 1] for each in ids if wanted is None or each in wanted)


def _ready(tables: Tables, demand: Demand) -> Iterator[StepRow]:
    """Yield ready steps that need no pool, in the order in which they are claimed."""
    for run in _among(tables, tables.claimable, demand.runs):
        for position in run.ready:
            step = run.steps[position]
            if demand.queues is None or step.plan.queue in demand.queues:
                yield step


def _choose_pooled(tables: Tables, demand: Demand) -> list[StepRow]:
    """Return ready steps that hold slots of a pool, as far as they are free, in order."""
    by_name = {pool.name: pool for pool in demand.pools}
    held: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for step in tables.holding:
        held[step.plan.pool or ""][step.of.plan.pipeline] += step.plan.slots
    chosen: list[StepRow] = []
    for run in _among(tables, tables.pooled, demand.runs):
        pipeline = run.plan.pipeline
        for step in (run.steps[position] for position in run.ready_pooled):
            if len(chosen) >= demand.limit:
                return chosen
            pool = by_name.get(step.plan.pool or "")
            if pool is None or (demand.queues is not None and step.plan.queue not in demand.queues):
                continue
            if min(step.plan.slots, pool.slots) <= pool.free_for(pipeline, held[pool.name]):
                held[pool.name][pipeline] += step.plan.slots
                chosen.append(step)
    return chosen


def _unclaimed(tables: Tables) -> Iterator[StepRow]:
    for run_id in sorted({*tables.claimable, *tables.pooled}):
        run = tables.runs[run_id - 1]
        for position in sorted((*run.ready, *run.ready_pooled)):
            yield run.steps[position]


def _waiting_of(step: StepRow) -> Waiting:
    plan, run = step.plan, step.of
    since = step.ready_at or run.created_at
    return Waiting(run.id, run.plan.pipeline, plan.id, plan.queue, plan.pool, plan.slots, since)


def _holding_of(step: StepRow) -> Holding:
    plan, run = step.plan, step.of
    return Holding(run.id, run.plan.pipeline, plan.id, plan.pool or "", plan.slots, step.owner or "")


def _forget_dead(tables: Tables) -> None:
    before = tables.clock() - _FORGOTTEN_AFTER_SECONDS
    for name in [name for name, row in tables.workers.items() if row.due < before]:
        del tables.workers[name]
