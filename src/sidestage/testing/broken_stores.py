"""Stores that break one promise each: the simulation must find every one of them out."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from sidestage.store.outcomes import HeldStep
from sidestage.store.records import Beat, Claim, Demand, Failure, Outcome, Settled, Worker
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

    def _granted(self, demand: Demand) -> Demand:
        return msgspec.structs.replace(demand, lease=_FOR_EVER)

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Beat for ever."""
        del lease
        return super().beat(worker, lease=_FOR_EVER, now=now)


class Overfull(FaultyStore):
    """Gives out more slots of a pool than there are."""

    def _granted(self, demand: Demand) -> Demand:
        larger = [msgspec.structs.replace(pool, slots=pool.slots * 2) for pool in demand.pools]
        return msgspec.structs.replace(demand, pools=larger)


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
