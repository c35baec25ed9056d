"""One worker's loop: claim steps, have them run, settle what came of them, keep its leases alive.

Everything it needs is given to it (store, crews, clock, chance), and it does one round at a time, so that the
very same code runs in production and in the deterministic simulation.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from sidestage.clock import Clock
from sidestage.data.dataset import RESERVED
from sidestage.data.lake import Lake
from sidestage.data.version import Stored
from sidestage.errors import SidestageError
from sidestage.events import StepFailed, StepPublished, StepReused, StepStarted
from sidestage.run.active import ActiveRun, OpenRun, Prepared
from sidestage.run.assignment import Assignment, Audience, Chance, Done
from sidestage.run.crews import Answered, CodeLost, Crews, Found, WorkerDied
from sidestage.run.messages import Written
from sidestage.store.contract import Store
from sidestage.store.records import Claim, Demand, Failure, Outcome, Publication, Reuse, Settled

_BEATS_PER_LEASE = 5
_LISTEN_SECONDS = 0.05
"""How often a worker asks for changes where the database cannot call."""

_LOOK_SECONDS = 1.0
"""How often a worker looks for runs and expired leases, should it have missed a call."""

_CLAIM_SECONDS = 0.5
"""How often it claims by itself, however busy: nothing else finds what expired or is to be tried again."""


_AFTER_DUE_SECONDS = 0.001
_LONG_AGO = 1e9


class Dispatcher:
    """Executes steps of open runs until told otherwise. ``open_run`` takes up a run by its id."""

    def __init__(
        self,
        store: Store,
        lake: Lake,
        crews: Crews,
        clock: Clock,
        assignment: Assignment,
        open_run: OpenRun,
        audience: Audience,
        chance: Chance,
    ) -> None:
        self._store = store
        self._lake = lake
        self._crews = crews
        self._clock = clock
        self._worker = assignment.worker
        self._assignment = assignment
        self._open_run = open_run
        self._listener, self._tell = audience
        self._chance = chance
        self._runs: dict[int, ActiveRun] = {}
        self._opening: set[int] = set()
        self.refused: dict[int, SidestageError] = {}
        # By the version to be made: a step whose lease ran out may be with two workers at once.
        self._given: dict[str, Prepared] = {}
        self._user_seconds: dict[str, float] = {}
        # Both kept until they are dealt with, should the store be out of reach: nobody tells us twice.
        self._came_in: list[Found] = []
        self._unsettled: list[Outcome] = []
        self._in_doubt: set[str] = set()
        self._unknown: frozenset[tuple[int, str, int]] = frozenset()
        self._ear = store.listen()
        self._alarm: int | None = None
        self._perhaps_over = False
        self._heard = False
        self._draining = False
        self._may_be_ready = True
        self._due_at = math.inf
        self._due_known_until = -math.inf
        self._beat_at = self._looked_at = self._claimed_at = clock.monotonic() - _LONG_AGO

    @property
    def busy(self) -> bool:
        """Whether it has anything in hand."""
        return bool(self._given or self._came_in or self._unsettled)

    @property
    def draining(self) -> bool:
        """Whether it claims nothing new."""
        return self._draining

    def is_open(self, run: int) -> bool:
        """Whether a run is being executed, as far as this worker knows."""
        return run in self._runs or run in self._opening

    def require_served(self, run: int) -> None:
        """Raise what keeps this worker from executing a run, if anything does."""
        if run in self.refused:
            raise self.refused[run]

    def drain(self) -> None:
        """Finish what is in hand, and claim nothing new."""
        self._draining = True
        self._worker = msgspec.structs.replace(self._worker, draining=True)
        self._beat_at = self._clock.monotonic() - _LONG_AGO

    def tick(self, wait: float) -> bool:
        """Do one round, waiting up to ``wait`` seconds for something to happen; return whether it did."""
        self._beat()
        self._look()
        self._start_steps()
        if self._perhaps_over and not (self._given or self._unsettled):
            self._look(at_once=True)
        reused = bool(self._unsettled)
        found = self._crews.collect(0.0 if reused or self._came_in else self._patience(wait))
        self._came_in += found
        self._take_in()
        self._settle()
        return bool(found) or reused

    def close(self) -> None:
        """Stop what is in hand, give it back, and say goodbye."""
        self._ear.close()
        self._crews.stop(list(self._given))
        self._given.clear()
        self._store.abandon(self._worker.name, self._clock.now())

    def _patience(self, wait: float) -> float:
        """Return how long there is nothing to do but to wait for answers."""
        now = self._clock.monotonic()
        wants_more = not self._draining and self._crews.free > 0
        if wants_more and self._may_be_ready and self._runs:
            return 0.0
        if self._assignment.only is not None and not self.is_open(self._assignment.only):
            return 0.0
        until_beat = self._beat_at + self._assignment.lease / _BEATS_PER_LEASE - now
        patience = min(wait, until_beat, self._looked_at + _LOOK_SECONDS - now)
        if self._alarm is None or self._heard or self._opening:
            patience = min(patience, _LISTEN_SECONDS)
        if wants_more:
            patience = min(patience, self._until_due(now))
        return max(0.0, patience)

    def _until_due(self, now: float) -> float:
        """Return the seconds until a step becomes ready by itself."""
        if now >= self._due_known_until:
            due = self._store.next_due()
            self._due_at = math.inf if due is None else now + due + _AFTER_DUE_SECONDS
            self._due_known_until = now + _LISTEN_SECONDS
        if now >= self._due_at:
            self._due_at = math.inf
            self._may_be_ready = True
            return 0.0
        return self._due_at - now

    def _beat(self) -> None:
        """Keep the leases, before anything else: what nobody took over in the meantime is still ours."""
        now = self._clock.monotonic()
        if now - self._beat_at < self._assignment.lease / _BEATS_PER_LEASE:
            return
        beat = self._store.beat(self._worker, lease=self._assignment.lease, now=self._clock.now())
        self._beat_at = now
        if beat.draining and not self._draining:
            self.drain()
        lost = [
            version
            for version, prepared in self._given.items()
            if (prepared.claim.run, prepared.claim.step, prepared.claim.fence) not in beat.held
        ]
        self._drop(lost)
        self._put_back(beat.held)

    def _put_back(self, held: frozenset[tuple[int, str, int]]) -> None:
        """Give back what the store says is ours and we know nothing of: the claim was lost on its way."""
        claims = (*(each.claim for each in self._given.values()), *(each.claim for each in self._unsettled))
        unknown = held - {(claim.run, claim.step, claim.fence) for claim in claims}
        for run, step, fence in sorted(unknown & self._unknown):
            claim = Claim(run, step, self._worker.name, 0, fence)
            lost = Failure(claim, "transient", "The claim did not reach its worker.", retry_in=0.0)
            self._store.settle([lost], self._clock.now())
            self._may_be_ready = True
        self._unknown = unknown

    def _look(self, *, at_once: bool = False) -> None:
        """Take up runs that were begun, and let go of those that have ended."""
        now = self._clock.monotonic()
        self._heard = self._ear.heard() or self._heard
        if self._ear.fileno() != self._alarm:
            self._alarm = self._ear.fileno()
            self._crews.wake_by(self._alarm)
        pause = _LISTEN_SECONDS if self._heard else _LOOK_SECONDS
        if now - self._looked_at < pause and not self._opening and not at_once:
            return
        self._heard = self._perhaps_over = False
        self._may_be_ready = True
        self._looked_at = now
        there = {
            run.id
            for run in self._store.open_runs()
            if self._assignment.only in (None, run.id) and run.pipeline != RESERVED
        }
        for run in [*self._runs.keys() - there, *self._opening - there]:
            self._let_go(run)
        for run in sorted(there - self._runs.keys() - self.refused.keys()):
            self._take_up(run)

    def _take_up(self, run: int) -> None:
        try:
            opened = self._open_run(run)
        except SidestageError as error:
            self._opening.discard(run)
            self.refused[run] = error
            return
        if opened is None:
            self._opening.add(run)
        else:
            self._opening.discard(run)
            self._runs[run] = opened

    def _let_go(self, run: int) -> None:
        self._opening.discard(run)
        self._runs.pop(run, None)
        self._drop([version for version, each in self._given.items() if each.claim.run == run])

    def _drop(self, versions: Collection[str]) -> None:
        """Stop attempts whose claims are lost."""
        if versions:
            self._crews.stop(versions)
            for version in versions:
                del self._given[version]

    def _start_steps(self) -> None:
        """Claim what may be ready, and have it run."""
        demand = self._demand()
        if demand is not None and self._may_be_ready:
            now = self._clock.now()
            self._claimed_at = self._clock.monotonic()
            self._begin(demand, self._store.claim(demand, now), now)

    def _demand(self) -> Demand | None:
        """Return what could be begun now, if anything."""
        free = self._crews.free
        if self._draining or free <= 0 or not self._runs:
            return None
        mine = self._assignment
        return Demand(
            self._worker.name,
            free,
            mine.lease,
            runs=tuple(self._runs),
            queues=mine.queues,
            pools=mine.pools,
        )

    def _begin(self, demand: Demand, claims: Sequence[Claim], now: datetime) -> None:
        """Have claimed steps run, or note that they need no running after all."""
        self._may_be_ready = len(claims) == demand.limit
        by_run: defaultdict[int, list[Claim]] = defaultdict(list)
        for claim in claims:
            by_run[claim.run].append(claim)
        for run, mine in by_run.items():
            active = self._runs[run]
            active.recall(self._store, (claim.step for claim in mine))
            for claim in mine:
                prepared = active.prepare(claim, self._chance.version_id())
                if isinstance(prepared, Reuse):
                    self._unsettled.append(prepared)
                else:
                    self._given[prepared.request.version] = prepared
                    self._listener(StepStarted(now, str(run), claim.step, claim.attempt))
                    self._crews.submit(prepared.request, prepared.home)

    def _refuse(self, lost: CodeLost) -> None:
        """Give back the steps of runs whose code this worker cannot run, and leave them to others."""
        for run in {request.run for request in lost.requests}:
            self.refused[run] = lost.error
            self._let_go(run)
            self._store.abandon(self._worker.name, self._clock.now(), run=run)

    def _take_in(self) -> None:
        """Note what is to be settled of what came in."""
        while self._came_in:
            each = self._came_in[0]
            if isinstance(each, CodeLost):
                self._refuse(each)
            else:
                self._take_answer(each)
            del self._came_in[0]

    def _take_answer(self, found: Answered | WorkerDied) -> None:
        request = found.running if isinstance(found, WorkerDied) else found.request
        prepared = self._given.pop(request.version, None)
        if prepared is None:  # its claim was lost meanwhile
            self._throw_away(found)
            return
        if isinstance(found, Answered) and isinstance(found.answer, Written):
            self._user_seconds[request.version] = found.answer.user_seconds
        active = self._runs[prepared.claim.run]
        self._unsettled.append(active.outcome(prepared, found, self._chance.jitter()))

    def _throw_away(self, found: Answered | WorkerDied) -> None:
        if not (isinstance(found, Answered) and isinstance(found.answer, Written)):
            return
        version = found.request.version
        # An answer that came twice must not cost what the first one published.
        pending = any(
            isinstance(each, Publication) and each.version.id == version for each in self._unsettled
        )
        if not pending and not self._store.versions([version]):
            self._discard(found.answer.stored)

    def _settle(self) -> None:
        """Settle what came in, and begin what can be done next: the same commit does for both."""
        outcomes = self._unsettled
        if not outcomes:
            return
        now = self._clock.now()
        is_time_to_claim = self._clock.monotonic() - self._claimed_at >= _CLAIM_SECONDS
        demand = None if is_time_to_claim else self._demand()
        claims: tuple[Claim, ...] | None = None
        try:
            if demand is None:
                settled = self._store.settle(outcomes, now)
            else:
                settled, claims = self._store.exchange(outcomes, demand, now)
            results = [self._without_doubt(*each) for each in zip(outcomes, settled, strict=True)]
        except SidestageError:
            # It may have been settled all the same: the answer is what did not come.
            self._in_doubt.update(each.version.id for each in outcomes if isinstance(each, Publication))
            raise
        self._unsettled = []
        for outcome, result in zip(outcomes, results, strict=True):
            self._became(outcome, result, now)
        self._in_doubt.clear()
        if demand is not None and claims is not None:
            self._begin(demand, claims, now)
        # Only a claim of its own looks for what is to be tried again.
        if claims is None or any(isinstance(each, Failure) for each in outcomes):
            self._may_be_ready = True
        ended = {outcome.claim.run for outcome in outcomes} - {
            prepared.claim.run for prepared in self._given.values()
        }
        self._perhaps_over = self._perhaps_over or bool(ended)

    def _without_doubt(self, outcome: Outcome, result: Settled) -> Settled:
        """Return what became of an outcome, also if it was settled before without our hearing of it."""
        if not isinstance(outcome, Publication) or outcome.version.id not in self._in_doubt:
            return result
        published = bool(self._store.versions([outcome.version.id]))
        return Settled(result.step, "done") if published else result

    def _became(self, outcome: Outcome, result: Settled, now: datetime) -> None:
        """Note what became of a step, and tell everybody."""
        active, run, seconds = self._runs.get(outcome.claim.run), str(outcome.claim.run), 0.0
        match outcome, result.result:
            case Publication(version=version), "done":
                if active is not None:
                    active.published(version)
                seconds = self._user_seconds.pop(version.id, 0.0)
                rows = version.stored.digest.rows
                self._listener(StepPublished(now, run, result.step, version.id, rows, version.seconds))
            case Reuse(version=reused), "reused":
                if active is not None:
                    active.reused(result.step, reused)
                self._listener(StepReused(now, run, result.step, reused))
            case Failure() as failed, kind:
                self._listener(_failed(now, outcome, failed.failure_class, failed.message, kind))
            case Publication(version=version), kind:
                self._user_seconds.pop(version.id, None)
                self._discard(version.stored)
                self._listener(_failed(now, outcome, kind, _REFUSALS.get(kind, ""), kind))
        self._tell(Done(outcome, result, seconds))

    def _discard(self, stored: Stored) -> None:
        """Remove a file that will never be published."""
        if stored.value is None:
            self._lake.remove(stored.path)


_REFUSALS = {
    "fenced": "Another worker took the step over; what this one wrote was thrown away.",
    "stale": "The pointer was moved since the plan was made; what was written was thrown away. Plan again.",
}


def _failed(now: datetime, outcome: Outcome, failure_class: str, message: str, kind: str) -> StepFailed:
    claim = outcome.claim
    return StepFailed(
        now,
        str(claim.run),
        claim.step,
        claim.attempt,
        failure_class,
        message,
        final=kind in ("failed", "stale"),
    )
