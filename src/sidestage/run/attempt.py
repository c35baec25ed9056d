"""One attempt of a step, inside a worker: read, call, write aside, audit."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sidestage.clock import Clock
from sidestage.data.check import Finding
from sidestage.data.version import Stored
from sidestage.errors import CheckFailed, DataError, OutputError, SidestageError
from sidestage.pipeline.task import Task
from sidestage.policy.failure import FailureClass, classify
from sidestage.run.current import Cancelled
from sidestage.run.faults import Faults
from sidestage.run.messages import Execute, Failed, InputFiles, Written
from sidestage.run.values import from_input, to_stored

if TYPE_CHECKING:
    from sidestage.run.rows_bench import RowsBench

T = TypeVar("T")

_DETAILS_LIMIT = 64_000


class Workbench:
    """What a worker keeps between attempts.

    ``lake`` and ``temporary`` are folders, ``area`` the part of the lake that it writes below.
    """

    def __init__(self, lake: Path, area: str, temporary: Path, clock: Clock, faults: Faults) -> None:
        self._places = lake, area, temporary
        self._clock = clock
        self._faults = faults
        self._made_rows: RowsBench | None = None

    def attempt(
        self, task: Task, request: Execute, around: Callable[[], AbstractContextManager[None]]
    ) -> Written | Failed:
        """Run one attempt, with ``around`` it what limits it.

        Never raises: whatever the task does, or is kept from, becomes a classified failure.
        """
        findings: list[Finding] = []
        started = self._clock.monotonic()
        stopwatch = Stopwatch(self._clock)
        try:
            with around():
                stored = self._make(task, request, stopwatch, findings)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are its failures
            return _failed(request.step, error, tuple(findings))
        return Written(
            step=request.step,
            stored=stored,
            findings=tuple(findings),
            seconds=self._clock.monotonic() - started,
            user_seconds=stopwatch.seconds,
            at=self._clock.now(),
        )

    def get_ready(self, *, rows: bool) -> None:
        """Load what attempts will need, while the worker that started this process still plans."""
        if rows:
            _ = self._rows

    def close(self) -> None:
        """Release what was opened for attempts."""
        if self._made_rows is not None:
            self._made_rows.close()

    def _make(self, task: Task, request: Execute, watch: "Stopwatch", findings: list[Finding]) -> Stored:
        self._faults.strike(request.step, request.attempt)
        partition = task.writes.partitions.parse(request.partition)
        annotations, returns = task.annotations()
        if task.writes.is_value:
            assert task.function is not None
            inputs = self._inputs(task, annotations, request)
            with watch:
                output = task.function(partition, *inputs)
            return to_stored(output)
        bench = self._rows
        inputs = [] if task.function is None else self._inputs(task, annotations, request)
        stored = bench.write(task, request, partition, inputs, returns, watch)
        bench.audit(task, stored, findings)
        return stored

    def _inputs(self, task: Task, annotations: dict[str, object], request: Execute) -> list[object]:
        received = {entry.parameter: entry for entry in request.inputs}
        return [
            self._input(read.dataset.is_value, annotations[name], received[name])
            for name, read in task.reads.items()
        ]

    def _input(self, is_value: bool, annotation: object, received: InputFiles) -> object:
        if is_value:
            return from_input(received, annotation)
        return self._rows.read(annotation, [Path(file) for file in received.files])

    @property
    def _rows(self) -> "RowsBench":
        if self._made_rows is None:
            # Values need none of the heavy libraries that rows do, so a worker that makes values is small.
            from sidestage.run.rows_bench import RowsBench  # noqa: PLC0415

            self._made_rows = RowsBench(*self._places)
        return self._made_rows


class Stopwatch:
    """Adds up the time spent in the task's own code, also while its output is drawn from it.

    A copy of this process that the task forked ends where it leaves the task's code, for what follows is done
    once.
    """

    def __init__(self, clock: Clock) -> None:
        self._pid = os.getpid()
        self._clock = clock
        self._started = 0.0
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = self._clock.monotonic()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if os.getpid() != self._pid:
            _leave(error)
        self.seconds += self._clock.monotonic() - self._started

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, timing how long each is waited for."""
        iterator = iter(items)
        while True:
            with self:
                item = next(iterator, None)
            if item is None:
                return
            yield item


def _leave(error: BaseException | None) -> None:
    """End a forked copy as Python would end it."""
    status = 1 if error is not None else 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    os._exit(status & 0xFF)


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
    if isinstance(error, Cancelled):
        return "transient"
    if isinstance(error, OutputError | DataError):
        cause = error.__cause__
        own = "schema" if isinstance(error, OutputError) else classify(error)
        return classify(cause) if isinstance(cause, OSError | MemoryError) else own
    try:
        return classify(error)
    except Exception:  # noqa: BLE001  # it looks at attributes of users' exceptions, which may be code, too
        return "bug"
