"""A lean project on disk, and the command as a real process that says what it published."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sidestage.data.lake import Lake
from sidestage.store.sql import SqlStore, open_store
from torture import acknowledged
from torture.acknowledged import Acknowledged

MARK = "SIDESTAGE_TORTURE"
"""Environment variable by which processes of a rig are found, so that none is left."""

LIMIT_SECONDS = 300.0
"""A process that takes longer than this is stuck. It is no measure of speed."""

HERE = Path(__file__).parents[1]

NO_PANDAS = '''
"""Hides pandas, where it is installed: pyarrow loads it for nothing, which costs each worker a second."""
import sys


class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoPandas())
'''


class Running:
    """A command that runs. What it acknowledges is collected by a thread."""

    def __init__(self, command: Sequence[str], *, at: Path, environment: Mapping[str, str]) -> None:
        self.started = time.monotonic()
        self._said = bytearray()
        self._is_over = False
        self._news = threading.Condition()
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*command[:1], *(word.replace("{SPEAK}", str(writing)) for word in command[1:])],
                cwd=at,
                env=dict(environment),
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._listen, args=(reading,), name="acknowledgements")
        self._reader.start()

    def acknowledged(self, before: float | None = None) -> list[Acknowledged]:
        """Return what was acknowledged up to now."""
        with self._news:
            return acknowledged.read(bytes(self._said), before)

    def count(self) -> int:
        """Return how many publications were acknowledged."""
        return self._said.count(b"\n")

    def wait(self, count: int, seconds: float = LIMIT_SECONDS) -> bool:
        """Wait for so many acknowledgements; return False if the process ended or took too long before."""
        with self._news:
            self._news.wait_for(lambda: self.count() >= count or self._is_over, seconds)
        return self.count() >= count and self.process.poll() is None

    def sleep(self, seconds: float) -> bool:
        """Let it run for a while; return False if it ended before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, seconds))
        return self.process.poll() is None

    def children(self) -> list[psutil.Process]:
        """Return its worker processes."""
        try:
            children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return children

    def end(self, seconds: float = LIMIT_SECONDS) -> tuple[int | None, str]:
        """Wait for its end; return its status (None: it hung and was killed) and what it said of errors."""
        status: int | None
        try:
            _, error = self.process.communicate(timeout=seconds)
            status = self.process.returncode
        except subprocess.TimeoutExpired:
            self.kill()
            _, error = self.process.communicate()
            status = None
        self._reader.join()
        return status, error.decode(errors="replace")

    def kill(self) -> None:
        """Send SIGKILL to the command; its workers follow it by themselves."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    def _listen(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while piece := pipe.read(65536):
                with self._news:
                    self._said += piece
                    self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()


@dataclass(frozen=True)
class Rig:
    """A project on disk. ``state`` is its folder of catalog, lake, scratch and logs."""

    root: Path
    state: Path
    ledger: Path
    environment: dict[str, str] = field(default_factory=dict)
    lake_root: Path | None = None

    @classmethod
    def make(
        cls,
        folder: Path,
        code: str,
        *,
        state: Path | None = None,
        lake: Path | None = None,
        settings: str = "[run]\nworkers = 2\n",
        environment: Mapping[str, str] | None = None,
    ) -> "Rig":
        """Write a project called ``small`` with one module; {LEDGER} in its code is the ledger's path."""
        folder = folder.resolve()
        root, ledger = folder / "project", folder / "ledger"
        package = root / "src" / "small"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(NO_PANDAS)
        state = state or root / ".sidestage"
        where = f'[state]\nfolder = "{state}"\n' + (f'lake = "{lake}"\n' if lake else "")
        (root / "sidestage.toml").write_text(
            f'[project]\nname = "small"\npipelines = ["small.pipeline"]\n{where}{settings}'
        )
        (package / "pipeline.py").write_text(textwrap.dedent(code).replace("{LEDGER}", str(ledger)))
        return cls(root, state, ledger, {**fresh_environment(folder), **(environment or {})}, lake)

    def edit(self, old: str, new: str) -> None:
        """Replace a piece of the pipeline's module, which must be there once."""
        module = self.root / "src" / "small" / "pipeline.py"
        text = module.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        module.write_text(text.replace(old, new))

    def start(self, *words: str, env: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> Running:
        """Start the command; ``before`` are words to put in front of it, such as a tracer's."""
        command = [*before, sys.executable, "-m", "torture.spoken", "{SPEAK}", *words]
        return Running(command, at=self.root, environment={**self.environment, **(env or {})})

    def __call__(self, *words: str) -> None:
        """Run the command to its end, which must be a success."""
        status, error = self.start(*words).end()
        assert status == 0, f"sidestage {' '.join(words)}: {status}\n{error}"

    def done(self) -> list[str]:
        """Return the lines that tasks wrote into the ledger."""
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def store(self) -> SqlStore:
        """Open the catalog."""
        return open_store(f"sqlite:///{self.state}/catalog.db")

    @property
    def lake(self) -> Lake:
        """The lake, for reading."""
        return Lake(self.lake_root or self.state / "lake")

    def processes(self) -> list[psutil.Process]:
        """Return the processes that this rig started, and theirs, if they still live."""
        return [process for process in psutil.process_iter() if self._is_own(process)]

    def end_all(self, seconds: float = 10.0) -> list[str]:
        """Wait for processes that are ending, then kill what is left; return what had to be killed."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        named = []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                named.append(f"{process.pid}: {' '.join(process.cmdline())}")
                process.kill()
        return named

    def _is_own(self, process: psutil.Process) -> bool:
        try:
            is_marked = process.environ().get(MARK) == self.environment[MARK]
            return bool(is_marked and process.status() != psutil.STATUS_ZOMBIE)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def fresh_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a rig's processes: a mark of its own, temporary files in its folder.

    Compiled modules are kept beside the folder: a Python that compiles all it imports takes twice as long to
    start as an installed one, and would be measured instead of Sidestage.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SIDESTAGE_")},
        "PYTHONPATH": python_path(),
        "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", str(folder.parent / "bytecode")),
        "PYTHONDONTWRITEBYTECODE": "",
        "TMPDIR": str(temporary),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        MARK: uuid.uuid4().hex,
    }


def python_path() -> str:
    """Return where processes find this package, and Sidestage where it is not installed."""
    spec = importlib.util.find_spec("sidestage")
    assert spec is not None
    assert spec.origin is not None
    source = str(Path(spec.origin).parents[1])
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(dict.fromkeys(filter(None, (str(HERE), source, *given.split(os.pathsep)))))
