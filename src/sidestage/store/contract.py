"""Contracts of the store: the catalog of versions and pointers, and the record of runs.

What an implementer must keep, whatever the database:

- *Acknowledged means synced.* A method that changes something returns only after the change survives a
  power cut.
- *All or nothing.* Each method is one transaction. ``settle`` takes many outcomes and makes one
  transaction of them; an outcome that is refused changes nothing and does not disturb the others.
- *Leases are measured by the database's clock*, never by the caller's.
- *No wall-clock reads*: times that are shown to people are passed in as ``now``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from sidestage.data.version import Version
from sidestage.store.records import (
    Attempt,
    Beat,
    Claim,
    ComparisonRecord,
    Demand,
    Environment,
    EventEntry,
    Exchanged,
    Holding,
    Move,
    NewMove,
    NewRun,
    NewStep,
    Outcome,
    PointerEntry,
    Run,
    RunState,
    Settled,
    Step,
    Waiting,
    Worker,
)
from sidestage.store.service_records import ServiceNote, ServiceState
from sidestage.store.tick_records import NewTick, Tick, TriggerState


class Wakeups(Protocol):
    """An ear of one worker for changes that others make: runs begun, steps freed, runs cancelled."""

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable, or None where the database cannot call."""
        ...

    def heard(self) -> bool:
        """Return whether anything may have changed since the last call. Cheap."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


PointerKey = tuple[str, str]
"""(dataset, partition)"""


class Catalog(Protocol):
    """Environments, pointers and versions."""

    def environment(self, name: str) -> Environment | None:
        """Return an environment, or None."""
        ...

    def environments(self) -> tuple[Environment, ...]:
        """Return all environments, by name."""
        ...

    def save_environment(self, environment: Environment) -> None:
        """Create an environment, or replace its base, code and state."""
        ...

    def pointers(
        self, environment: str, *, datasets: Collection[str] | None = None, as_of: datetime | None = None
    ) -> dict[PointerKey, str]:
        """Return the environment's *own* pointers, not those of its base: now, or as of a moment."""
        ...

    def versions(self, ids: Iterable[str]) -> dict[str, Version]:
        """Return the versions with these ids; unknown ids are left out."""
        ...

    def released(self, environment: str) -> dict[str, str]:
        """Return the fingerprint of the code that each task of the environment may run with."""
        ...

    def move(self, move: NewMove, now: datetime) -> Move:
        """Move pointers and released code together.

        Raises StaleWorld, and changes nothing, if any pointer or released fingerprint does not show its
        ``old`` value any more, if the data of a version to be shown is gone, or if the move to be undone was
        undone already. Raises NotFound for an unknown environment, version or move to be undone.
        """
        ...

    def moves(self, environment: str | None = None, *, limit: int = 50) -> tuple[Move, ...]:
        """Return promotions and rollbacks, newest first, without their changes."""
        ...

    def move_details(self, move_id: int) -> Move:
        """Return one move with its changes. Raises NotFound."""
        ...

    def pointer_log(
        self,
        *,
        environment: str | None = None,
        dataset: str | None = None,
        partition: str | None = None,
        limit: int = 100,
    ) -> tuple[PointerEntry, ...]:
        """Return what pointers showed, newest first."""
        ...

    def all_versions(self) -> Iterable[Version]:
        """Yield every version in the catalog, oldest first, in bounded memory."""
        ...

    def unreferenced_versions(self, keep_since: datetime) -> tuple[Version, ...]:
        """Return versions whose data nobody needs, oldest first.

        Those are the versions that no pointer shows, no log entry since ``keep_since`` mentions as old or
        new, no unfinished run made, and whose data is still there. That another version was made of them
        does not keep them.
        """
        ...

    def forget_versions(
        self, ids: Collection[str], now: datetime, *, keep_since: datetime | None = None
    ) -> int:
        """Mark versions as having no data any more, if still unreferenced; return how many.

        Without ``keep_since`` the log keeps nothing, only pointers and unfinished runs do.
        """
        ...

    def data_gone(self, ids: Iterable[str]) -> frozenset[str]:
        """Return which of these versions have no data any more."""
        ...

    def save_comparison(self, record: ComparisonRecord) -> int:
        """Keep a comparison; its ``id`` is ignored and the new one returned."""
        ...

    def comparisons(self, environment: str, *, limit: int = 20) -> tuple[ComparisonRecord, ...]:
        """Return an environment's comparisons, newest first."""
        ...


