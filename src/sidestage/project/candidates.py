"""Candidates: where they differ, whether the gates let them pass, promoting them, taking that back."""

from datetime import datetime

import msgspec

from sidestage.clock import Clock
from sidestage.data.dataset import RESERVED
from sidestage.data.names import check_environment_name
from sidestage.errors import NameRefused, NotFound
from sidestage.plan.plan import Plan
from sidestage.plan.world import World
from sidestage.project.worlds import PRODUCTION
from sidestage.release.difference import Difference, differences
from sidestage.release.gate import Evidence, Gate, gates, require_open
from sidestage.release.promote import last_promotion, promotion, reversal
from sidestage.store.contract import Store
from sidestage.store.records import Environment, Move, Run

_SEARCHED = 1000


class Candidates:
    """What can be done with candidates of one project. Holds no state of its own."""

    def __init__(self, store: Store, clock: Clock, by: str) -> None:
        self._store = store
        self._clock = clock
        self.by = by

    def environment(self, name: str) -> Environment:
        """Return a candidate's environment. Raises NotFound."""
        found = self._store.environment(name)
        if found is None or found.base is None:
            known = [entry.name for entry in self._store.environments() if entry.base is not None]
            raise NotFound(
                f"There is no candidate {name!r}.",
                hint=f"Known: {', '.join(known)}." if known else "Make one with: sidestage stage",
            )
        return found

    def gates(self, candidate: Environment, world: World, plan: Plan) -> tuple[Gate, ...]:
        """Return the state of every gate of a candidate; ``plan`` is what its world leaves to be staged."""
        return self._gates(candidate, plan, _found_in(world))

    def promote(self, candidate: Environment, world: World, plan: Plan, reason: str) -> Move:
        """Make a candidate's versions its base's, if every gate is open. Raises GateClosed, StaleWorld."""
        found = _found_in(world)
        require_open(self._gates(candidate, plan, found), candidate.name)
        base = self.base(candidate)
        move = promotion(
            candidate,
            base,
            found,
            {**plan.code, **plan.services},
            self._store.released(base.name),
            by=self.by,
            reason=reason,
        )
        made = self._store.move(move, self._clock.now())
        self._store.save_environment(msgspec.structs.replace(candidate, state="promoted"))
        return made

    def rollback(self, pipeline: str | None, reason: str) -> Move:
        """Take the newest promotion (of one pipeline) back. Needs no gate and no code.

        Raises NotFound and StaleWorld.
        """
        last = last_promotion(self._store, PRODUCTION, pipeline)
        datasets = {change.dataset for change in last.changes}
        move = reversal(
            last,
            self._store.pointers(PRODUCTION, datasets=datasets),
            self._store.released(PRODUCTION),
            by=self.by,
            reason=reason,
        )
        return self._store.move(move, self._clock.now())

    def _gates(self, candidate: Environment, plan: Plan, found: tuple[Difference, ...]) -> tuple[Gate, ...]:
        newest = self._store.comparisons(candidate.name, limit=1)
        return gates(
            Evidence(
                environment=candidate,
                plan=plan,
                run=self.newest_run(candidate),
                comparison=newest[0] if newest else None,
                found=found,
            )
        )

    def base(self, candidate: Environment) -> Environment:
        """Return the environment that a candidate reads through. Raises NotFound."""
        base = self._store.environment(candidate.base or PRODUCTION)
        if base is None:
            raise NotFound(f"The environment {candidate.base!r} is gone.")
        return base

    def newest_run(self, candidate: Environment) -> Run | None:
        """Return the newest run that staged the candidate, or None."""
        runs = self._store.runs(environment=candidate.name, limit=_SEARCHED)
        return next((run for run in runs if run.pipeline != RESERVED), None)


def _found_in(world: World) -> tuple[Difference, ...]:
    return differences(world.own, world.base, world.manifest.writer_of.keys())


def new_environment(name: str, code: str, now: datetime) -> Environment:
    """Return a candidate's environment that reads through production. Raises NameRefused."""
    if check_environment_name(name) == PRODUCTION:
        raise NameRefused(f"A candidate cannot be named {name!r}.", hint="Give it another name with --name.")
    return Environment(name=name, base=PRODUCTION, code=code, state="open", created_at=now)
