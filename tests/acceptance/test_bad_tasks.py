"""Tasks that misbehave: each ends as a classified failure of its attempt alone, and leaves nothing but its log.

All of them are in one run, with two workers, each between well-behaved steps that the same processes make. What
is scaled: memory and temporary files end at hundreds of megabytes, not at those of a host; of the 10 GB that are
returned lazily, as much is made as fits into three seconds, and 470 MB of such are written to their end.
"""

import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import NO_PANDAS, SmallProject, leftovers
from sidestage.store.sql import open_store

MEGABYTE = 1_000_000


class Bad(NamedTuple):
    """What a task does, under which limits, and what becomes of the attempt; limits end it within seconds."""

    code: str
    failure_class: str
    message: str
    limits: str = ""


IGNORE = """
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(0.01)
"""
STUBBORN = """
while True:
    try:
        time.sleep(10)
    except BaseException:
        pass
"""
FORKS = """
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
subprocess.Popen(["sleep", "600"], start_new_session=True)
"""
HOLDER = """
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
os._exit(5)
"""
NATIVE_HOLDER = """
if ctypes.CDLL(None).fork() == 0:
    os.setsid()
    time.sleep(600)
os._exit(6)
"""
FILL_MEMORY = """
held = []
while True:
    held.append(bytearray(4 << 20))
"""
FILL_MEMORY_OF_A_CHILD = """
subprocess.run([sys.executable, "-c", "held = []\\nwhile True: held.append(bytearray(1 << 22))"], check=False)
time.sleep(600)
"""
FILL_TEMPORARY = """
with tempfile.TemporaryFile() as file:
    while True:
        file.write(bytes(1 << 20))
        file.flush()
"""
DIG = """
for _ in range(1500):
    os.mkdir("deep")
    os.chdir("deep")
raise ValueError("deep enough")
"""
LOCKED = """
folder = tempfile.mkdtemp()
open(os.path.join(folder, "file"), "w").close()
os.chmod(folder, 0)
raise ValueError("locked")
"""
DEADLOCK = """
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire).start()
lock.acquire()
"""
BABBLE = """
for descriptor in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.write(descriptor, (7).to_bytes(8, "big") + b"garbage")
    except OSError:
        pass
time.sleep(600)
"""
LAZILY = """
return ten_gigabytes()
"""
WITHOUT_END = """
return iter(lambda: batch, None)
"""
GROW_A_FILE = """
resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
with tempfile.TemporaryFile() as file:
    while True:
        file.write(bytes(1 << 16))
"""

TASKS = {
    "forks": Bad(FORKS + "raise ValueError('after forking')", "bug", "after forking"),
    "returns_twice": Bad("os.fork()\nraise ValueError('twice')", "bug", "twice"),
    "leaves_a_holder": Bad(HOLDER, "worker-died", "exited with status 5"),
    "leaves_a_native_holder": Bad(NATIVE_HOLDER, "worker-died", "exited with status 6"),
    "ignores_sigterm": Bad(IGNORE, "resource", "longer than its limit of 3 s", "time=3"),
    "catches_everything": Bad(STUBBORN, "resource", "longer than its limit of 3 s", "time=3"),
    "stops_itself": Bad(
        "os.kill(os.getpid(), signal.SIGSTOP)", "resource", "longer than its limit of 3 s", "time=3"
    ),
    "fills_memory": Bad(FILL_MEMORY, "resource", "memory", "memory='400 MB'"),
    "fills_memory_of_a_child": Bad(FILL_MEMORY_OF_A_CHILD, "resource", "memory", "memory='600 MB'"),
    "fills_temporary": Bad(
        FILL_TEMPORARY, "resource", "temporary files, more than its limit of 50 MB", "temporary='50 MB'"
    ),
    "prints_without_end": Bad(
        "while True: print('x' * 1000)", "resource", "longer than its limit", "time=3, log='100 kB'"
    ),
    "prints_little_without_end": Bad(
        "while True: os.write(1, b'.')", "resource", "longer than its limit", "time=3, log='10 kB'"
    ),
    "returns_lazily": Bad(LAZILY, "resource", "longer than its limit of 3 s", "time=3"),
    "returns_without_end": Bad(
        WITHOUT_END, "resource", "more output than its limit of 30 MB", "output='30 MB'"
    ),
    "grows_a_file": Bad(GROW_A_FILE, "resource", "a file larger than the 1 MB that the system lets"),
    "computes": Bad("while True: pass", "resource", "processor time", "cpu=1"),
    "opens_files": Bad(
        "held = [open(os.devnull) for _ in range(200)]", "resource", "more files than its limit", "files=100"
    ),
    "exits": Bad("sys.exit('enough')", "bug", "SystemExit: enough"),
    "leaves": Bad("os._exit(9)", "worker-died", "exited with status 9"),
    "aborts": Bad("os.abort()", "worker-died", "killed by SIGABRT"),
    "segfaults": Bad("ctypes.string_at(0)", "worker-died", "killed by SIGSEGV"),
    "deadlocks": Bad(DEADLOCK, "resource", "longer than its limit of 3 s", "time=3"),
    "digs": Bad("os.chdir(tempfile.gettempdir())" + DIG, "bug", "deep enough"),
    "locks_its_folder": Bad(LOCKED, "bug", "locked"),
    "removes_its_folder": Bad("shutil.rmtree(tempfile.gettempdir()); 1 / 0", "bug", "ZeroDivisionError"),
    "replaces_its_folder": Bad(
        "here = tempfile.gettempdir(); shutil.rmtree(here); os.symlink('/', here); 1 / 0",
        "bug",
        "ZeroDivisionError",
    ),
    "moves": Bad("os.chdir('/'); tempfile.tempdir = '/nowhere'; 1 / 0", "bug", "ZeroDivisionError"),
    "closes_output": Bad("sys.stdout.close(); os.close(1); 1 / 0", "bug", "ZeroDivisionError"),
    "closes_everything": Bad("os.closerange(0, 256); time.sleep(600)", "worker-died", "killed by SIGKILL"),
    "babbles": Bad(BABBLE, "worker-died", "killed by SIGKILL"),
    "lowers_limits": Bad(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90)); 1 / 0", "bug", "ZeroDivisionError", "files=100"
    ),
    "looks_away": Bad("raise Unsayable", "bug", "cannot be shown"),
    "recurses": Bad("bad = lambda: bad()\nbad()", "bug", "RecursionError"),
    "sleeps_in_a_thread": Bad(
        "threading.Thread(target=time.sleep, args=(600,)).start(); 1 / 0", "bug", "ZeroDivisionError"
    ),
}

