"""Shared by all tests: small projects, the command as a real process, and a check that nothing is left behind."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("untimed")

SOURCE = Path(__file__).parents[1] / "src"
MARK = "SIDESTAGE_TEST_SESSION"
TIMEOUT_SECONDS = 300.0
GONE_WITHIN_SECONDS = 60.0

NO_PANDAS = '''
"""Hides pandas, where it is installed: pyarrow loads it for nothing, which costs each worker a second."""
import sys


class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoPandas())
'''


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be JSON and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Sidestage:
    """Calls the command in a process of its own, marked so that what it leaves running can be found."""

    environment: Mapping[str, str]

    @staticmethod
    def arguments(*words: str) -> list[str]:
        """Return the command line of a call."""
        return [sys.executable, "-m", "sidestage", *words]

    def start(self, *words: str, at: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start the command and return at once."""
        return subprocess.Popen(
            self.arguments(*words),
            cwd=at,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell starts background jobs, and so perhaps this test run, with interrupts ignored.
            preexec_fn=_heed_interrupts,  # noqa: PLW1509  # runs one system call
        )

    def __call__(
        self, *words: str, at: Path, env: Mapping[str, str] | None = None, expect: int | None = 0
    ) -> Result:
        """Run the command to its end and check its exit status (None: any)."""
        process = self.start(*words, at=at, env=env)
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"sidestage {' '.join(words)} hangs.\n{out}\n{err}") from None
        result = Result(process.returncode, out, err)
        if expect is not None:
            assert result.code == expect, f"sidestage {' '.join(words)}: {result.code}\n{out}\n{err}"
        return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that in the end no worker is left alone with one of them."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def session_mark() -> str:
    """A word that is in the environment of every process which this session starts."""
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
def sidestage(
    session_mark: str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Sidestage]:
    """The command, as a process. At the end of the session nothing may be left of any call."""
    temporary = tmp_path_factory.mktemp("tmp")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SIDESTAGE_")},
        "PYTHONPATH": _python_path(),
        # Compiled modules are kept where they end with the session, also where Python is told to keep none:
        # commands that compile all that they import take twice as long to start.
        "PYTHONPYCACHEPREFIX": str(_shared(tmp_path_factory.getbasetemp(), pytestconfig) / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
        "TMPDIR": str(temporary),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        MARK: session_mark,
    }
    yield Sidestage(environment)
    assert leftovers(session_mark) == [], "processes were left running"
    assert sorted(entry.name for entry in temporary.iterdir()) == [], "temporary files were left"


def _shared(folder: Path, config: pytest.Config) -> Path:
    """Return the folder that all workers of one test run share; each has its own in it."""
    return folder.parent if hasattr(config, "workerinput") else folder


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def kill_all(processes: Collection["subprocess.Popen[str]"]) -> None:
    """End processes that were started, also those that were stopped, and read what they had to say."""
    for process in processes:
        process.send_signal(signal.SIGCONT)  # does nothing if it is known to have ended
        process.kill()
    for process in processes:
        process.communicate()


def leftovers(mark: str, *, within: float = GONE_WITHIN_SECONDS) -> list[str]:
    """Return the processes with a session's mark, after giving them a moment to end."""
    deadline = time.monotonic() + within
    while True:
        found = [_shown(process) for process in psutil.process_iter() if _has_mark(process, mark)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _shown(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid}: ended just now"


def _python_path() -> str:
    spec = importlib.util.find_spec("sidestage")
    installed = spec is not None and spec.origin is not None and not Path(spec.origin).is_relative_to(SOURCE)
    given = os.environ.get("PYTHONPATH", "")
    return given if installed else os.pathsep.join(filter(None, (str(SOURCE), given)))


def write_module(path: Path, text: str) -> None:
    """Write a module that may have been compiled before.

    Python takes what it compiled for the same text if size and second are the same.
    """
    before = int(path.stat().st_mtime) if path.exists() else 0
    path.write_text(text)
    second = max(int(time.time()), before + 1)
    os.utime(path, (second, second))


@dataclass(frozen=True)
class SmallProject:
    """A project on disk, with the command at hand and a ledger that its tasks may write to."""

    root: Path
    ledger: Path
    sidestage: Sidestage
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def __call__(self, *words: str, env: Mapping[str, str] | None = None, expect: int | None = 0) -> Result:
        """Run the command in the project."""
        return self.sidestage(*words, at=self.root, env=env, expect=expect)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start the command in the project; the test sees to it that it ends."""
        process = self.sidestage.start(*words, at=self.root, env=env)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what a test that failed has left running, so that no other test fails for it."""
        left = [process for process in self.started if process.poll() is None]
        kill_all(self.started)
        assert not left, f"left running: {[process.args for process in left]}"

    def write(self, code: str) -> None:
        """Replace the pipeline's module; {LEDGER} in it stands for the ledger's path."""
        write_module(self._module, textwrap.dedent(code).replace("{LEDGER}", str(self.ledger)))

    def edit(self, old: str, new: str) -> None:
        """Replace a piece of the pipeline's module, which must be there once."""
        text = self._module.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        write_module(self._module, text.replace(old, new))

    @property
    def _module(self) -> Path:
        return self.root / "src" / "small" / "pipeline.py"

    def done(self) -> list[str]:
        """Return the lines that tasks wrote into the ledger."""
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def pointers(self, environment: str = "production") -> dict[tuple[str, str], str]:
        """Return what an environment shows, read from the catalog itself."""
        from sidestage.store.sql import open_store

        with open_store(f"sqlite:///{self.root}/.sidestage/catalog.db") as store:
            return store.pointers(environment)

    def digests(self, environment: str = "production") -> dict[tuple[str, str], str]:
        """Return the content digest of everything that an environment shows."""
        from sidestage.store.sql import open_store

        with open_store(f"sqlite:///{self.root}/.sidestage/catalog.db") as store:
            pointers = store.pointers(environment)
            versions = store.versions(pointers.values())
            return {place: versions[shown].stored.digest.content for place, shown in pointers.items()}


NewProject = Callable[..., SmallProject]


@pytest.fixture
def new_project(tmp_path: Path, sidestage: Sidestage) -> Iterator[NewProject]:
    """A factory of projects: give it the code of the pipeline's module, and lines for sidestage.toml."""
    made: list[SmallProject] = []

    def make(code: str, *, name: str = "small", settings: str = "[run]\nworkers = 2\n") -> SmallProject:
        root = tmp_path / name
        package = root / "src" / "small"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(NO_PANDAS)
        (root / "sidestage.toml").write_text(
            f'[project]\nname = "small"\npipelines = ["small.pipeline"]\n{settings}'
        )
        project = SmallProject(root, tmp_path / f"{name}.ledger", sidestage)
        project.write(code)
        made.append(project)
        return project

    yield make
    for project in made:
        project.close()


@pytest.fixture(scope="session")
def ran_shop(sidestage: Sidestage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that ``init`` makes, after its first run. Copy it; do not change it."""
    folder = tmp_path_factory.mktemp("template")
    sidestage("init", "shop", at=folder)
    sidestage("run", at=folder / "shop")
    return folder / "shop"


@pytest.fixture
def shop(ran_shop: Path, tmp_path: Path, sidestage: Sidestage) -> Iterator[SmallProject]:
    """A copy of the scaffold's project after its first run."""
    root = tmp_path / "shop"
    shutil.copytree(ran_shop, root, symlinks=True)
    project = SmallProject(root, tmp_path / "ledger", sidestage)
    yield project
    project.close()
