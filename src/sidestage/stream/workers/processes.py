"""A stage whose workers are processes: for Python code that keeps a processor busy.

Each worker is a thread that takes chunks, and a process that does the work. A chunk goes there by pickle, and
comes back with a result or an error for each item. The process notes in shared memory which item it is at, so
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
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from time import perf_counter, process_time_ns
from typing import Any, NamedTuple

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.policy.failure import classify
from sidestage.policy.restart import Restarts
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, GivenUp, Halt, Stopped, StreamDied, WorkerDied
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step
from sidestage.stream.workers.parcels import Parcel, parcel, receive, send

if sys.platform != "win32":
    from multiprocessing import forkserver

_LOOK_SECONDS = 0.1
_MOST_DEATHS = 2
"""An item that has ended so many processes is not tried again."""

_LONGEST_SOCKET = 103
"""Bytes that the path of a socket may have everywhere: 107 on Linux, 103 on macOS."""

_NOWHERE = (1 << 64) - 1


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


class ProcessOperator(Onward):
    """Has one process make one item of each. Closed by whoever opened it."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        timeout: float | None,
        desk: Desk,
        meter: Meter,
        following: Step,
        restarts: Restarts,
        halt: Halt,
        clock: Clock,
    ) -> None:
        super().__init__(meter, following)
        meter.is_elsewhere = True
        self._function = function
        self._timeout = timeout
        self._desk = desk
        self._restarts = restarts
        self._halt = halt
        self._clock = clock
        self._child: _Child | None = None
        self._is_revoked: Callable[[], bool] = lambda: False

    def open(self) -> None:
        """Return when the process is ready for items. Raises Stopped, StreamDied."""
        while not isinstance(self._ask(parcel([])), list):
            pass

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        items = chunk.items
        self._is_revoked = lambda: chunk.is_revoked
        made: list[Any] = []
        gone: list[int] = []
        for index, result in enumerate(self._results(items)):
            if isinstance(result, GivenUp):
                kept = self._desk.decide(chunk, index, items[index], result)
            elif isinstance(result, Failed):
                kept = self._desk.meet(chunk, index, items[index], result.error, self._one)
            else:
                made.append(result)
                continue
            if kept.gone:
                gone.append(index)
            else:
                made.append(kept.value)
        chunk.become(made, gone)
        self._meter.used(len(items), 0.0 if self._child is None else self._child.used())
        self._hand_on(chunk, len(items), began)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _one(self, item: Any) -> Any:
        (result,) = self._results([item])
        if isinstance(result, Failed | GivenUp):
            raise result.error
        return result

    def _results(self, items: Sequence[Any]) -> list[Any]:
        """Return what came of each item: a result, Failed, or GivenUp.

        What a process that died had not answered for is done again, but not an item that ends a second one.
        """
        results: list[Any] = [None] * len(items)
        left = list(range(len(items)))
        deaths: dict[int, int] = {}
        while left:
            if self._is_revoked():
                results = [GivenUp(WorkerDied("its item was revoked"), 1)] * len(items)
                break
            sent, unsendable = _pickled(items, left)
            for index, error in unsendable.items():
                results[index] = GivenUp(error, 1)
            left = [index for index in left if index not in unsendable]
            if not left:
                break
            answer = self._ask(sent)
            if isinstance(answer, Unreadable):
                for index in left:
                    results[index] = self._alone(items[index], answer)
                break
            if isinstance(answer, list):
                for index, result in zip(left, answer, strict=True):
                    results[index] = result
                break
            culprit = left[answer.at] if answer.at < len(left) else left[0]
            deaths[culprit] = deaths.get(culprit, 0) + 1
            if deaths[culprit] >= _MOST_DEATHS or answer.is_late:
                results[culprit] = GivenUp(answer.error, deaths[culprit])
                left.remove(culprit)
        return results

    def _alone(self, item: Any, unreadable: "Unreadable") -> Any:
        """Return what came of an item that is sent by itself, since one of its chunk could not be read."""
        answer = self._ask(parcel([item]))
        if isinstance(answer, list):
            return answer[0]
        error = answer.error if isinstance(answer, Unreadable | _Death) else unreadable.error
        return GivenUp(error, 1)

    def _ask(self, sent: Parcel) -> "list[Any] | Unreadable | _Death":
        """Return the process's answer, or how it ended instead. Raises Stopped, StreamDied."""
        child = self._child
        if child is None:
            child = self._child = _Child(self._function)
        answer = child.ask(sent, self._timeout, self._halt, self._is_revoked)
        if not isinstance(answer, _Death):
            return answer
        child.end()
        self._child = None
        pause = 0.0 if answer.is_late else self._restarts.next_pause(self._clock.monotonic())
        if pause is None:
            raise StreamDied(f"Its processes keep dying: {answer.error}") from answer.error
        if self._halt.wait(pause):
            raise Stopped
        return answer


