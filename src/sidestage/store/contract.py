"""Contracts of the store: the catalog of versions and pointers, and the record of runs.

What an implementer must keep, whatever the database:

- *Acknowledged means synced.* A method that changes something returns only after the change survives a
  power cut.
- *All or nothing.* Each method is one transaction. ``settle`` takes many outcomes and makes one
  transaction of them; an outcome that is refused changes nothing and does not disturb the others.
- *Leases are measured by the database's clock*, never by the caller's.
- *No wall-clock reads*: times that are shown to people are passed in as ``now``.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from sidestage.data.version import Version
from sidestage.store.records import (
    Attempt,
    Claim,
    ComparisonRecord,
    Environment,
    EventEntry,
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
)

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

    def begin_run(self, run: NewRun, steps: Sequence[NewStep], now: datetime) -> int:
        """Record a run with all its steps; return its id. Steps without predecessors are ready at once.

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

    def attempts(self, run_id: int, step: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts of a run, or of one step, in the order of the plan, oldest first."""
        ...

    def claim(self, run_id: int, owner: str, limit: int, *, lease: float, now: datetime) -> tuple[Claim, ...]:
        """Claim up to ``limit`` ready steps for ``lease`` seconds, in the order of the plan.

        A step whose lease has expired is ready again; its old attempt is marked abandoned. Steps waiting
        for a retry become ready when their time has come. A claim need not survive a power cut that ends
        everyone who could hold it.
        """
        ...

    def extend(self, run_id: int, owner: str, *, lease: float) -> int:
        """Extend the leases of all steps the owner runs; return how many it still holds."""
        ...

    def abandon(self, run_id: int, owner: str, now: datetime) -> int:
        """Make ready again all steps that an owner, known to be dead, was running; return how many."""
        ...

    def owners(self, run_id: int) -> tuple[str, ...]:
        """Return who is running steps of the run."""
        ...

    def next_retry(self, run_id: int) -> float | None:
        """Return the seconds until the next step may be tried again, or None if none waits for that."""
        ...

    def settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        """Record what became of claimed steps, in one transaction (group commit).

        For each publication: insert the version, move the pointer of (the run's environment, dataset,
        partition), write the pointer log, mark the step and its attempt done, make ready what waited only for
        it, append the event. Releasing code is a move of its own.

        The pointer is the environment's own, not that of its base. An outcome is fenced if its step was
        claimed again, taken back, or its run has ended. A publication is stale if the pointer does not show
        what the step expects, or if other code is released for its task. One whose version does not name the
        claim's run (as text), step, environment, dataset and partition, or whose id exists already, fails
        the step with class ``bug``.
        """
        ...

    def reopen_run(self, run_id: int) -> int:
        """Make the run running and its failed steps ready again; return how many steps are still to be done.

        Steps that somebody is running are left to them. Raises NotFound.
        """
        ...

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """Record that a run came to its end.

        Whoever still runs a step of it loses the claim and cannot publish any more. Raises NotFound.
        """
        ...

    def events(self, after: int = 0, limit: int = 1000) -> tuple[EventEntry, ...]:
        """Return what happened after the event with id ``after``, oldest first."""
        ...

    def task_seconds(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the mean seconds per step of recent published versions, by task, where known."""
        ...


class Store(Catalog, Runs, Protocol):
    """Both, over one database, so that publishing and finishing a step are one transaction."""

    def close(self) -> None:
        """Release the database."""
        ...
