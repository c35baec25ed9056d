"""Processes for Python code that keeps a processor busy.

Each worker of a stage is a thread that takes chunks, and a process that does the work. A chunk goes there,
and a result or an error for each item comes back. The process notes in shared memory which item it is at, so
that the item that it dies or hangs of is known.
"""

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import process_time_ns
from typing import Any, NamedTuple

from sidestage.errors import DefinitionError
from sidestage.policy.failure import classify
from sidestage.stream.failing import Halt, Stopped, WorkerDied
from sidestage.stream.workers.parcels import Parcel, parcel
from sidestage.stream.workers.wire import Wire

if sys.platform != "win32":
    from multiprocessing import forkserver

_LOOK_SECONDS = 0.1
_END_SECONDS = 30.0
"""How long a process may take to end after its pipe."""

_LONGEST_SOCKET = 103
"""Bytes that the path of a socket may have everywhere: 107 on Linux, 103 on macOS."""

NOWHERE = (1 << 64) - 1


class Failed(NamedTuple):
    """What an item's function raised, in place of a result."""

    error: Exception


class Unreadable(NamedTuple):
    """What a process says that could not read what it was sent."""

    error: Exception


def require_picklable(function: Callable[..., Any], stage: str) -> None:
    """Raise DefinitionError if a function cannot be sent to a process."""
    try:
        pickle.dumps(function, 5)
    except Exception as error:
        raise DefinitionError(
            f"The function of the stage {stage!r} cannot be sent to a process: {error}",
            hint="Define it at the top level of a module; lambdas and functions inside functions cannot go.",
        ) from error


class Death(NamedTuple):
    """How a process ended, and at which of the items it was given; ``NOWHERE`` if it had not come to one."""

    at: int
    error: Exception
    is_late: bool


class Child:
    """A process, the wire to it, and the place where it notes how far it is."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = _context()
        self._file = tempfile.NamedTemporaryFile(prefix="sidestage-stream-")  # noqa: SIM115 - closed by end
        self._file.truncate(mmap.PAGESIZE)
        self._place = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        ours, theirs = context.Pipe()
        self._wire = Wire(ours)
        self._process = context.Process(
            target=_work, args=(function, theirs, self._file.name), name="sidestage stage", daemon=True
        )
        self._process.start()
        theirs.close()
        self._used = 0

    def used(self) -> float:
        """Return the seconds of processor time that its items took since this was last asked."""
        before, self._used = self._used, int.from_bytes(self._place[8:16], "little")
        return (self._used - before) / 1e9

    def ask(
        self, sent: Parcel, timeout: float | None, halt: Halt, ended_by: Callable[[], Exception | None]
    ) -> "list[Any] | Unreadable | Death":
        """Return the answer, or how it ended instead. Raises Stopped."""
        _note(self._place, NOWHERE)
        try:
            self._wire.send(sent)
            at, since = NOWHERE, time.monotonic()
            while not self._wire.poll(_LOOK_SECONDS if timeout is None else min(timeout / 4, _LOOK_SECONDS)):
                if halt.is_set:
                    raise Stopped
                ended = ended_by()
                if ended is not None:
                    return Death(_noted(self._place), ended, is_late=True)
                now_at, now = _noted(self._place), time.monotonic()
                if now_at != at:
                    at, since = now_at, now
                elif timeout is not None and at != NOWHERE and now - since > timeout:
                    late = TimeoutError(f"it took longer than {timeout:g} s; its process was killed")
                    return Death(at, late, is_late=True)
            answer: list[Any] | Unreadable = self._wire.receive()
        except (EOFError, OSError):
            how = self._how_it_ended(halt)
            at = _noted(self._place)
            return Death(0 if at == NOWHERE else at, WorkerDied(f"its process {how}"), is_late=False)
        return answer

    def _how_it_ended(self, halt: Halt) -> str:
        """Say it in words, once it is known: on a busy host that comes later than the end of its pipe."""
        began = time.monotonic()
        while self._process.exitcode is None and time.monotonic() - began < _END_SECONDS:
            if halt.is_set:
                raise Stopped
            self._process.join(_LOOK_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "closed its pipe, and was killed"
        return f"ended with signal {-code}" if code < 0 else f"ended with exit status {code}"

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._wire.close()
        self._place.close()
        self._file.close()


def _context() -> Any:
    """Return how processes are started: by a server that forks them fast, where there can be one.

    It listens on a socket in the folder for temporary files, whose path may be too long for that, as it is
    in the workers of a project. It has loaded what all processes need, or each would import Sidestage by
    itself; but whoever has chosen what it loads, which cannot be asked for in public, is not overruled.
    """
    socket = len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678")
    if sys.platform == "win32" or socket > _LONGEST_SOCKET:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if getattr(forkserver._forkserver, "_preload_modules", None) == ["__main__"]:  # noqa: SLF001
        context.set_forkserver_preload(["__main__", __name__])
    return context


def _note(place: mmap.mmap, at: int) -> None:
    place[:8] = at.to_bytes(8, "little")


def _noted(place: mmap.mmap) -> int:
    return int.from_bytes(place[:8], "little")


def _work(function: Callable[[Any], Any], pipe: Connection, name: str) -> None:
    """Do what comes through the pipe until its other end is closed. Runs in the process."""
    with open(name, "r+b") as file:  # noqa: PTH123 - of the process that started this one, by its name
        place = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this one says when it is to end
    wire = Wire(pipe)
    while True:
        try:
            items = wire.receive()
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - of some item's own code
            wire.send(parcel(Unreadable(_carried(error))))
            continue
        answer = _answer(_done(function, items, place))
        del items  # so that their memory can go back along with the answer
        wire.send(answer)
        del answer


def _done(function: Callable[[Any], Any], items: list[Any], place: mmap.mmap) -> list[Any]:
    """Return what came of each item: a result, or Failed. Notes which it is at, and the time that it used."""
    results: list[Any] = []
    began = process_time_ns()
    for index, item in enumerate(items):
        _note(place, index)
        try:
            results.append(function(item))
        except Exception as error:  # noqa: BLE001 - the one item is all that is lost
            results.append(Failed(_carried(error)))
    used = int.from_bytes(place[8:16], "little") + process_time_ns() - began
    place[8:16] = used.to_bytes(8, "little")
    return results


def _carried(error: Exception) -> Exception:
    """Return an error that arrives: itself, or if it cannot be pickled and read, one that says as much."""
    try:
        pickle.loads(pickle.dumps(error, 5))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.failure_class = classify(error)  # type: ignore[attr-defined]
        return told
    return error


def _answer(results: list[Any]) -> Parcel:
    """Return results pickled, those that cannot be as errors of their items."""
    try:
        return parcel(results)
    except Exception:  # noqa: BLE001
        return parcel([_sendable(result) for result in results])


def _sendable(result: Any) -> Any:
    try:
        parcel(result)
    except Exception as error:  # noqa: BLE001
        what = result.error if isinstance(result, Failed) else result
        return Failed(TypeError(f"{type(what).__name__} cannot be sent back from the process: {error}"))
    return result
