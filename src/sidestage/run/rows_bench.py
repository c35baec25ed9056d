"""Attempts that make rows: read inputs, call the task, write a version aside, audit it."""

import contextlib
import sys
from pathlib import Path

import duckdb

from sidestage.checks.audit import audit
from sidestage.data.check import Finding
from sidestage.data.lake_writer import LakeWriter, TooLarge
from sidestage.data.partition import Partition
from sidestage.data.version import Stored
from sidestage.errors import CheckFailed
from sidestage.pipeline.task import Task
from sidestage.policy.limits import size_text
from sidestage.run.attempt import Stopwatch
from sidestage.run.inputs import read_input
from sidestage.run.messages import Execute
from sidestage.run.outputs import to_batches
from sidestage.run.query import fresh_connection, run_query
from sidestage.runtime.rlimits import LimitExceeded


class RowsBench:
    """The lake to write to, below ``area`` in it, and one DuckDB connection, opened when it is needed."""

    def __init__(self, lake: Path, area: str, temporary: Path) -> None:
        self._lake = LakeWriter(lake)
        self._area = f"{area}/" if area else ""
        self._temporary = temporary
        self._duck: duckdb.DuckDBPyConnection | None = None

    def read(self, annotation: object, files: list[Path]) -> object:
        """Return an input; see ``read_input``."""
        return read_input(annotation, files)

    def write(
        self,
        task: Task,
        request: Execute,
        partition: Partition,
        inputs: list[object],
        returns: object,
        watch: Stopwatch,
    ) -> Stored:
        """Run the task's own code and write what it returns aside.

        Raises LimitExceeded as soon as that is more than the attempt may write.
        """
        with watch:
            if task.function is None:
                files = {entry.parameter: [Path(file) for file in entry.files] for entry in request.inputs}
                output: object = run_query(self._connection, task.query or "", partition, files)
            else:
                output = task.function(partition, *inputs)
            schema, batches = to_batches(_drawn(output, request), returns)
        # A generator that was left half-way must still get to its finally blocks.
        with contextlib.closing(batches):
            dataset = f"{self._area}{task.writes.name}"
            timed, most = watch.timed(batches), request.limits.output
            try:
                return self._lake.write(
                    dataset, request.partition, request.version, schema, timed, most_bytes=most
                )
            except TooLarge as error:
                raise LimitExceeded(
                    f"Returned more output than its limit of {size_text(most or 0)}.",
                    hint="Raise the task's limit, or return less.",
                ) from error

    def audit(self, task: Task, stored: Stored, findings: list[Finding]) -> None:
        """Add what the task's checks find; raise CheckFailed if one of them blocks. Nothing stays then."""
        if not task.writes.checks:
            return
        may_stay = False
        try:
            path = self._lake.path(stored)
            findings.extend(audit(path, stored.digest, task.writes.checks, self._connection))  # type: ignore[arg-type]
            broken = [finding for finding in findings if finding.blocking and not finding.passed]
            if broken:
                listed = "; ".join(f"{finding.check}: {finding.message}" for finding in broken)
                hint = "Nothing was published; the previous version stays current."
                raise CheckFailed(listed, hint=hint)
            may_stay = True
        finally:
            if not may_stay:
                self._lake.remove(stored.path)

    def close(self) -> None:
        """Close the connection."""
        if self._duck is not None:
            self._duck.close()

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._duck is None:
            self._duck = fresh_connection(1, self._temporary)
        return self._duck


def _drawn(output: object, request: Execute) -> object:
    """Return an output that is a stream as an iterator of its rows, everything else as it is."""
    loaded = sys.modules.get("sidestage.stream.stream")  # not imported here: few tasks have to do with it
    if loaded is None or not isinstance(output, loaded.Stream):
        return output
    from sidestage.run.streamed import AttemptLetters, rows_of  # noqa: PLC0415 - as above

    return rows_of(output, AttemptLetters(Path(request.log)))
