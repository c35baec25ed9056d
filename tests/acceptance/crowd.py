"""Many real workers on one project: tasks that do what a script says, and a ledger of who did what when."""

import contextlib
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg

from conftest import NO_PANDAS, Result, Sidestage, kill_all
from sidestage.store.contract import Store
from sidestage.store.records import Attempt
from sidestage.store.sql import open_store

PATIENT = 180.0
HEAVY = "[pools.heavy]\nslots = 2\n"
LASTING = "[run]\nlease = 10.0\nstop = 60.0\n"
"""However busy the host, a worker keeps what it runs, and code that is to stop ends by itself."""

# The script is read when a task runs: it is no part of the code, which stays the one that was released.
CODE = """
import contextlib
import os
import time
from dataclasses import dataclass

from sidestage import Dataset, Partition, Pipeline, Retry, Static, Terms, Value

parts = Static(["a", "b", "c", "d", "e", "f"])
made = Dataset("made", parts)
kept, drawn, lifted, hopped = (Value(name, parts) for name in ("kept", "drawn", "lifted", "hopped"))
retry = Retry(times=2, delay=0.01, longest=0.02)
small = Pipeline("small", retry=retry)
slow = Pipeline("slow", retry=retry, terms=Terms(pool="heavy"))
quick = Pipeline("quick", retry=retry, terms=Terms(pool="heavy"))


@dataclass(frozen=True)
class Row:
    n: int


def note(what, step):
    # Behind a wall, nothing is written that is not the platform's.
    with contextlib.suppress(PermissionError), open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{time.monotonic():.6f} {os.getpid()} {what} {step}\\n")


def play(task, part):
    step = f"{task}@{part.key}"
    note("begin", step)
    script = os.environ["LEDGER"] + ".script"
    if os.path.exists(script):
        with open(script) as file:
            exec(file.read(), {**globals(), "step": step})
    note("end", step)
    return step


@small.task(writes=made)
def make(part: Partition) -> list[Row]:
    play("make", part)
    return [Row(1), Row(2)]


@small.task(reads=made, writes=kept)
def keep(part: Partition, rows: list[Row]) -> str:
    return play("keep", part)


@small.task(writes=drawn, terms=Terms(queue="gpu"))
def draw(part: Partition) -> str:
    return play("draw", part)


@slow.task(writes=lifted)
def lift(part: Partition) -> str:
    return play("lift", part)


@quick.task(writes=hopped)
def hop(part: Partition) -> str:
    return play("hop", part)
"""


WAIT_FOR = """
while not os.path.exists(os.environ["LEDGER"] + ".{what}"):
    time.sleep(0.01)
"""


class Note(NamedTuple):
    """A line of the ledger; ``at`` counts seconds alike in all processes."""

    at: float
    pid: int
    what: str
    step: str


