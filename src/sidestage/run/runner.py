"""Executes a run: claims its steps, has workers run them, settles what they answer, until nothing is left."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.data.lake import Lake
from sidestage.data.version import InputVersion, Version, new_version_id
from sidestage.events import (
    Event,
    Listener,
    RunEnded,
    RunStarted,
    StepFailed,
    StepPublished,
    StepReused,
    StepStarted,
)
from sidestage.pipeline.manifest import Manifest
from sidestage.plan.inputs import same_inputs
from sidestage.plan.plan import Plan, PlannedStep, StepInput
from sidestage.run import outcome
from sidestage.run.messages import Execute, Failed, InputFiles
from sidestage.run.workers import Answered, WorkerDied, Workers
from sidestage.runtime.logs import attempt_log
from sidestage.store.contract import Store
from sidestage.store.records import Claim, Failure, Outcome, Publication, Reuse, RunState

LEASE_SECONDS = 30.0
_WAIT_SECONDS = LEASE_SECONDS / 6


class RunSummary(msgspec.Struct, frozen=True):
    """How a run ended. ``user_seconds`` is the time spent in tasks' own code, over all workers."""

    run: int
    state: RunState
    published: int
    reused: int
    failed: int
    skipped: int
    rows: int
    bytes: int
    seconds: float
    user_seconds: float


class _Tally:
    """Running totals of a run."""

    def __init__(self) -> None:
        self.published = 0
        self.reused = 0
        self.rows = 0
        self.bytes = 0
        self.user_seconds = 0.0


