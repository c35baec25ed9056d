"""The worker process: loads one release of the code, then runs one attempt after another.

It holds no catalog: all it can do is write files aside; what becomes visible is decided by the process that
started it. Started as ``python -m sidestage.run.child PARENT_PID TEMPORARY DESCRIPTOR``.
"""

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
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
from sidestage.run.messages import Execute, FromWorker, Load, Loaded, LoadFailed, ToWorker
from sidestage.runtime.channel import Channel, adopt
from sidestage.runtime.lifeline import end_with_parent
from sidestage.runtime.orphans import become_subreaper, end_descendants
from sidestage.runtime.rlimits import attempt_limits

_DECODER: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


def main(arguments: list[str]) -> int:
    """Serve the parent until it closes the channel."""
    parent, temporary, descriptor = arguments[1:4]
    end_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    bell = _Bell()
    become_subreaper()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # so that nothing is lost, however the process ends
            stream.reconfigure(line_buffering=True)
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    channel = adopt(int(descriptor))
    first = _receive(channel)
    if not isinstance(first, Load):
        return 0
    try:
        isolation = _wall_in(first)
        root = Path(first.root)
        file = read_project_file(root)
        graph = load(root, file)
        answer: FromWorker = Loaded(describe(graph, root, file), isolation)
    except BaseException as error:  # noqa: BLE001  # a module may raise anything, also SystemExit
        _send(channel, load_failed(error))
        return 1
    _send(channel, answer)
    try:
        _serve(channel, graph, first, bell)
    except Exception as error:  # noqa: BLE001  # no attempt raises; this is a worker that cannot work
        _send(channel, load_failed(error))
        return 1
    return 0


def _wall_in(first: Load) -> str:
    """Build the wall that is wanted, before the code is loaded; return its name."""
    if first.sandbox is None or first.sandbox.level == "none":
        return "process"
    built = first.sandbox.apply()
    return "process" if built == "none" else built


def _serve(channel: Channel, graph: Graph, setup: Load, bell: "_Bell") -> None:
    tasks = {f"{pipeline.name}.{task.name}": task for pipeline, task in graph.order}
    temporary = Path(tempfile.gettempdir())
    faults = Faults.from_environment(os.environ)
    bench = Workbench(Path(setup.lake), setup.area, temporary, SystemClock(), faults)
    with contextlib.closing(bench):
        while isinstance(request := _receive(channel), Execute):
            task: Task = tasks[request.task]
            with _surroundings(request, temporary):
                answer = bench.attempt(task, request, bell.armed)
            _send(channel, answer)


@contextmanager
def _surroundings(request: Execute, temporary: Path) -> Iterator[None]:
    """Say which attempt is being made, and afterwards clear away what it left."""
    set_current(CurrentAttempt(request.run, request.step, request.attempt, request.key, temporary))
    try:
        with attempt_limits(request.limits):
            yield
    finally:
        set_current(None)
        _end_what_it_started()
        _empty(temporary)


def _end_what_it_started() -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        end_descendants(os.getpid())


def _empty(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


class _Bell:
    """Interrupts the attempt that is being made, if one is, when the parent asks for it."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGUSR1, self._rung)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """While this lasts, the parent's signal raises Cancelled."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def _rung(self, _signal: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
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