class _Death(NamedTuple):
    """How a process ended, and at which of the items it was given."""

    at: int
    error: Exception
    is_late: bool


def _pickled(items: Sequence[Any], which: Sequence[int]) -> tuple[Parcel, dict[int, Exception]]:
    """Return some of the items pickled together, and the errors of those that cannot be."""
    unsendable: dict[int, Exception] = {}
    try:
        return parcel([items[index] for index in which]), unsendable
    except Exception:  # noqa: BLE001 - whatever the item's own code raises
        for index in which:
            try:
                parcel(items[index])
            except Exception as error:  # noqa: BLE001
                unsendable[index] = error
        return parcel([items[index] for index in which if index not in unsendable]), unsendable


class _Child:
    """A process, the pipe to it, and the place where it notes how far it is."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = _context()
        self._file = tempfile.NamedTemporaryFile(prefix="sidestage-stream-")  # noqa: SIM115 - closed by end
        self._file.truncate(mmap.PAGESIZE)
        self._place = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        self._pipe, theirs = context.Pipe()
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
        self, sent: Parcel, timeout: float | None, halt: Halt, is_revoked: Callable[[], bool]
    ) -> "list[Any] | Unreadable | _Death":
        """Return the answer, or how it ended instead. Raises Stopped."""
        _note(self._place, _NOWHERE)
        try:
            send(self._pipe, sent)
            at, since = _NOWHERE, time.monotonic()
            while not self._pipe.poll(_LOOK_SECONDS if timeout is None else min(timeout / 4, _LOOK_SECONDS)):
                if halt.is_set:
                    raise Stopped
                if is_revoked():
                    return _Death(0, WorkerDied("its item was revoked"), is_late=True)
                now_at, now = _noted(self._place), time.monotonic()
                if now_at != at:
                    at, since = now_at, now
                elif timeout is not None and at != _NOWHERE and now - since > timeout:
                    late = TimeoutError(f"it took longer than {timeout:g} s; its process was killed")
                    return _Death(at, late, is_late=True)
            answer: list[Any] | Unreadable = receive(self._pipe)
        except (EOFError, OSError):
            self._process.join(1.0)
            code = self._process.exitcode
            how = f"with signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
            at = _noted(self._place)
            return _Death(0 if at == _NOWHERE else at, WorkerDied(f"its process ended {how}"), is_late=False)
        return answer

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
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
    used = 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this one says when it is to end
    while True:
        try:
            items = receive(pipe)
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - of some item's own code
            send(pipe, parcel(Unreadable(_carried(error))))
            continue
        results: list[Any] = []
        began = process_time_ns()
        for index, item in enumerate(items):
            _note(place, index)
            try:
                results.append(function(item))
            except Exception as error:  # noqa: BLE001 - the one item is all that is lost
                results.append(Failed(_carried(error)))
        used += process_time_ns() - began
        place[8:16] = used.to_bytes(8, "little")
        send(pipe, _answer(results))


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
        pickle.dumps(result, 5)
    except Exception as error:  # noqa: BLE001
        what = result.error if isinstance(result, Failed) else result
        return Failed(TypeError(f"{type(what).__name__} cannot be sent back from the process: {error}"))
    return result