HEAD = """
import ctypes, os, resource, shutil, signal, stat, subprocess, sys, tempfile, threading, time
from collections.abc import Iterator
import pyarrow as pa
from sidestage import Dataset, Limits, Partition, Pipeline, Retry, Static, Terms

MEGABYTE = 1_000_000
parts = Static(["a", "bad", "c"])
pipeline = Pipeline("small", retry=Retry(times=0))
batch = pa.record_batch({"payload": pa.array([os.urandom(1 << 16)] * 16)})

class Unsayable(Exception):
    def __str__(self):
        raise self

def ten_gigabytes():
    for _ in range(10_000):
        yield batch

def start(part, name):
    assert os.listdir(tempfile.gettempdir()) == [], "the folder of temporary files is not empty"
    assert os.getcwd() == os.environ["SMALL_ROOT"]
    print(f"{name} of {part.key} begins, and ends no line", end="")
    with open(os.path.join(tempfile.gettempdir(), "left"), "w") as file:
        file.write("something")
"""
TASK = """
@pipeline.task(writes=Dataset("{name}", parts), terms=Terms(limits=Limits({limits})))
def {name}(part: Partition) -> Iterator[pa.RecordBatch]:
    start(part, "{name}")
    if part.key == "bad":
{code}
    return iter([pa.record_batch({{"n": [1]}})])
"""


class Ran(NamedTuple):
    """A run of all tasks: what it left, and how large its main process became."""

    project: SmallProject
    seconds: float
    peak_bytes: int
    left: list[str]
    error: str


def module() -> str:
    return HEAD + "".join(
        TASK.format(name=name, limits=bad.limits, code=indented(bad.code)) for name, bad in TASKS.items()
    )


def indented(code: str) -> str:
    return "\n".join(f"        {line}" for line in code.strip().splitlines())


@pytest.fixture(scope="module")
def ran(sidestage, session_mark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    root = folder / "small"
    package = root / "src" / "small"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NO_PANDAS)
    (package / "pipeline.py").write_text(module())
    (root / "sidestage.toml").write_text(
        '[project]\nname = "small"\npipelines = ["small.pipeline"]\n[run]\nworkers = 2\nstop = 1\n'
    )
    project = SmallProject(root, folder / "ledger", sidestage)
    began = time.monotonic()
    process = project.start("run", env={"SMALL_ROOT": str(root), "PYTHONUNBUFFERED": ""})
    peaks: list[int] = []
    watcher = threading.Thread(target=watch_memory, args=(process, peaks))
    watcher.start()
    _, error = process.communicate(timeout=1200)
    watcher.join()
    assert process.returncode == 4, error
    yield Ran(project, time.monotonic() - began, max(peaks), leftovers(session_mark), error)
    shutil.rmtree(root)


