"""How a stream that runs is told from outside to cancel a part of itself: by its own user, on its own host.

It listens on a socket that has a name and no file, and asks the system who is at the other end: another user
is not answered, and whoever asks speaks to nobody else's process. Nothing listens on the network. Both need
Linux: abstract sockets and ``SO_PEERCRED``, unix(7).
"""

import os
import pwd
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from sidestage.errors import ConfigurationError, DefinitionError, SidestageError
from sidestage.stream.scopes.cancelling import Cancelling
from sidestage.stream.scopes.events import StageCancellation, WorkerAtWork, WorkerCancellation

_PATIENCE = 30.0
"""Seconds that one question and its answer may take."""

_LONGEST = 1 << 20
"""Bytes of a question or an answer."""

_PREFIX = "sidestage-stream"
_WAITING = 8
"""How many may wait to be answered."""

_CREDENTIALS = struct.Struct("3i")
"""What the system says of who is at the other end: process, user, group."""


class Question(msgspec.Struct, frozen=True):
    """What somebody wants: to look, or to cancel a worker (``number``) or a stage."""

    what: Literal["look", "worker", "stage"] = "look"
    stage: str = ""
    number: int = 0
    why: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What came of it: who is at work on what, what was cancelled, or why nothing was."""

    flow: str
    pid: int
    workers: tuple[WorkerAtWork, ...] = ()
    worker: WorkerCancellation | None = None
    stage: StageCancellation | None = None
    error: str = ""
    hint: str = ""
    is_wrong: bool = False
    """Whether the error is one of whoever asked."""


class Control:
    """Lets one run be cancelled in parts by its own user, from a thread of its own. Use it with ``with``.

    ``refusal`` says why nobody can reach it, if that is so; the stream runs all the same.
    """

    def __init__(self, flow: str) -> None:
        self.refusal = ""
        self._flow = flow
        self._pid = os.getpid()
        self._engine: Cancelling | None = None
        self._listening: socket.socket | None = None
        # By chance, or another user could take the name of a process before it.
        self.address = f"\0{_PREFIX}/{os.getuid()}/{self._pid}/{secrets.token_hex(8)}"
        self._thread = threading.Thread(target=self._serve, name="stream control", daemon=True)

    def show(self, engine: Cancelling) -> None:
        """Have this run cancelled in parts from now on."""
        self._engine = engine

    def __enter__(self) -> Self:
        if not (sys.platform == "linux" and hasattr(socket, "SO_PEERCRED")):
            self.refusal = "this system does not say who is at the other end of a socket"
            return self
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(self.address)
            listening.listen(_WAITING)
        except OSError as error:
            listening.close()
            self.refusal = str(error)
        else:
            self._listening = listening
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._listening is None:
            return
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # which wakes who waits for somebody to come
        self._thread.join()
        self._listening.close()

    def answer(self, question: Question, by: str) -> Answer:
        """Return what came of a question; ``by`` is who asks."""
        engine, mine = self._engine, Answer(self._flow, self._pid)
        if engine is None:
            return msgspec.structs.replace(mine, error="Nothing runs yet.", hint="Try again in a moment.")
        try:
            match question.what:
                case "worker":
                    worker = engine.cancel_worker(question.stage, question.number, why=question.why, by=by)
                    return msgspec.structs.replace(mine, worker=worker)
                case "stage":
                    stage = engine.cancel_stage(question.stage, why=question.why, by=by)
                    return msgspec.structs.replace(mine, stage=stage)
            return msgspec.structs.replace(mine, workers=engine.workers())
        except SidestageError as error:
            wrong = isinstance(error, DefinitionError)
            return msgspec.structs.replace(mine, error=error.message, hint=error.hint, is_wrong=wrong)

    def _serve(self) -> None:
        assert self._listening is not None
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, suppress(OSError, msgspec.MsgspecError):  # whoever asked went away, or babbles
                connection.settimeout(_PATIENCE)
                pid, user = _other_end(connection)
                if user == os.getuid():
                    question = msgspec.json.decode(_received(connection), type=Question)
                    connection.sendall(msgspec.json.encode(self.answer(question, _who(user, pid))))


class Found(NamedTuple):
    """A run, where it listens, and what it answered."""

    address: str
    answer: Answer


def running(flow: str, pid: int | None = None) -> Found:
    """Return the one run of a flow that this user has on this host, and who is at work there.

    Raises ConfigurationError if there is none, or if there are several and ``pid`` does not say which.
    """
    found = [each for each in _runs() if each.answer.flow == flow and pid in (None, each.answer.pid)]
    if not found:
        raise ConfigurationError(
            f"No stream {flow} of yours runs here{'' if pid is None else f' as process {pid}'}.",
            hint="Ask on the host and as the user that it runs as; only what was started by "
            "sidestage stream run is found.",
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"{len(found)} processes run {flow}: {', '.join(str(each.answer.pid) for each in found)}.",
            hint="Say which: --pid.",
        )
    return found[0]


def asked(address: str, question: Question) -> Answer:
    """Ask a run of this user. Raises SidestageError if it does not answer, or did not do what was asked."""
    try:
        answer = _ask(address, question)
    except (OSError, msgspec.MsgspecError) as error:
        raise SidestageError(f"The stream does not answer: {error}", hint="Has it ended?") from error
    if answer.error:
        kind = DefinitionError if answer.is_wrong else SidestageError
        raise kind(answer.error, hint=answer.hint)
    return answer


def _runs() -> Iterator[Found]:
    """Yield the runs of this user, which the system lists (proc_net(5))."""
    mark = f" @{_PREFIX}/{os.getuid()}/"
    with suppress(OSError):
        for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines():
            if mark in line:
                address = "\0" + line.partition(" @")[2]
                with suppress(OSError, msgspec.MsgspecError):  # it ends this moment, or is somebody else's
                    yield Found(address, _ask(address, Question()))


def _ask(address: str, question: Question) -> Answer:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(address)
        if _other_end(connection)[1] != os.getuid():
            raise PermissionError("it belongs to somebody else")
        connection.sendall(msgspec.json.encode(question))
        connection.shutdown(socket.SHUT_WR)
        return msgspec.json.decode(_received(connection), type=Answer)


def _received(connection: socket.socket) -> bytes:
    """Return all that the other end says."""
    parts, length = [], 0
    while part := connection.recv(1 << 16):
        parts.append(part)
        length += len(part)
        if length > _LONGEST:
            raise OSError("it says too much")
    return b"".join(parts)


def _other_end(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end, as the system knows them."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(told)
    return pid, user


def _who(user: int, pid: int) -> str:
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"user {user}"
    return f"{name} (process {pid})"
