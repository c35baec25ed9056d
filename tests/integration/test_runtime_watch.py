"""What a parent sees of a worker and all it started: real processes that hold, burn and write."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sidestage.clock import SystemClock
from sidestage.policy.limits import Limits
from sidestage.runtime.watch import Watch

SOURCE = Path(__file__).parents[2] / "src"
DEADLINE_SECONDS = 180.0
MB = 1_000_000
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Does what it is told line by line, and says "done" after each. What it starts stays until it is killed.
WORKER = """
import os, subprocess, sys, tempfile, time
from sidestage.runtime.orphans import become_subreaper

become_subreaper()
kept = []

def fill(mb):
    block = bytearray(int(mb) * 1_000_000)
    block[::4096] = b"x" * len(range(0, len(block), 4096))
    kept.append(block)

def started(what, amount, leave):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if leave:  # the session, and the parent
            os.setsid()
            if os.fork():
                os._exit(0)
        {"fill": fill, "burn": burn, "nothing": lambda _: None}[what](amount)
        os.write(writer, b"x")
        time.sleep(600)
    os.read(reader, 1)

def burn(seconds):
    until = time.process_time() + float(seconds)
    while time.process_time() < until:
        pass

def nameless(mb):
    file = tempfile.TemporaryFile(dir=".")
    file.write(os.urandom(int(mb) * 1_000_000))
    file.flush()
    kept.append(file)

print("done", flush=True)
for line in sys.stdin:
    words = line.split()
    match words:
        case ["fill", mb]: fill(mb)
        case ["burn", seconds]: burn(seconds)
        case ["nameless", mb]: nameless(mb)
        case ["child", what, amount]: started(what, amount, leave=False)
        case ["stray", what, amount]: started(what, amount, leave=True)
        case ["ended", seconds]:
            subprocess.run([sys.executable, "-c", f"import time\\nwhile time.process_time() < {seconds}: pass"])
        case ["map", file]:
            import mmap
            mapped = mmap.mmap(os.open(file, os.O_RDONLY), 0, prot=mmap.PROT_READ)
            kept.append((mapped, sum(mapped[::4096])))
    print("done", flush=True)
