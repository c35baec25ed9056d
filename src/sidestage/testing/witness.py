"""Who saw it all: a record of what the store granted and did, kept apart from it, and what was wrong.

The witness never looks at fences in the store: it keeps its own account of who may do what, from the calls
that were committed, and compares.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from sidestage.policy.pool import Pool
from sidestage.store.records import Beat, Claim, Outcome, Publication, Reuse, RunState, Settled
from sidestage.testing.memory_store import MemoryStore
from sidestage.testing.memory_tables import StepRow, Tables

StepKey = tuple[int, str]
_MANY = 1_000_000


class Witness:
    """Holds what each step's owner is, by the calls that were committed, and notes every violation."""

    def __init__(self, tables: Tables, pools: Sequence[Pool], now: Callable[[], float]) -> None:
        self._tables = tables
        self._pools = pools
        self._now = now
        self.violations: list[str] = []
        self._holder: dict[StepKey, Claim] = {}
        self._lease_ends: dict[StepKey, float] = {}
        self._done: dict[StepKey, str] = {}
        self._over: dict[int, RunState] = {}
        self._told: set[StepKey] = set()
        self._known_to_be_done: dict[StepKey, str] = {}

    def accuse(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(f"{self._now():.3f} s: {what}")

    def claimed(self, claims: Sequence[Claim], lease: float) -> None:
        """Take note of claims: of steps that nobody held, or whose holder's lease had run out."""
        now = self._now()
        for claim in claims:
            key = claim.run, claim.step
            before = self._holder.get(key)
            if before is not None and self._lease_ends[key] > now:
                self.accuse(f"{claim} was given while {before.owner} held the lease")
            if key in self._done:
                self.accuse(f"{claim} was given of a step that is done")
            self._holder[key] = claim
            self._lease_ends[key] = now + lease
        if claims:
            self._check_pools()

    def beaten(self, beat: Beat, lease: float) -> None:
        """Take note of leases that a heartbeat extended."""
        for run, step, _ in beat.held:
            self._lease_ends[run, step] = self._now() + lease

    def settled(self, outcomes: Sequence[Outcome], settled: Sequence[Settled]) -> None:
        """Take note of what became of outcomes, whether or not their worker ever hears of it."""
        for outcome, result in zip(outcomes, settled, strict=True):
            claim = outcome.claim
            key = claim.run, claim.step
            if result.result in ("done", "reused"):
                self._judge_publication(claim, _shown(outcome))
            if result.result == "fenced":
                if self._holder.get(key) == claim and self._lease_ends[key] > self._now():
                    self.accuse(f"{claim} was refused, though it was the newest and its lease had not ended")
            else:
                self._holder.pop(key, None)

    def acknowledged(self, outcomes: Sequence[Outcome], settled: Sequence[Settled]) -> None:
        """Take note of what a worker was told is done."""
        for outcome, result in zip(outcomes, settled, strict=True):
            if result.result in ("done", "reused"):
                self._known_to_be_done[outcome.claim.run, outcome.claim.step] = _shown(outcome)

    def heard(self, run: int, step: str, version: str) -> None:
        """Take note that a worker told of a publication."""
        if (run, step) in self._told:
            self.accuse(f"the publication of {step} of run {run} was told twice")
        if self._done.get((run, step)) != version:
            self.accuse(f"{version} of {step} was told to be published, and is not")
        self._told.add((run, step))

    def abandoned(self, owner: str, run: int | None) -> None:
        """Take note that an owner holds nothing any more."""
        for key, claim in list(self._holder.items()):
            if claim.owner == owner and run in (None, key[0]):
                del self._holder[key]

    def ended(self, run: int, state: RunState) -> None:
        """Take note that a run was ended from outside, if it was."""
        row = self._tables.run(run)
        if row is not None and row.state == state:
            self._over[run] = state
        for key in [key for key in self._holder if key[0] == run]:
            del self._holder[key]

    def reopened(self, run: int) -> None:
        """Take note that a run was taken up again."""
        self._over.pop(run, None)

    def conclude(self, store: MemoryStore, files: set[str]) -> None:
        """Compare the store at the end with what was seen."""
        for row in self._tables.runs:
            for step in row.steps:
                self._check_step(step)
            if row.state == "running":
                self.accuse(f"run {row.id} is stuck: {Counter(step.state for step in row.steps)}")
        self._check_log(store)
        for version, row_ in self._tables.versions.items():
            if row_.version.stored.path not in files:
                self.accuse(f"version {version} is published, but its file was removed")

    def _judge_publication(self, claim: Claim, version: str) -> None:
        key = claim.run, claim.step
        holder = self._holder.get(key)
        if key in self._done:
            self.accuse(f"{claim} published {version} though {self._done[key]} was published before")
        elif claim.run in self._over:
            self.accuse(f"{claim} published {version} in a run that was {self._over[claim.run]}")
        elif holder != claim:
            self.accuse(f"{claim} published {version} though the step was held by {holder}")
        self._done[key] = version

    def _check_pools(self) -> None:
        for pool in self._pools:
            held = [step for step in self._tables.holding if step.plan.pool == pool.name]
            taken = sum(min(step.plan.slots, pool.slots) for step in held)
            if taken > pool.slots:
                self.accuse(f"pool {pool.name} has {pool.slots} slots, of which {taken} are held")

    def _check_step(self, step: StepRow) -> None:
        key = step.of.id, step.plan.id
        finished = step.state in ("done", "reused")
        if finished != (key in self._done) or step.version != self._done.get(key):
            self.accuse(
                f"{key} is {step.state} with {step.version}, but what was seen is {self._done.get(key)}"
            )
        known = self._known_to_be_done.get(key)
        if known is not None and (known != step.version or known not in self._tables.versions):
            self.accuse(f"{key} was acknowledged with {known}, but that is not in the store")
        published = [attempt for attempt in step.attempts if attempt.state == "done"]
        if len(published) != int(finished):
            self.accuse(f"{key} is {step.state}, but {len(published)} of its attempts are done")

    def _check_log(self, store: MemoryStore) -> None:
        """Each version began to be shown once, and each pointer shows what its log says last."""
        times = Counter(line.version or "" for line in self._tables.log)
        made = Counter(self._tables.versions.keys())
        if times != made:
            self.accuse(f"the pointer log does not show each version once: {times - made}, {made - times}")
        for environment in self._tables.environments:
            lines = reversed(store.pointer_log(environment=environment, limit=_MANY))
            last = {(line.dataset, line.partition): line.version for line in lines}
            if last != store.pointers(environment):
                self.accuse(f"pointers of {environment} differ from their log")


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, Publication):
        return outcome.version.id
    assert isinstance(outcome, Reuse)
    return outcome.version