@dataclass
class Crowd:
    """A project after its first complete run, and the processes that work on it."""

    root: Path
    url: str
    sidestage: Sidestage
    store: Store
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        return self.root.with_name(f"{self.root.name}.ledger")

    def settings(self, text: str) -> None:
        """Replace what sidestage.toml says beside the project, its store and its lake."""
        (self.root / "sidestage.toml").write_text(
            '[project]\nname = "small"\npipelines = ["small.pipeline"]\n'
            f'[state]\nstore = "{self.url}"\nlake = "{self.root.parent / "lake"}"\n{text}'
        )

    def script(self, code: str) -> None:
        """Have every task do this from now on; it may use ``step``."""
        script = self.ledger.with_name(f"{self.ledger.name}.new")
        script.write_text(code)
        script.replace(f"{self.ledger}.script")

    def __call__(self, *words: str, expect: int | None = 0) -> Result:
        return self.sidestage(*words, at=self.root, env=self.environment, expect=expect)

    @property
    def environment(self) -> dict[str, str]:
        return {"LEDGER": str(self.ledger)}

    def start(self, *words: str) -> "subprocess.Popen[str]":
        process = self.sidestage.start(*words, at=self.root, env=self.environment)
        self.started.append(process)
        return process

    def start_elsewhere(self, *words: str, host: str = "elsewhere") -> "subprocess.Popen[str]":
        """Start the command on what it takes for another host, in a copy of the project with its own state.

        Store and lake are the same. Needs root.
        """
        copy = self.root.with_name(host)
        if not copy.exists():
            shutil.copytree(self.root, copy, ignore=shutil.ignore_patterns(".sidestage"))
        script = f'hostname {host} && exec "$0" "$@"'
        return self.start_program(
            "unshare", "--uts", "sh", "-c", script, *self.sidestage.arguments(*words), at=copy
        )

    def start_program(self, *words: str, at: Path | None = None) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            words,
            cwd=at or self.root,
            env={**self.sidestage.environment, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def worker(self, *words: str) -> "subprocess.Popen[str]":
        """Start a worker and wait until the others can know of it."""
        process = self.start("worker", *words)
        until(lambda: process.poll() is not None or self.name(process), "the worker works")
        return process

    def name(self, process: "subprocess.Popen[str]") -> str | None:
        """Return the name by which a process is known to the store."""
        names = (each.name for each in self.store.workers())
        return next((name for name in names if f":{process.pid}:" in name), None)

    def detach(self, pipeline: str = "small", *words: str) -> int:
        """Begin a run of everything once more, and leave it to workers."""
        again = ("--recompute", "--reason", "again", "--detach", "--json")
        return int(self("run", pipeline, *again, *words).json["run"])

    def state(self, run: int) -> str:
        found = self.store.run(run)
        assert found is not None
        return found.state

    def wait(self, run: int, state: str = "done") -> None:
        until(lambda: self.state(run) != "running", f"run {run} ends")
        assert self.state(run) == state, [step for step in self.store.steps(run) if step.message]

    def attempts(self, run: int, state: str | None = None) -> list[Attempt]:
        return [each for each in self.store.attempts(run) if state in (None, each.state)]

    def notes(self, what: str = "") -> list[Note]:
        if not self.ledger.exists():
            return []
        lines = (line.split() for line in self.ledger.read_text().splitlines())
        notes = [Note(float(at), int(pid), said, step) for at, pid, said, step in lines]
        return [each for each in notes if what in ("", each.what)]

    def steps(self, what: str) -> list[str]:
        return [each.step for each in self.notes(what)]

    def published(self, run: int) -> list[str]:
        """Return what a run published, from the log of pointers."""
        return sorted(
            f"{entry.dataset}@{entry.partition}"
            for entry in self.store.pointer_log(limit=10_000)
            if entry.run == run
        )

    def files(self, dataset: str, partition: str) -> list[Path]:
        return sorted((self.root.parent / "lake" / dataset).glob(f"{partition}~*.parquet"))

    def shown(self, dataset: str, partition: str) -> Path:
        """Return the file that production shows."""
        version = self.store.pointers("production")[dataset, partition]
        return self.root.parent / "lake" / self.store.versions([version])[version].stored.path

    def touch(self, what: str) -> None:
        """Make a file beside the ledger that a script may look for."""
        self.ledger.with_name(f"{self.ledger.name}.{what}").touch()

    def close(self) -> None:
        kill_all(self.started)
        self.store.close()


def until(true: Callable[[], object], what: str) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + PATIENT
    while not true():
        assert time.monotonic() < deadline, f"it never came about that {what}"
        time.sleep(0.01)


def told(process: "subprocess.Popen[str]", what: str) -> str:
    """Wait until a process says something on its standard error; return what it has said there by then."""
    assert process.stderr is not None
    late = threading.Timer(PATIENT, process.kill)
    late.start()
    said = ""
    try:
        while what not in said:
            line = process.stderr.readline()
            assert line, f"it never said {what!r}:\n{said}"
            said += line
    finally:
        late.cancel()
    return said


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked how does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ended(process: "subprocess.Popen[str]") -> Result:
    """Wait for a process to end by itself."""
    out, err = process.communicate(timeout=PATIENT)
    return Result(process.returncode, out, err)


def most_at_once(notes: list[Note]) -> int:
    """Return how many steps ran at the same time, at the most."""
    changes = sorted((note.at, 1 if note.what == "begin" else -1) for note in notes)
    running, most = 0, 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


@contextlib.contextmanager
def crowd_of(folder: Path, base: Path, sidestage: Sidestage, server: str | None = None) -> Iterator[Crowd]:
    """Yield a project in ``folder`` that ran completely, with SQLite or in a new database of a server.

    ``base`` is a folder of the session, in which the first of them is kept to be copied.
    """
    where = f"postgresql-{psycopg.conninfo.conninfo_to_dict(server)['port']}" if server else "sqlite"
    kept = template(base / where, sidestage, server)
    shutil.copytree(kept, folder)
    url = new_database(server) if server else f"sqlite:///{folder}/catalog.db"
    crowd = Crowd(folder / "project", url, sidestage, open_store(url))
    crowd.settings(LASTING + HEAVY)
    try:
        yield crowd
    finally:
        crowd.close()


def template(folder: Path, sidestage: Sidestage, server: str | None) -> Path:
    """Return a folder with a project that ran completely; in PostgreSQL its database is ``template``."""
    if folder.exists():
        return folder
    package = folder / "project" / "src" / "small"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NO_PANDAS)
    (package / "pipeline.py").write_text(CODE)
    url = new_database(server, "first", "template1") if server else f"sqlite:///{folder}/catalog.db"
    first = Crowd(folder / "project", url, sidestage, open_store(url))
    first.settings(LASTING + HEAVY)
    for pipeline in ("small", "slow", "quick"):
        first("run", pipeline)
    first.ledger.unlink()
    first.close()
    return folder


def new_database(server: str, name: str = "", template: str = "first") -> str:
    """Make a database like another one, which nobody uses now; return its URL."""
    name = name or f"c{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        # Sequences of a copy would go back after a crash: it lacks what is logged of them in advance.
        connection.execute("CHECKPOINT")
    return f"{server.rpartition('/')[0]}/{name}"
