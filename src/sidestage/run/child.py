"""The worker process: loads one release of the code, then runs one attempt after another.

It holds no catalog: all it can do is write files aside; what becomes visible is decided by the process that
started it. Started as ``python -m sidestage.run.child PARENT_PID SCRATCH DESCRIPTOR``.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from sidestage.clock import SystemClock
from sidestage.errors import SidestageError
from sidestage.pipeline.graph import Graph
from sidestage.pipeline.loading import describe, load
from sidestage.pipeline.projectfile import read_project_file
from sidestage.pipeline.task import Task
from sidestage.run.messages import Execute, FromWorker, Load, Loaded, LoadFailed, ToWorker
from sidestage.runtime.channel import adopt
from sidestage.runtime.lifeline import end_with_parent

_LOG_LIMIT = 1_000_000
_DECODER: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


def main(arguments: list[str]) -> int:
    """Serve the parent until it closes the channel."""
    parent, scratch, descriptor = arguments[1:4]
    end_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    connection = adopt(int(descriptor))
    output = _Output(scratch)
    first = _receive(connection)
    if not isinstance(first, Load):
        return 0
    try:
        root = Path(first.root)
        file = read_project_file(root)
        graph = load(root, file)
        answer: FromWorker = Loaded(describe(graph, root, file))
    except BaseException as error:  # noqa: BLE001  # a module may raise anything, also SystemExit
        _send(connection, _load_failed(error))
        return 1
    _send(connection, answer)
    try:
        _serve(connection, graph, first, output)
    except Exception as error:  # noqa: BLE001  # no attempt raises; this is a worker that cannot work
        _send(connection, _load_failed(error))
        return 1
    return 0


def _serve(connection: Connection, graph: Graph, setup: Load, output: "_Output") -> None:
    # Heavy libraries are loaded only by workers that get work: describing code needs none of them.
    from sidestage.data.lake_writer import LakeWriter  # noqa: PLC0415
    from sidestage.run.attempt import Workbench  # noqa: PLC0415
    from sidestage.run.faults import Faults  # noqa: PLC0415
    from sidestage.run.query import fresh_connection  # noqa: PLC0415

    tasks = {f"{pipeline.name}.{task.name}": task for pipeline, task in graph.order}
    scratch = Path(tempfile.mkdtemp(prefix="worker-", dir=setup.scratch))
    try:
        with fresh_connection(1, scratch) as duck:
            bench = Workbench(
                LakeWriter(Path(setup.lake)), duck, SystemClock(), Faults.from_environment(os.environ)
            )
            while isinstance(request := _receive(connection), Execute):
                task: Task = tasks[request.task]
                answer = bench.attempt(task, request)
                output.keep(Path(request.log))
                _send(connection, answer)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Output:
    """What tasks print: caught in an unnamed file, and kept as the attempt's log if there is any."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as the process
        for descriptor in (1, 2):
            os.dup2(self._file.fileno(), descriptor)

    def keep(self, path: Path) -> None:
        """Move what was printed since the last call to ``path``, at most its last million bytes."""
        sys.stdout.flush()
        sys.stderr.flush()
        size = os.fstat(self._file.fileno()).st_size
        if size == 0:
            return
        self._file.seek(max(0, size - _LOG_LIMIT))
        with contextlib.suppress(OSError):  # a full disk must not cost the attempt, too
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._file.read())
        self._file.seek(0)
        self._file.truncate()


def _load_failed(error: BaseException) -> LoadFailed:
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, SidestageError):
        return LoadFailed(kind=type(error).__name__, message=error.message, hint=error.hint, trace=trace)
    message = f"Loading the code failed: {type(error).__name__}: {error}"
    return LoadFailed(kind="ConfigurationError", message=message, hint="", trace=trace)


def _receive(connection: Connection) -> ToWorker | None:
    try:
        received = connection.recv_bytes()
    except (EOFError, ConnectionResetError):
        return None
    return _DECODER.decode(received)


def _send(connection: Connection, message: FromWorker) -> None:
    try:
        connection.send_bytes(msgspec.json.encode(message))
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