def watch_memory(process, peaks: list[int]) -> None:
    """Note the largest size that a process ever had, again and again until it is gone."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def failures(ran):
    found = ran.project("status", "--run", "1", "--json").json
    return {each["step"].removeprefix("small."): each for each in found["failures"]}


@pytest.mark.parametrize("name", TASKS)
def test_it_ends_as_a_classified_failure_with_its_log_kept(failures, name):
    found = failures[f"{name}@bad"]
    assert found["failure_class"] == TASKS[name].failure_class, found["message"]
    assert TASKS[name].message in found["message"]
    assert found["attempts"] == 1
    log = Path(found["log"]).read_text()
    assert log.startswith(f"{name} of bad begins, and ends no line"), log[:200]


def test_it_is_that_attempt_alone(ran, failures):
    assert failures.keys() == {f"{name}@bad" for name in TASKS}
    with open_store(f"sqlite:///{ran.project.root}/.sidestage/catalog.db") as store:
        steps = store.steps(1)
        attempts = store.attempts(1)
    assert {step.state for step in steps if step.partition != "bad"} == {"done"}
    assert len(attempts) == 3 * len(TASKS), "nobody else's attempt was lost"
    assert {attempt.isolation for attempt in attempts} == {"process"}


def test_logs_are_each_one_s_own_and_bounded(ran, failures):
    for name in TASKS:
        for part in ("a", "c"):
            (log,) = ran.project.root.rglob(f"logs/run-1/small.{name}@{part}.1.log")
            assert log.read_text() == f"{name} of {part} begins, and ends no line"
    for name, most in (("prints_without_end", 100_000), ("prints_little_without_end", 10_000)):
        log = Path(failures[f"{name}@bad"]["log"]).read_bytes()
        assert most - 100 <= len(log) <= most
        assert b"bytes left out" in log
    assert sum(path.stat().st_size for path in ran.project.root.rglob("*.log")) < MEGABYTE


def test_nothing_is_left(ran):
    assert ran.left == [], "processes"
    state = ran.project.root / ".sidestage"
    assert list((state / "scratch").iterdir()) == []
    published = sorted(str(path.parent.name) for path in (state / "lake").rglob("*") if path.is_file())
    assert published == sorted([*TASKS, *TASKS]), "half-written files, or too few whole ones"


def test_memory_stays_bounded_whatever_tasks_print_and_return(ran):
    assert ran.peak_bytes < 400 * MEGABYTE


def test_people_are_told(ran):
    assert "Traceback" not in ran.error
    assert "forks@bad failed (bug)" in ran.error


def test_a_task_that_forks_and_lets_both_go_on_publishes_once(new_project):
    project = new_project(
        """
        import os
        import pyarrow as pa
        from collections.abc import Iterator
        from sidestage import Dataset, Partition, Pipeline, Static, Value

        pipeline = Pipeline("small")
        parts = Static(["a", "b", "c"])

        def rows():
            yield {"n": 1}
            os.fork()
            yield {"n": 2}

        @pipeline.task(writes=Dataset("table", parts))
        def table(part: Partition) -> pa.Table:
            os.fork()
            return pa.table({"n": [1, 2]})

        @pipeline.task(writes=Dataset("lazily", parts))
        def lazily(part: Partition) -> Iterator[dict]:
            return rows()

        @pipeline.task(writes=Value("value", parts))
        def value(part: Partition) -> int:
            if os.fork() == 0:
                raise SystemExit(3)
            return 1
        """
    )
    project("run")
    with open_store(f"sqlite:///{project.root}/.sidestage/catalog.db") as store:
        attempts = store.attempts(1)
    assert [(attempt.number, attempt.state) for attempt in attempts] == [(1, "done")] * 9
    for dataset in ("table", "lazily"):
        counted = f"select count(*) rows, sum(n) total from production.{dataset}"
        assert project("sql", counted, "--json").json == [{"rows": 6, "total": 9}]


def test_output_of_any_size_is_written_with_bounded_memory(new_project):
    project = new_project(
        """
        import os, resource
        from collections.abc import Iterator
        import pyarrow as pa
        from sidestage import Dataset, Partition, Pipeline

        pipeline = Pipeline("small")
        batch = pa.record_batch({"payload": pa.array([os.urandom(1 << 16)] * 16)})

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

        def batches():
            for number in range(450):
                if number in (250, 449):
                    with open("{LEDGER}", "a") as file:
                        file.write(f"{peak()}\\n")
                yield batch

        @pipeline.task(writes=Dataset("large"))
        def make(part: Partition) -> Iterator[pa.RecordBatch]:
            return batches()
        """
    )
    project("run")
    after_250, after_450 = map(int, project.done())
    assert after_450 < 600, "megabytes, for 470 megabytes in row groups of 64"
    assert after_450 - after_250 < 70, "megabytes by which 200 megabytes more made the process larger"
    assert project("datasets", "--json").json[0]["rows"] == 450 * 16
