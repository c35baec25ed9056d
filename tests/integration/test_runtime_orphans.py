"""What tasks leave running is found and killed, and nothing else is."""

import os
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import psutil
import pytest

from sidestage.runtime import orphans
from sidestage.runtime.lifeline import this_process
from sidestage.runtime.orphans import (
    VARIABLE,
    descendants,
    end_descendants,
    end_group,
    end_orphans,
    family,
    mark,
)

SOURCE = Path(__file__).parents[2] / "src"
MARK = "SIDESTAGE_TEST_ORPHANS"
DEADLINE_SECONDS = 180.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SLEEP = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]

# A worker that starts things on a word, and ends what it left running on another.
WORKER = """
import os, subprocess, sys, time
from sidestage.runtime.orphans import become_subreaper, descendants, end_descendants

assert become_subreaper()
keep = ()

def forked(levels, leave):
    reader, writer = os.pipe()
    if os.fork() == 0:
        if leave:
            os.setsid()
        if levels > 1:
            forked(levels - 1, leave)
        os.write(writer, b"x")
        if leave and levels > 1:
            os._exit(0)  # what is below loses its parent
        time.sleep(600)
    os.read(reader, 1)

def relay():  # always another process: each starts the next one and ends
    if os.fork() == 0:
        os.setsid()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.002)
            if os.fork():
                os._exit(0)

def threaded():
    import threading
    thread = threading.Thread(target=lambda: subprocess.Popen(["sleep", "600"]))
    thread.start()
    thread.join()

print("up", flush=True)
for line in sys.stdin:
    match line.split():
        case ["tree", levels]: forked(int(levels), leave=False)
        case ["strays", levels]: forked(int(levels), leave=True)
        case ["relay"]: relay()
        case ["threaded"]: threaded()
        case ["keep"]: keep = descendants(os.getpid())
        case ["end"]:
            ended = end_descendants(os.getpid(), keep)
            print(*ended, sep=",", flush=True)
            continue
    print("done", flush=True)
"""


class Worker:
    def __init__(self, session: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER)],
            env={**os.environ, "PYTHONPATH": str(SOURCE), MARK: session},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "up\n"

    def __call__(self, *words: object) -> list[int]:
        print(*words, file=self.process.stdin, flush=True)
        said = self.process.stdout.readline().strip()
        return [] if said in ("", "done") else [int(word) for word in said.split(",")]