class Runs(Protocol):
    """Runs, their steps and attempts."""

    def begin_run(self, run: NewRun, steps: Sequence[NewStep], now: datetime, *, alone: bool = False) -> int:
        """Record a run with all its steps; return its id. Steps without predecessors are ready at once.

        A run without steps is done at once. If there is a run with the same ``key``, nothing is recorded and
        its id is returned. ``alone`` refuses to begin while another run of the pipeline in the environment is
        open, with StoreError naming it.

        Raises NotFound for an unknown environment, StoreError if two steps have the same id or a step comes
        after one that does not stand before it.
        """
        ...

    def run(self, run_id: int) -> Run | None:
        """Return a run, or None."""
        ...

    def runs(
        self, *, pipeline: str | None = None, environment: str | None = None, limit: int = 20
    ) -> tuple[Run, ...]:
        """Return runs, newest first, with an empty ``plan``."""
        ...

    def steps(self, run_id: int) -> tuple[Step, ...]:
        """Return the steps of a run in the order in which they were given."""
        ...

    def made(self, run_id: int, steps: Collection[str]) -> dict[str, str]:
        """Return the version that each of these steps made or reused; those not done are left out."""
        ...

    def attempts(self, run_id: int, step: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts of a run, or of one step, in the order of the plan, oldest first."""
        ...

    def open_runs(self) -> tuple[Run, ...]:
        """Return the runs that have not ended, oldest first, with an empty ``plan``."""
        ...

    def claim(self, demand: Demand, now: datetime) -> tuple[Claim, ...]:
        """Claim ready steps: older runs first, then as planned.

        Before that, in all runs: a step whose lease has expired becomes ready again and its attempt is marked
        abandoned; a step waiting for a retry becomes ready when its time has come. A claim need not survive
        a power cut that ends everyone who could hold it.
        """
        ...

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Say that a worker lives: extend the leases of all that it runs, and return what it still holds.

        The worker is recorded as given, but stays draining once anybody said so.
        """
        ...

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that are known, by name; those long dead are forgotten."""
        ...

    def drain(self, worker: str) -> bool:
        """Have a worker finish what it runs and claim nothing new; return False if there is no such."""
        ...

    def abandon(self, owner: str, now: datetime, *, run: int | None = None) -> int:
        """Make ready again all steps that an owner, known to be gone, was running; return how many.

        Without ``run`` the worker of that name is forgotten, too.
        """
        ...

    def owners(self, run_id: int) -> tuple[str, ...]:
        """Return who is running steps of the run."""
        ...

    def waiting(self, limit: int = 1000) -> tuple[Waiting, ...]:
        """Return ready steps that nobody has claimed, in the order in which they would be."""
        ...

    def holdings(self) -> tuple[Holding, ...]:
        """Return the steps that run and hold slots of a pool."""
        ...

    def next_due(self) -> float | None:
        """Return the seconds until a lease expires or a step may be tried again, whichever is first.

        None if there is neither; 0 if that time has passed.
        """
        ...

    def listen(self) -> Wakeups:
        """Return an ear for changes that may interest a worker. The caller closes it."""
        ...

    def settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        """Record what became of claimed steps, in one transaction (group commit).

        For each publication: insert the version, move the pointer of (the run's environment, dataset,
        partition), write the pointer log, mark the step and its attempt done, make ready what waited only for
        it, append the event. Releasing code is a move of its own. A run in which nothing is left that
        could run is ended in the same transaction, as done or failed.

        The pointer is the environment's own, not that of its base. An outcome is fenced if its step was
        claimed again, taken back, or its run has ended. A publication is stale if the pointer does not show
        what the step expects, or if other code is released for its task. One whose version does not name the
        claim's run (as text), step, environment, dataset and partition, or whose id exists already, fails
        the step with class ``bug``.
        """
        ...

    def exchange(self, outcomes: Sequence[Outcome], demand: Demand, now: datetime) -> Exchanged:
        """Settle, and claim what is ready then, all in one transaction.

        Leases that have expired and retries whose time has come are left to ``claim``. So is everything if
        it took more than one try: whoever had to wait for the store may not want to begin anything now.
        """
        ...

    def reopen_run(self, run_id: int, *, driver: str | None = None, alone: bool = False) -> int:
        """Make the run running and its failed steps ready again; return how many steps are still to be done.

        ``driver`` attends to it from now on. Steps that somebody is running are left to them. A run with
        nothing to be done is left as it is. ``alone`` refuses while this or another run of the pipeline in
        the environment is open, with StoreError naming it. Raises NotFound.
        """
        ...

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """Record that a run came to its end, if it did not before; this is also how a run is cancelled.

        Whoever still runs a step of it loses the claim and cannot publish any more. Raises NotFound.
        """
        ...

    def events(self, after: int = 0, limit: int = 1000) -> tuple[EventEntry, ...]:
        """Return what happened after the event with id ``after``, oldest first."""
        ...

    def task_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the mean seconds per step of recent published versions, by task, where known."""
        ...


class Ticks(Protocol):
    """Triggers of pipelines, and their ticks: each is begun once, in order, whoever looks."""

    def declare_triggers(self, triggers: Mapping[str, str], now: datetime) -> None:
        """Say which pipelines have triggers now (JSON by pipeline), all others have none any more.

        From ``now`` on ticks are due of those that had none before; those that had one go on where they are.
        """
        ...

    def triggers(self) -> tuple[TriggerState, ...]:
        """Return how far the ticks are of each pipeline that ever had a trigger, by name."""
        ...

    def begin_tick(
        self, tick: NewTick, run: NewRun | None, steps: Sequence[NewStep], now: datetime
    ) -> Tick | None:
        """Record a tick together with the run that it begins, or with none if there is nothing to do.

        Return None, and change nothing, if the tick before it is not the last one of its pipeline (any more),
        or the pipeline never had a trigger: then somebody else was first. What held the tick up is forgotten.

        Raises what ``begin_run`` does with ``alone``; then the tick is not recorded.
        """
        ...

    def hold_tick(self, pipeline: str, why: str) -> None:
        """Note why the next tick, which is due, could not be begun."""
        ...

    def ticks(self, pipeline: str, *, limit: int = 20) -> tuple[Tick, ...]:
        """Return the ticks of a pipeline that were begun, newest first."""
        ...


class Services(Protocol):
    """Streams that run without end, each held by one worker at a time."""

    def hold_service(self, service: str, owner: str, *, lease: float, now: datetime) -> int | None:
        """Take a service that nobody holds, or extend the lease of ``owner``; return the fence.

        None if another owner's lease is not over. An owner whose lease is over goes on with the fence it had
        if nobody took the service in between. ``lease`` is in seconds from now by the database's clock.
        """
        ...

    def note_service(self, service: str, fence: int, said: ServiceNote, now: datetime) -> bool:
        """Say what becomes of a service; return False, and change nothing, if it was taken by another."""
        ...

    def release_service(self, service: str, fence: int) -> bool:
        """Give a service back before its lease is over; return False if it was taken by another."""
        ...

    def ask_service(self, service: str) -> bool:
        """Ask that a service be started anew; return False if nobody ever held one of this name."""
        ...

    def services(self) -> tuple[ServiceState, ...]:
        """Return the services that anybody ever held, by name."""
        ...


class Store(Catalog, Runs, Ticks, Services, Protocol):
    """All of them, over one database, so that publishing and finishing a step are one transaction."""

    def close(self) -> None:
        """Release the database."""
        ...


@runtime_checkable
class Upgradable(Protocol):
    """A store whose schema changes from release to release."""

    def pending_post(self) -> tuple[str, ...]:
        """Return, in words, what ``finish_migrations`` would do, in its order."""
        ...

    def finish_migrations(self) -> tuple[str, ...]:
        """Take away what only earlier releases needed; return, in words, what was done.

        To be called when no process of an earlier release uses the store any more.
        """
        ...