"""


class Worker:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self._wait()

    def __call__(self, *words: object) -> None:
        print(*words, file=self.process.stdin, flush=True)
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "temporary"
    made.mkdir()
    return made


@pytest.fixture
def worker(folder):
    from sidestage.runtime.orphans import end_descendants

    made = Worker(folder)
    try:
        yield made
    finally:
        end_descendants(made.pid)
        made.process.kill()
        made.process.communicate()


class HandClock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


def watch(worker, folder, **limits):
    return Watch(worker.pid, Limits(**limits), folder, SystemClock())


def test_what_is_not_limited_is_not_exceeded(worker, folder):
    nothing = watch(worker, folder)
    worker("fill", 100)
    worker("nameless", 5)
    assert nothing.exceeded() is None


def test_time(worker, folder):
    clock = HandClock()
    watched = Watch(worker.pid, Limits(time=60), folder, clock)
    clock.seconds += 60
    assert watched.exceeded() is None
    clock.seconds += 1
    assert watched.exceeded() == "ran for 61 s, longer than its limit of 60 s"


def test_memory(worker, folder):
    watched = watch(worker, folder, memory="150 MB")
    assert watched.exceeded() is None
    worker("fill", 100)
    assert watched.exceeded() is None
    assert 100 * MB < watched.usage().memory < 130 * MB
    worker("fill", 60)
    said = watched.exceeded()
    assert said is not None
    assert said.startswith("used 1")
    assert said.endswith(" MB of memory, more than its limit of 150 MB")


@pytest.mark.parametrize("kind", ["child", "stray"])
def test_memory_of_what_it_started_counts(worker, folder, kind):
    watched = watch(worker, folder, memory="100 MB")
    worker(kind, "fill", 60)
    assert watched.exceeded() is None
    worker(kind, "fill", 60)
    assert "more than its limit of 100 MB" in watched.exceeded()


def test_pages_that_processes_share_count_once(worker, folder):
    worker("fill", 100)
    for _ in range(3):
        worker("child", "nothing", 0)
    watched = watch(worker, folder, memory="160 MB")  # counted each time it would be more than 400
    assert watched.exceeded() is None
    assert 100 * MB < watched.usage().memory < 150 * MB


def test_files_that_are_mapped_are_no_memory_of_its_own(worker, folder):
    large = folder / "large"
    large.write_bytes(os.urandom(100 * MB))
    watched = watch(worker, folder, memory="60 MB")
    worker("map", large)
    assert watched.exceeded() is None


@pytest.mark.parametrize("how", [("burn",), ("child", "burn"), ("stray", "burn"), ("ended",)])
def test_processor_time_of_all_since_the_watch_began(worker, folder, how):
    worker("burn", 0.6)
    watched = watch(worker, folder, cpu=0.5)
    assert watched.exceeded() is None
    worker(*how, 0.7)
    said = watched.exceeded()
    assert said is not None
    assert said.startswith("used 0.")
    assert said.endswith(" s of processor time, more than its limit of 0.5 s")


def looked(watched: Watch, most: int) -> str | None:
    for _ in range(most):
        said = watched.exceeded()
        if said is not None:
            return said
    return None


def test_temporary_files(worker, folder):
    watched = watch(worker, folder, temporary="2 MB")
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "one").write_bytes(os.urandom(1_500_000))
    assert looked(watched, 5) is None
    (folder / "two").write_bytes(os.urandom(1_000_000))
    said = looked(watched, 2)
    assert said is not None
    assert said.endswith("MB of temporary files, more than its limit of 2 MB")


def test_temporary_files_that_were_removed_do_not_count(worker, folder):
    watched = watch(worker, folder, temporary="2 MB")
    for _ in range(5):
        (folder / "one").write_bytes(os.urandom(1_500_000))
        assert watched.exceeded() is None
        (folder / "one").unlink()


def test_many_small_files_are_added_up_in_several_looks(worker, folder):
    for number in range(1000):
        (folder / f"{number}").write_bytes(b"x" * 4096)
    watched = watch(worker, folder, temporary="4 MB")
    assert watched.exceeded() is None, "the first look does not see all"
    assert looked(watched, 12) is not None


def test_links_are_not_followed_and_hard_links_count_once(worker, folder, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(os.urandom(5_000_000))
    (folder / "link").symlink_to(large)
    (folder / "round").symlink_to(folder)
    (folder / "one").write_bytes(os.urandom(1_500_000))
    os.link(folder / "one", folder / "two")
    assert looked(watch(worker, folder, temporary="2 MB"), 5) is None


def test_files_without_a_name_count(worker, folder, tmp_path):
    watched = watch(worker, folder, temporary="2 MB")
    worker("nameless", 1)
    assert watched.exceeded() is None
    worker("nameless", 2)
    assert "of temporary files" in watched.exceeded()
    assert watch(worker, tmp_path / "elsewhere", temporary="2 MB").exceeded() is None


def test_a_worker_that_is_gone_exceeds_nothing(worker, folder):
    watched = watch(worker, folder, memory=1, cpu=0.001, temporary=100 * MB)
    worker.process.kill()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while watched.usage().memory:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.process.communicate()
    assert watched.exceeded() is None


def test_looking_is_cheap(worker, folder):
    worker("fill", 150)
    worker("child", "nothing", 0)
    watched = watch(worker, folder, memory="1 GB", cpu=1000, time=1000, temporary="1 GB")
    spent = time.process_time()
    for _ in range(200):
        watched.exceeded()
    assert (time.process_time() - spent) / 200 < 0.005, "ten times what it takes on a machine at rest"