def marked(session: str) -> set[int]:
    """Return the living processes of a test, found in another way than by the code under test."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def session():
    word = uuid.uuid4().hex
    yield word
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left := marked(word):
        for pid in left:
            psutil.Process(pid).kill()
        assert time.monotonic() < deadline, "a process could not be killed"


@pytest.fixture
def worker(session):
    made = Worker(session)
    yield made
    end_descendants(made.pid)
    made.process.kill()
    made.process.communicate()


@pytest.fixture
def start(session):
    """Start processes that sleep, with an environment; they are killed in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def make(environment):
        process = subprocess.Popen(
            SLEEP, env={**environment, MARK: session}, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


def test_descendants_of_any_depth(worker, session):
    worker("tree", 3)
    assert len(descendants(worker.pid)) == 3
    assert {worker.pid, *descendants(worker.pid)} == marked(session)
    assert set(family(worker.pid)) == marked(session)
    assert family(worker.pid)[0] == worker.pid


def test_what_a_thread_that_is_gone_started(worker, session):
    worker("threaded")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(marked(session)) < 2:  # one that is just starting its program shows no environment for a moment
        assert time.monotonic() < deadline
    assert {worker.pid, *descendants(worker.pid)} == marked(session)
    assert len(worker("end")) == 1


@pytest.mark.parametrize(("what", "count", "stay"), [("tree", 3, 3), ("strays", 3, 1)])
def test_a_worker_ends_what_its_task_left(worker, session, what, count, stay):
    worker(what, count)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(before := marked(session)) != stay + 1:  # those that start the next one end by themselves
        assert time.monotonic() < deadline, before
    # One that ended by itself a moment ago may still be there to be reaped.
    there = {each.pid for each in psutil.Process(worker.pid).children(recursive=True)}
    killed = worker("end")
    assert before - {worker.pid} <= set(killed) <= there
    assert marked(session) == {worker.pid}
    assert psutil.Process(worker.pid).children() == [], "what ended was not reaped"


def test_processes_that_were_there_before_are_kept(worker, session):
    worker("tree", 1)
    worker("keep")
    kept = marked(session)
    worker("strays", 2)
    assert worker("end")
    assert marked(session) == kept
    assert worker("end") == []


def test_a_worker_that_left_nothing(worker, session):
    assert worker("end") == []
    assert marked(session) == {worker.pid}


def test_three_relays_of_processes_are_outrun(worker, session):
    for _ in range(3):
        worker("relay")
    assert worker("end")
    assert marked(session) == {worker.pid}
    assert psutil.Process(worker.pid).children(recursive=True) == []


def test_a_parent_ends_what_its_worker_started(worker, session):
    worker("tree", 2)
    before = marked(session)
    assert {worker.pid, *end_descendants(worker.pid)} == before
    assert marked(session) == {worker.pid}


def test_nobody_has_descendants_who_does_not_exist():
    assert descendants(2**22 + 1) == ()
    assert end_descendants(2**22 + 1) == ()


def test_the_mark_is_added_to_the_environment():
    environment = {"A": "1"}
    assert mark(environment, "me")["A"] == "1"
    assert mark(environment, "me")[VARIABLE] == "me"
    assert environment == {"A": "1"}


@pytest.fixture
def dead_owner():
    """The name of a process that is gone."""
    code = "from sidestage.runtime.lifeline import this_process; print(this_process())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


@pytest.fixture
def apart(session, monkeypatch):
    """A namespace of our own: commands that other tests run meanwhile end the orphans of theirs."""
    monkeypatch.setattr(orphans, "_namespace", lambda: session)
    return session


def test_orphans_are_ended_and_nobody_else(start, dead_owner, session, apart):
    others = {
        start(environment).pid
        for environment in (
            mark(os.environ, this_process()),
            dict(os.environ),
            mark(os.environ, f"elsewhere-{dead_owner}"),
            mark(os.environ, "nonsense"),
            {**os.environ, f"X{VARIABLE}": dead_owner},
        )
    }
    theirs = {start(mark(os.environ, dead_owner)).pid for _ in range(3)}
    assert set(end_orphans()) == theirs
    assert marked(session) == others
    assert end_orphans() == (), "each one is killed once"


def test_an_owner_in_another_namespace_is_not_judged(start, dead_owner, session):
    environment = mark(os.environ, dead_owner)
    environment[f"{VARIABLE}_NAMESPACE"] = "pid:[1]"
    stranger = start(environment)
    end_orphans()
    assert marked(session) == {stranger.pid}


def test_children_of_a_worker_that_was_killed_are_found_by_the_mark(start, session, apart):
    owner = start(dict(os.environ))
    name = f"{this_process().split(':')[0]}:{owner.pid}:{psutil_ticks(owner.pid)}"
    child = start(mark(os.environ, name))
    assert end_orphans() == ()
    owner.kill()
    owner.wait()
    assert end_orphans() == (child.pid,)
    assert marked(session) == set()


def psutil_ticks(pid: int) -> str:
    """Return when a process started, as the system counts."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_process_never_ends_itself(dead_owner, apart):
    code = """
        import os, sys
        from sidestage.runtime import orphans
        orphans._namespace = lambda: sys.argv[1]
        assert os.getpid() not in orphans.end_orphans()
        print("alive")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), apart],
        env={**mark(os.environ, dead_owner), "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "alive\n", ended.stderr


@pytest.mark.parametrize("asked", [True, False])
def test_a_subreaper_adopts_strays(session, asked):
    code = """
        import os, sys, time
        from sidestage.runtime.orphans import become_subreaper
        if sys.argv[1] == "True":
            assert become_subreaper()
        reader, writer = os.pipe()
        if os.fork() == 0:
            mother = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == mother:
                time.sleep(0.001)
            os.write(writer, str(os.getppid()).encode())
            os._exit(0)
        os.wait()
        print(int(os.read(reader, 20)) == os.getpid())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(asked)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), MARK: session},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert ended.stdout == f"{asked}\n"


def test_a_group_is_ended_wherever_it_went_and_no_other(start, session):
    mine = start(mark({**os.environ, MARK: session}, this_process(), "a group"))
    stray = start(mark({**os.environ, MARK: session}, "elsewhere:1:1", "a group"))
    theirs = start(mark({**os.environ, MARK: session}, this_process(), "another group"))
    unnamed = start(mark({**os.environ, MARK: session}, this_process()))
    assert set(end_group("a group")) == {mine.pid, stray.pid}
    assert end_group("a group") == ()
    assert marked(session) == {theirs.pid, unnamed.pid}
