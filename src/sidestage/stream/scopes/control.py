"""How a stream that runs is told from outside to cancel a part of itself: by its own user, on its own host.

It listens on a socket in a folder that nobody else may enter, and asks the system who is at the other end:
another user is not answered. Nothing listens on the network. Both need Linux (``SO_PEERCRED``, unix(7)).
"""

import os
import pwd
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import msgspec

from sidestage.errors import ConfigurationError, DefinitionError, SidestageError
from sidestage.stream.scopes.cancelling import Cancelling
from sidestage.stream.scopes.events import StageCancellation, WorkerAtWork, WorkerCancellation

_PATIENCE = 30.0
"""Seconds that one question and its answer may take."""

_LONGEST = 1 << 20
"""Bytes of a question or an answer."""

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
        self._engine: Cancelling | None = None
        self._listening: socket.socket | None = None
        self._path = Path()
        self._thread = threading.Thread(target=self._serve, name="stream control", daemon=True)

    def show(self, engine: Cancelling) -> None:
        """Have this run cancelled in parts from now on."""
        self._engine = engine

    def __enter__(self) -> Self:
        if not hasattr(socket, "SO_PEERCRED"):
            self.refusal = "this system does not say who is at the other end of a socket"
            return self
        try:
            self._path = _own_folder() / f"{os.getpid()}.sock"
            self._path.unlink(missing_ok=True)  # of a process that was killed, and had this number
            listening = socket.socket(socket.AF_UNIX)
            try:
                listening.bind(os.fspath(self._path))
                listening.listen(8)
            except BaseException:
                listening.close()
                raise
        except (OSError, ConfigurationError) as error:
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
        with suppress(OSError):
            self._path.unlink()

    def answer(self, question: Question, by: str) -> Answer:
        """Return what came of a question; ``by`` is who asks."""
        engine, mine = self._engine, Answer(self._flow, os.getpid())
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


def running(flow: str, pid: int | None = None) -> Answer:
    """Return what the one run of a flow answers that this user has on this host, and who is at work there.

    Raises ConfigurationError if there is none, or if there are several and ``pid`` does not say which.
    """
    found = [each for each in _runs() if each.flow == flow and pid in (None, each.pid)]
    if not found:
        raise ConfigurationError(
            f"No stream {flow} of yours runs here{'' if pid is None else f' as process {pid}'}.",
            hint="Ask on the host and as the user that it runs as; only what was started by "
            "sidestage stream run is found.",
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"{len(found)} processes run {flow}: {', '.join(str(each.pid) for each in found)}.",
            hint="Say which: --pid.",
        )
    return found[0]


def asked(pid: int, question: Question) -> Answer:
    """Ask a run of this user. Raises SidestageError if it does not answer, or did not do what was asked."""
    for folder in _folders():
        path = folder / f"{pid}.sock"
        if not path.exists():
            continue
        try:
            answer = _ask(path, question)
        except (OSError, msgspec.MsgspecError) as error:
            raise SidestageError(f"Process {pid} does not answer: {error}", hint="Has it ended?") from error
        if answer.error:
            kind = DefinitionError if answer.is_wrong else SidestageError
            raise kind(answer.error, hint=answer.hint)
        return answer
    raise SidestageError(f"Process {pid} does not answer.", hint="Has it ended?")


def _runs() -> Iterator[Answer]:
    for folder in _folders():
        for path in sorted(folder.glob("*.sock")):
            try:
                yield _ask(path, Question())
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)  # nobody listens there any more: its process was killed
            except (OSError, msgspec.MsgspecError):
                continue


def _ask(path: Path, question: Question) -> Answer:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(os.fspath(path))
        if _other_end(connection)[1] != os.getuid():
            raise OSError(f"{path} belongs to somebody else")
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


def _candidates() -> Iterator[Path]:
    """Yield where the folder may be, the best place first."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    usual = Path("/run/user") / str(os.getuid())
    for base in dict.fromkeys((*((Path(given),) if given else ()), usual)):
        if base.is_dir() and os.access(base, os.W_OK):
            yield base / "sidestage-streams"
    yield Path(tempfile.gettempdir()) / f"sidestage-streams-{os.getuid()}"


def _own_folder() -> Path:
    """Return the folder, made if need be. Raises ConfigurationError if others may enter it, OSError."""
    folder = next(_candidates())
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_mine(folder):
        raise ConfigurationError(f"{folder} belongs to somebody else, or others may enter it")
    return folder


def _folders() -> list[Path]:
    return [folder for folder in _candidates() if _is_mine(folder)]


def _is_mine(folder: Path) -> bool:
    """Whether a folder is this user's, and nobody else may enter it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
