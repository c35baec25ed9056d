"""Stores that break one promise each: the simulation must find every one of them out."""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from sidestage.policy.pool import Pool
from sidestage.store.outcomes import HeldStep
from sidestage.store.records import Beat, Claim, Failure, Outcome, Settled, Worker
from sidestage.testing.faulty_store import FaultyStore
from sidestage.testing.memory_tables import StepRow

_FOR_EVER = 1e9


class Unfenced(FaultyStore):
    """Lets anybody publish who ever held a claim."""

    def _held(self, step: StepRow, claim: Claim) -> HeldStep:
        true = super()._held(step, claim)
        return true._replace(run_state="running", state="running", fence=claim.fence, owner=claim.owner)


class Uncancelled(FaultyStore):
    """Lets the newest holder of a claim publish after its run was cancelled."""

    def _held(self, step: StepRow, claim: Claim) -> HeldStep:
        true = super()._held(step, claim)
        if step.of.state == "cancelled" and step.fence == claim.fence and step.version is None:
            return true._replace(run_state="running", state="running", owner=claim.owner)
        return true


class Endless(FaultyStore):
    """Grants leases that never end."""

    def claim(
        self,
        owner: str,
        limit: int,
        *,
        lease: float,
        now: datetime,
        runs: Collection[int] | None = None,
        queues: Collection[str] | None = None,
        pools: Collection[Pool] = (),
    ) -> tuple[Claim, ...]:
        """Claim for ever."""
        del lease
        return super().claim(owner, limit, lease=_FOR_EVER, now=now, runs=runs, queues=queues, pools=pools)

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Beat for ever."""
        del lease
        return super().beat(worker, lease=_FOR_EVER, now=now)


class Overfull(FaultyStore):
    """Gives out more slots of a pool than there are."""

    def claim(
        self,
        owner: str,
        limit: int,
        *,
        lease: float,
        now: datetime,
        runs: Collection[int] | None = None,
        queues: Collection[str] | None = None,
        pools: Collection[Pool] = (),
    ) -> tuple[Claim, ...]:
        """Claim as if the pools were larger."""
        larger = [msgspec.structs.replace(pool, slots=pool.slots * 2) for pool in pools]
        return super().claim(owner, limit, lease=lease, now=now, runs=runs, queues=queues, pools=larger)


class Forgetful(FaultyStore):
    """Now and then acknowledges what it did not do."""

    def _commit(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        if self._chaos.chance() < 0.05 and not any(isinstance(each, Failure) for each in outcomes):  # noqa: PLR2004
            return tuple(Settled(each.claim.step, "done") for each in outcomes)
        return super()._commit(outcomes, now)


BROKEN: dict[str, type[FaultyStore]] = {
    "fencing": Unfenced,
    "cancelling": Uncancelled,
    "leases": Endless,
    "pools": Overfull,
    "durability": Forgetful,
}