class Runner:
    """Executes one run of a plan until every step is settled, and publishes for its workers.

    ``owner`` names this process in the store. Workers only write files aside; this object alone talks to the
    catalog, so that many answers share one durable commit.
    """

    def __init__(
        self,
        store: Store,
        lake: Lake,
        workers: Workers,
        clock: Clock,
        listener: Listener,
        *,
        owner: str,
        logs: Path,
    ) -> None:
        self._store = store
        self._lake = lake
        self._workers = workers
        self._clock = clock
        self._listener = listener
        self._owner = owner
        self._logs = logs
        # By the version to be written: a step whose lease ran out may be with two workers at once.
        self._given: dict[str, tuple[Claim, tuple[InputVersion, ...]]] = {}
        self._versions: dict[str, Version] = {}
        self._made: dict[tuple[str, str], str] = {}
        self._tally = _Tally()
        self._extended = 0.0

    def execute(self, run_id: int, plan: Plan, manifest: Manifest) -> RunSummary:
        """Run what is left of a run and return how it ended.

        An interruption (KeyboardInterrupt) kills the workers, gives their steps back and ends the run as
        cancelled before it is raised again.
        """
        started = self._extended = self._clock.monotonic()
        tasks = dict(Counter(step.task for step in plan.steps))
        now = self._clock.now()
        self._hear(RunStarted(now, str(run_id), plan.environment, len(plan.steps), tasks))
        self._recall(run_id, plan)
        try:
            self._loop(run_id, plan, manifest)
        except BaseException:
            self._workers.kill()
            self._store.abandon(run_id, self._owner, self._clock.now())
            self._store.end_run(run_id, "cancelled", self._clock.now())
            raise
        return self._finish(run_id, started)

    def _loop(self, run_id: int, plan: Plan, manifest: Manifest) -> None:
        while True:
            reused = self._start_steps(run_id, plan)
            if not self._workers.busy and not reused:
                pause = self._store.next_retry(run_id)
                if pause is None:
                    return
                self._workers.collect(min(max(pause, 0.01), _WAIT_SECONDS))
                continue
            answers = [] if reused else self._workers.collect(_WAIT_SECONDS)
            outcomes: list[Outcome] = [*reused]
            for answer in answers:
                outcomes.extend(self._outcomes(answer, plan, manifest))
            self._settle(outcomes, plan)
            self._keep_leases(run_id)

    def _recall(self, run_id: int, plan: Plan) -> None:
        """Learn which versions the finished steps of a resumed run made."""
        for step in self._store.steps(run_id):
            if step.version is not None:
                self._made[step.dataset, step.partition] = step.version
        pinned = {entry.version for step in plan.steps for entry in step.inputs if entry.version is not None}
        reusable = {step.reuse for step in plan.steps if step.reuse is not None}
        self._know({*pinned, *reusable, *self._made.values()})

    def _know(self, ids: Iterable[str]) -> None:
        unknown = {version for version in ids if version not in self._versions}
        if unknown:
            self._versions.update(self._store.versions(unknown))

    def _start_steps(self, run_id: int, plan: Plan) -> list[Reuse]:
        """Claim what is ready and hand it to the workers; return what needs no running after all."""
        reused: list[Reuse] = []
        free = self._workers.free
        if free <= 0:
            return reused
        now = self._clock.now()
        for claim in self._store.claim(run_id, self._owner, free, lease=LEASE_SECONDS, now=now):
            step = plan.step_by_id[claim.step]
            inputs = self._inputs(step)
            reusable = self._reusable(step, inputs)
            if reusable is not None:
                reused.append(reusable(claim))
                continue
            request = self._request(claim, step, inputs)
            self._given[request.version] = claim, _lineage(inputs)
            self._hear(StepStarted(now, str(run_id), claim.step, claim.attempt))
            self._workers.submit(request)
        return reused

    def _inputs(self, step: PlannedStep) -> tuple[StepInput, ...]:
        return tuple(
            entry
            if entry.version is not None
            else msgspec.structs.replace(entry, version=self._made[entry.dataset, entry.partition])
            for entry in step.inputs
        )

    def _reusable(self, step: PlannedStep, inputs: tuple[StepInput, ...]) -> Callable[[Claim], Reuse] | None:
        if step.reuse is None:
            return None
        known = self._versions.get(step.reuse)
        if known is None:
            return None
        self._know(entry.version for entry in known.inputs)
        if not same_inputs(known, inputs, self._versions):
            return None
        version = step.reuse
        point = step.expects is not None and step.expects != version
        return lambda claim: Reuse(claim=claim, version=version, point=point)

    def _request(self, claim: Claim, step: PlannedStep, inputs: tuple[StepInput, ...]) -> Execute:
        files: dict[str, list[str]] = {}
        for entry in inputs:
            assert entry.version is not None
            path = self._lake.path(self._versions[entry.version].stored)
            files.setdefault(entry.parameter, []).append(str(path))
        milliseconds = int(self._clock.now().timestamp() * 1000)
        log = attempt_log(self._logs, claim.run, claim.step, claim.attempt)
        return Execute(
            step=claim.step,
            task=step.task,
            partition=step.partition,
            version=new_version_id(milliseconds, os.urandom(6)),
            attempt=claim.attempt,
            inputs=tuple(InputFiles(name, tuple(paths)) for name, paths in files.items()),
            log=str(log),
        )

    def _outcomes(self, found: Answered | WorkerDied, plan: Plan, manifest: Manifest) -> Iterable[Outcome]:
        jitter = random.random()  # noqa: S311  # spreads retries, protects nothing
        if isinstance(found, WorkerDied):
            for waiting in found.waiting:
                self._workers.submit(waiting)
            if found.running is not None:
                claim, _ = self._given.pop(found.running.version)
                retry = manifest.task_by_id[found.running.task].retry
                yield outcome.lost(claim, found.how, retry, jitter)
            return
        request, answer = found.request, found.answer
        claim, lineage = self._given.pop(request.version)
        step = plan.step_by_id[request.step]
        if isinstance(answer, Failed):
            yield outcome.failure(claim, answer, manifest.task_by_id[step.task].retry, jitter)
            return
        self._tally.user_seconds += answer.user_seconds
        yield outcome.publication(
            claim, answer, request.version, step, lineage, plan.code[step.task], plan.environment
        )

    def _settle(self, outcomes: list[Outcome], plan: Plan) -> None:
        if not outcomes:
            return
        now = self._clock.now()
        settled = self._store.settle(outcomes, now)
        for result, done in zip(settled, outcomes, strict=True):
            step = plan.step_by_id[result.step]
            run = str(done.claim.run)
            match done, result.result:
                case Publication(version=version), "done":
                    self._remember(step, version)
                    rows = version.stored.digest.rows
                    self._hear(StepPublished(now, run, step.id, version.id, rows, version.seconds))
                case Reuse(version=reused), "reused":
                    self._made[step.dataset, step.partition] = reused
                    self._tally.reused += 1
                    self._hear(StepReused(now, run, step.id, reused))
                case Failure() as failed, kind:
                    self._hear(
                        StepFailed(
                            now,
                            run,
                            step.id,
                            failed.claim.attempt,
                            failed.failure_class,
                            failed.message,
                            kind == "failed",
                        )
                    )
                case Publication(version=version), kind:
                    self._lake.remove(version.stored.path)
                    attempt = done.claim.attempt
                    self._hear(
                        StepFailed(now, run, step.id, attempt, kind, _REFUSALS[kind], final=kind == "stale")
                    )

    def _remember(self, step: PlannedStep, version: Version) -> None:
        self._versions[version.id] = version
        self._made[step.dataset, step.partition] = version.id
        self._tally.published += 1
        self._tally.rows += version.stored.digest.rows
        self._tally.bytes += version.stored.bytes

    def _keep_leases(self, run_id: int) -> None:
        now = self._clock.monotonic()
        if self._given and now - self._extended > LEASE_SECONDS / 3:
            self._store.extend(run_id, self._owner, lease=LEASE_SECONDS)
            self._extended = now

    def _finish(self, run_id: int, started: float) -> RunSummary:
        steps = self._store.steps(run_id)
        failed = sum(step.state == "failed" for step in steps)
        skipped = sum(step.state in ("waiting", "ready", "running") for step in steps)
        state: RunState = "failed" if failed or skipped else "done"
        now = self._clock.now()
        self._store.end_run(run_id, state, now)
        tally = self._tally
        self._hear(RunEnded(now, str(run_id), state, tally.published, failed, skipped))
        return RunSummary(
            run=run_id,
            state=state,
            published=tally.published,
            reused=tally.reused,
            failed=failed,
            skipped=skipped,
            rows=tally.rows,
            bytes=tally.bytes,
            seconds=self._clock.monotonic() - started,
            user_seconds=tally.user_seconds,
        )

    def _hear(self, event: Event) -> None:
        self._listener(event)


_REFUSALS = {
    "fenced": "Another worker took the step over; what this one wrote was thrown away.",
    "stale": "The pointer was moved since the plan was made; what was written was thrown away. Plan again.",
}


def _lineage(inputs: tuple[StepInput, ...]) -> tuple[InputVersion, ...]:
    return tuple(
        InputVersion(entry.dataset, entry.partition, entry.version)
        for entry in inputs
        if entry.version is not None
    )
