"""Record what became of claimed steps, in memory, by the same judgement as every other store."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from sidestage.store.outcomes import Group, HeldStep, KnownVersion, Rows, judge
from sidestage.store.records import Claim, Demand, Exchanged, Outcome, Publication, Reuse, Settled
from sidestage.testing.memory_claims import take
from sidestage.testing.memory_runs import end_if_over
from sidestage.testing.memory_tables import (
    LogRow,
    MemoryPart,
    RunRow,
    StepRow,
    Tables,
    VersionRow,
    require_zone,
)


class MemorySettle(MemoryPart):
    """Publishes, and records failures."""

    def settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        """Record what became of claimed steps, in one transaction (group commit).

        A publication whose version does not name the claim's run (as text), step, environment, dataset and
        partition, or whose version id exists already, fails its step with class ``bug``.
        """
        require_zone(now)
        with self._tables.turn:
            return self._settle(outcomes, now)

    def exchange(self, outcomes: Sequence[Outcome], demand: Demand, now: datetime) -> Exchanged:
        """Settle, and claim what is ready then, all in one transaction."""
        require_zone(now)
        with self._tables.turn:
            return Exchanged(self._settle(outcomes, now), take(self._tables, demand, now))

    def _settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        group = self._look(outcomes, now)
        settled = tuple([judge(group, outcome) for outcome in outcomes])
        _write(self._tables, group.rows, now)
        return settled

    def _look(self, outcomes: Sequence[Outcome], now: datetime) -> Group:
        group = Group(now)
        for outcome in outcomes:
            claim = outcome.claim
            run = self._tables.run(claim.run)
            step = None if run is None else run.by_id.get(claim.step)
            if step is not None:
                group.hold(self._held(step, claim))
            match outcome:
                case Publication(version=made):
                    require_zone(made.created_at)
                    self._know(group, made.id)
                case Reuse(version=reused):
                    self._know(group, reused)
        return group

    def _held(self, step: StepRow, _claim: Claim) -> HeldStep:
        """Return a step as the judge is to see it."""
        run, plan = step.of, step.plan
        environment = run.plan.environment
        return HeldStep(
            run.id,
            plan.id,
            step.position,
            plan.task,
            plan.dataset,
            plan.partition,
            plan.expects,
            step.state,
            step.fence,
            step.attempt,
            step.owner,
            environment,
            run.state,
            self._tables.pointers.get(environment, {}).get((plan.dataset, plan.partition)),
            self._tables.released.get(environment, {}).get(plan.task),
        )

    def _know(self, group: Group, version: str) -> None:
        row = self._tables.versions.get(version)
        if row is not None:
            made = row.version
            gone = row.gone_at is not None
            group.known[version] = KnownVersion(version, made.dataset, made.partition, gone)


def _write(tables: Tables, rows: Rows, now: datetime) -> None:
    for version, run, task in rows.versions:
        tables.versions[version.id] = VersionRow(version, run, task)
    for line in rows.log:
        address = line["environment"], line["dataset"], line["partition"]
        tables.point(
            LogRow(line["at"], address, line["previous"], line["version"], line["kind"], None, line["run"])
        )
    ended = {row["of_run"]: _end_step(tables, row) for row in rows.ended_steps}
    for row in rows.retried_steps:
        step = _step(tables, row)
        step.failure_class, step.message = row["new_class"], row["new_message"]
        tables.make_waiting(step, tables.clock() + row["retry_in"])
    for row in rows.attempts:
        _end_attempt(tables, row)
    for row in rows.done:
        _free_dependents(tables, tables.runs[row["of_run"] - 1].steps[row["done_position"]], now)
    tables.events.extend(rows.events)
    for run in sorted(ended):
        end_if_over(tables, ended[run], now)
    tables.changes += bool(rows.attempts)


def _step(tables: Tables, row: dict[str, Any]) -> StepRow:
    run: int = row["of_run"]
    position: int = row["at_position"]
    return tables.runs[run - 1].steps[position]


def _end_step(tables: Tables, row: dict[str, Any]) -> RunRow:
    """End the step that a row is about; return its run."""
    step = _step(tables, row)
    tables.make_ended(step, row["new_state"])
    step.version, step.seconds = row["new_version"], row["new_seconds"]
    step.failure_class, step.message = row["new_class"], row["new_message"]
    return step.of


def _end_attempt(tables: Tables, row: dict[str, Any]) -> None:
    attempts = _step(tables, row).attempts
    attempts[row["at_number"] - 1] = msgspec.structs.replace(
        attempts[row["at_number"] - 1],
        state=row["new_state"],
        ended_at=row["now"],
        failure_class=row["new_class"],
        message=row["new_message"],
        details=row["new_details"],
        findings=row["new_findings"],
        isolation=row["new_isolation"] or "",
    )


def _free_dependents(tables: Tables, done: StepRow, now: datetime) -> None:
    for step in done.dependents:
        step.waiting_for -= 1
        step.ready_at = now
        if step.waiting_for == 0 and step.state == "waiting":
            tables.make_ready(step, now)
