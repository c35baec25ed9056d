"""The worker process: loads one release of the code, then runs one attempt after another.

It holds no catalog: all it can do is write files aside; what becomes visible is decided by the process that
started it. Started as ``python -u -m sidestage.run.child PARENT_PID TEMPORARY DESCRIPTOR``.
"""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from sidestage.clock import SystemClock
from sidestage.errors import SidestageError
from sidestage.pipeline.graph import Graph
from sidestage.pipeline.loading import describe, load
from sidestage.pipeline.projectfile import read_project_file
from sidestage.pipeline.task import Task
from sidestage.run.attempt import Workbench
from sidestage.run.current import Cancelled, CurrentAttempt, set_current
from sidestage.run.faults import Faults
from sidestage.run.messages import Execute, Failed, FromWorker, Load, Loaded, LoadFailed, ToWorker
from sidestage.runtime.channel import Channel, adopt
from sidestage.runtime.lifeline import end_with_parent
from sidestage.runtime.orphans import become_subreaper, end_descendants
from sidestage.runtime.rlimits import attempt_limits
from sidestage.runtime.temporary import empty

_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_STACK,
)
_DECODER: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


def main(arguments: list[str]) -> int:
    """Serve the parent until it closes the channel."""
    parent, temporary, descriptor = arguments[1:4]
    end_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    bell = _Bell()
    become_subreaper()
    printed = os.dup(sys.stdout.fileno())  # a task may put something else in its place
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    channel = adopt(int(descriptor))
    # A copy of this process that a task forks has no business with the parent.
    os.register_at_fork(after_in_child=channel.close)
    first = _receive(channel)
    if not isinstance(first, Load):
        return 0
    try:
        isolation = _wall_in(first)
        root = Path(first.root)
        file = read_project_file(root)
        faults = Faults.from_environment(os.environ)
        graph = load(root, file)
        answer: FromWorker = Loaded(describe(graph, root, file), isolation)
    except BaseException as error:  # noqa: BLE001  # a module may raise anything, also SystemExit
        _send(channel, load_failed(error))
        return 1
    _send(channel, answer)
    bench = Workbench(Path(first.lake), first.area, Path(temporary), SystemClock(), faults)
    with contextlib.closing(bench):
        bench.get_ready(rows=any(not task.writes.is_value for _, task in graph.order))
        _serve(channel, graph, bench, _Surroundings(Path(temporary), bell, printed, first.mark.encode()))
    return 0


def _wall_in(first: Load) -> str:
    """Build the wall that is wanted, before the code is loaded; return its name."""
    if first.sandbox is None or first.sandbox.level == "none":
        return "process"
    built = first.sandbox.apply()
    return "process" if built == "none" else built


def _serve(channel: Channel, graph: Graph, bench: Workbench, surroundings: "_Surroundings") -> None:
    """Run one attempt after another, until one of them may have spoilt this process."""
    tasks = {f"{pipeline.name}.{task.name}": task for pipeline, task in graph.order}
    while isinstance(request := _receive(channel), Execute):
        task: Task = tasks[request.task]
        threads = threading.active_count()
        with surroundings.of(request):
            answer = bench.attempt(task, request, lambda: surroundings.around(request))
        is_last = surroundings.are_spoilt
        if isinstance(answer, Failed):
            # What it filled the memory with may still be held, and its threads still run.
            is_last |= answer.failure_class == "resource" or threading.active_count() > threads
        _send(channel, msgspec.structs.replace(answer, is_last=is_last) if is_last else answer)
        if is_last:
            return


class _Surroundings:
    """What is around each attempt of this process: its limits and its name; afterwards its traces go.

    ``printed`` is where this process prints, also if a task redirected it; ``mark`` says there where an
    attempt ends.
    """

    def __init__(self, temporary: Path, bell: "_Bell", printed: int, mark: bytes) -> None:
        self._temporary = temporary
        self._bell = bell
        self._printed = printed
        self._mark = mark
        self._folder = Path.cwd()
        self._rights = _rights()

    @property
    def are_spoilt(self) -> bool:
        """Whether the newest attempt was broken off, or took away where this process prints, or rights."""
        try:
            place = os.fstat(self._printed)
            prints = all(os.path.samestat(os.fstat(each), place) for each in (1, 2))
        except OSError:
            return True
        return self._bell.rang or not prints or _rights() != self._rights

    @contextmanager
    def of(self, request: Execute) -> Iterator[None]:
        """Say which attempt is being made, and afterwards clear away what it left."""
        number, key = request.attempt, request.key
        tempfile.tempdir = str(self._temporary)
        set_current(CurrentAttempt(request.run, request.step, number, key, self._temporary))
        try:
            yield
        finally:
            set_current(None)
            _end_what_it_started()
            empty(self._temporary)
            os.chdir(self._folder)
            self._bell.listen()
            with contextlib.suppress(OSError):
                os.write(self._printed, self._mark)

    @contextmanager
    def around(self, request: Execute) -> Iterator[None]:
        """Hold the attempt to its limits, and let the parent break it off."""
        with attempt_limits(request.limits), self._bell.armed():
            yield


def _rights() -> tuple[object, ...]:
    return os.geteuid(), os.getegid(), *map(resource.getrlimit, _LIMITS)


def _end_what_it_started() -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        end_descendants(os.getpid())


class _Bell:
    """Interrupts the attempt that is being made, if one is, when the parent asks for it.

    ``rang``: it interrupted the newest attempt.
    """

    def __init__(self) -> None:
        self.rang = False
        self._armed = False
        self.listen()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """While this lasts, the parent's signal raises Cancelled."""
        self.rang, self._armed = False, True
        try:
            yield
        finally:
            self._armed = False

    def listen(self) -> None:
        """Hear the parent again, and let it end this process, should a task have decided otherwise."""
        if signal.getsignal(signal.SIGUSR1) != self._rung:
            signal.signal(signal.SIGUSR1, self._rung)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _rung(self, _signal: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed, self.rang = False, True
            raise Cancelled("The attempt was told to stop.")


def load_failed(error: BaseException) -> LoadFailed:
    """Return what is to be said of code that cannot be loaded."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, SidestageError):
        return LoadFailed(kind=type(error).__name__, message=error.message, hint=error.hint, trace=trace)
    message = f"Loading the code failed: {type(error).__name__}: {error}"
    return LoadFailed(kind="ConfigurationError", message=message, hint="", trace=trace)


def _receive(channel: Channel) -> ToWorker | None:
    received = channel.receive()
    return None if received is None else _DECODER.decode(received)


def _send(channel: Channel, message: FromWorker) -> None:
    try:
        channel.send(msgspec.json.encode(message))
    except OSError:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
