"""One attempt of a step, inside a worker: read, call, write aside, audit."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sidestage.checks.audit import audit
from sidestage.clock import Clock
from sidestage.data.check import Finding
from sidestage.data.lake_writer import LakeWriter
from sidestage.data.partition import Partition
from sidestage.data.version import Stored
from sidestage.errors import CheckFailed, DataError, OutputError, SidestageError
from sidestage.pipeline.task import Task
from sidestage.policy.failure import FailureClass, classify
from sidestage.run.faults import Faults
from sidestage.run.inputs import read_input
from sidestage.run.messages import Execute, Failed, Written
from sidestage.run.outputs import to_batches
from sidestage.run.query import run_query

_DETAILS_LIMIT = 64_000


class Workbench:
    """What a worker keeps between attempts: the lake, one DuckDB connection, the clock, injected faults."""

    def __init__(
        self, lake: LakeWriter, connection: duckdb.DuckDBPyConnection, clock: Clock, faults: Faults
    ) -> None:
        self._lake = lake
        self._connection = connection
        self._clock = clock
        self._faults = faults

    def attempt(self, task: Task, request: Execute) -> Written | Failed:
        """Run one attempt. Never raises: whatever the task does becomes a classified failure."""
        findings: tuple[Finding, ...] = ()
        started = self._clock.monotonic()
        stopwatch = _Stopwatch(self._clock)
        try:
            self._faults.strike(request.step, request.attempt)
            partition = task.writes.partitions.parse(request.partition)
            stored = self._write(task, request, partition, stopwatch)
            findings = self._audit(task, stored)
            _raise_if_blocked(findings)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are its failures
            return _failed(request.step, error, findings)
        return Written(
            step=request.step,
            stored=stored,
            findings=findings,
            seconds=self._clock.monotonic() - started,
            user_seconds=stopwatch.seconds,
            at=self._clock.now(),
        )

    def _write(self, task: Task, request: Execute, partition: Partition, watch: "_Stopwatch") -> Stored:
        annotations, returns = task.annotations()
        files = {entry.parameter: [Path(file) for file in entry.files] for entry in request.inputs}
        inputs = (
            []
            if task.function is None
            else [read_input(annotations[name], files[name]) for name in task.reads]
        )
        with watch:
            if task.function is None:
                output: Any = run_query(self._connection, task.query or "", partition, files)
            else:
                output = task.function(partition, *inputs)
            schema, batches = to_batches(output, returns)
        # A generator that was left half-way must still get to its finally blocks.
        with contextlib.closing(batches):
            return self._lake.write(
                task.writes.name, request.partition, request.version, schema, watch.timed(batches)
            )

    def _audit(self, task: Task, stored: Stored) -> tuple[Finding, ...]:
        if not task.writes.checks:
            return ()
        may_stay = False
        try:
            findings = audit(self._lake.path(stored), stored.digest, task.writes.checks, self._connection)  # type: ignore[arg-type]
            may_stay = not any(finding.blocking and not finding.passed for finding in findings)
        finally:
            if not may_stay:
                self._lake.remove(stored.path)
        return findings


class _Stopwatch:
    """Adds up the time spent in the task's own code, also while its output is drawn from it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = 0.0
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = self._clock.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += self._clock.monotonic() - self._started

    def timed(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        iterator = iter(batches)
        while True:
            with self:
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


def _raise_if_blocked(findings: tuple[Finding, ...]) -> None:
    broken = [finding for finding in findings if finding.blocking and not finding.passed]
    if broken:
        listed = "; ".join(f"{finding.check}: {finding.message}" for finding in broken)
        raise CheckFailed(listed, hint="Nothing was published; the previous version stays current.")


def _failed(step: str, error: BaseException, findings: tuple[Finding, ...]) -> Failed:
    trace = "".join(traceback.format_exception(error))
    message = _text(error) if isinstance(error, SidestageError) else f"{type(error).__name__}: {_text(error)}"
    return Failed(
        step=step,
        failure_class=_class_of(error),
        message=_sendable(message)[:2000],
        details=_sendable(trace)[-_DETAILS_LIMIT:],
        findings=findings,
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001  # users' exceptions may fail to say what they are
        return f"(its text cannot be shown: {type(second).__name__})"


def _sendable(text: str) -> str:
    """Return the text without halves of characters, such as undecodable file names bring, for JSON's sake."""
    return text.encode("utf-8", "backslashreplace").decode()


def _class_of(error: BaseException) -> FailureClass:
    if isinstance(error, CheckFailed):
        return "validation"
    if isinstance(error, OutputError | DataError):
        cause = error.__cause__
        own = "schema" if isinstance(error, OutputError) else classify(error)
        return classify(cause) if isinstance(cause, OSError) else own
    try:
        return classify(error)
    except Exception:  # noqa: BLE001  # it looks at attributes of users' exceptions, which may be code, too
        return "bug"
