"""Several processes at one store: killed at any moment, paused, all starting at once."""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidestage.data.version import Digest, Stored, Version
from sidestage.store.records import Claim, Demand, Environment, NewRun, NewStep, Publication
from sidestage.store.sql import SqlStore, open_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")

NOW = datetime(2013, 1, 1, tzinfo=UTC)
STORED = Stored("path", 1, "c", (), Digest("d1", 1, "0", ()))
KILLS = 20
STEPS = 3000
SEED = 20130101


class Process:
    """A forked child that does ``work`` and says things through a pipe."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.close(self.reading)
                work(writing)
                code = 0
            os._exit(code)
        os.close(writing)

    def wait(self) -> tuple[int, list[str]]:
        """Return the exit code (negative: signal) and the whole lines that it said."""
        with os.fdopen(self.reading, "rb") as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, [line.decode() for line in said.split(b"\n")[:-1]]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Children that do not outlive the test."""
    started: list[Process] = []
    yield started
    for each in started:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'store'}"
    with open_store(url) as store:
        store.save_environment(Environment("production", None, "", "open", NOW))
    return url


def begin(url: str, steps: int) -> int:
    # Every tenth step needs the nine before it.
    plan = [
        NewStep(
            f"s{n:05}",
            "t",
            "d",
            f"{n:05}",
            None,
            tuple(f"s{m:05}" for m in range(n - 9, n)) if n % 10 == 9 else (),
        )
        for n in range(steps)
    ]
    with open_store(url) as store:
        return store.begin_run(NewRun("p", "production", "", "", "", ""), plan, NOW)


def publication(claim: Claim) -> Publication:
    partition = claim.step[1:]
    name = f"{claim.step}.{claim.fence}"
    run = str(claim.run)
    version = Version(name, "d", partition, STORED, "production", run, claim.step, "c", (), NOW, 1.0)
    return Publication(claim, version)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def worker(url: str, run: int, owner: str, *, hold: bool = False) -> Callable[[int], None]:
    """Publish until nothing is left, and say each version only after it was acknowledged.

    With ``hold`` it claims and then does nothing, until it is killed.
    """

    def work(pipe: int) -> None:
        with open_store(url) as store:
            while any(each.state not in ("done", "failed") for each in store.steps(run)):
                for _ in range(20):
                    claims = store.claim(Demand(owner, 3, lease=60, runs=[run]), NOW)
                    if hold:
                        signal.pause()
                    outcomes = [publication(each) for each in claims]
                    for outcome, settled in zip(outcomes, store.settle(outcomes, NOW), strict=True):
                        os.write(pipe, f"{settled.result} {outcome.version.id}\n".encode())

    return work


def check_everything(store: SqlStore, run: int, acknowledged: set[str]) -> None:
    steps = store.steps(run)
    made = {each.version for each in steps if each.state == "done"}
    log = store.pointer_log(limit=10 * STEPS)
    assert acknowledged <= made, "something acknowledged was lost"
    assert set(store.pointers("production").values()) == made
    assert {each.id for each in store.all_versions()} == made
    assert len(log) == len(made), "something was published twice, or half"
    attempts = store.attempts(run)
    assert sum(each.state == "done" for each in attempts) == len(made)
    assert {each.state for each in attempts} <= {"done", "abandoned"}
    published = [each for each in store.events(limit=10 * STEPS) if each.kind == "StepPublished"]
    assert len(published) == len(made)


def test_nothing_acknowledged_is_lost_and_nothing_is_half_after_kills(
    url: str, processes: list[Process]
) -> None:
    chance = random.Random(SEED)
    run = begin(url, STEPS)
    acknowledged: set[str] = set()

    def take_in(process: Process, expected: int) -> None:
        code, said = process.wait()
        assert code == expected
        results = [line.split() for line in said]
        assert {result for result, _ in results} <= {"done"}
        acknowledged.update(version for _, version in results)

    def start(owner: str) -> Process:
        processes.append(Process(worker(url, run, owner)))
        return processes[-1]

    # The first is killed for certain while it holds claims; the moments of the others are drawn.
    processes.append(Process(worker(url, run, "other 0", hold=True)))
    other = processes[-1]
    with open_store(url) as store:
        wait_for(lambda: "other 0" in store.owners(run))
    steady = start("steady")
    for kill in range(1, KILLS + 1):
        time.sleep(chance.uniform(0.0, 0.12))
        other.signal(signal.SIGKILL)
        take_in(other, -signal.SIGKILL)
        with open_store(url) as store:
            store.abandon(f"other {kill - 1}", NOW, run=run)
            assert f"other {kill - 1}" not in store.owners(run)
        other = start(f"other {kill}")
    take_in(other, 0)
    take_in(steady, 0)
    with open_store(url) as store:
        assert {each.state for each in store.steps(run)} == {"done"}
        check_everything(store, run, acknowledged)
        assert any(each.state == "abandoned" for each in store.attempts(run)), "no kill ever hit a claim"


def test_a_paused_worker_that_wakes_up_late_is_refused(url: str, processes: list[Process]) -> None:
    run = begin(url, 1)

    def late(pipe: int) -> None:
        with open_store(url) as store:
            claims = store.claim(Demand("late", 1, lease=0.05, runs=[run]), NOW)
            os.write(pipe, b"claimed\n")
            os.kill(os.getpid(), signal.SIGSTOP)
            (settled,) = store.settle([publication(claims[0])], NOW)
            os.write(pipe, f"{settled.result}\n".encode())

    processes.append(Process(late))
    os.waitpid(processes[0].pid, os.WUNTRACED)
    with open_store(url) as store:
        claims: tuple[Claim, ...] = ()
        while not claims:
            claims = store.claim(Demand("prompt", 1, lease=60, runs=[run]), NOW)
            time.sleep(0.01)
        processes[0].signal(signal.SIGCONT)
        assert processes[0].wait() == (0, ["claimed", "fenced"])
        assert store.settle([publication(claims[0])], NOW)[0].result == "done"
        assert list(store.pointers("production").values()) == [f"s00000.{claims[0].fence}"]
        check_everything(store, run, set())


def test_many_readers_and_writers_never_meet_a_lock(url: str, processes: list[Process]) -> None:
    run = begin(url, 600)
    enough = 40

    def reader(pipe: int) -> None:
        for _ in range(enough):
            with open_store(url) as store:
                shown = store.pointers("production")
                assert len(store.versions(shown.values())) == len(shown)
                assert store.run(run) is not None
        os.write(pipe, b"read\n")

    processes.extend(Process(worker(url, run, f"w{n}")) for n in range(2))
    processes.extend(Process(reader) for _ in range(4))
    outcomes = [each.wait() for each in processes]
    assert [code for code, _ in outcomes] == [0] * 6
    assert sum(len(said) for _, said in outcomes[:2]) == 600
    assert all(said == ["read"] for _, said in outcomes[2:])


def test_processes_that_open_a_fresh_store_at_once_all_succeed(
    tmp_path: Path, processes: list[Process]
) -> None:
    for attempt in range(5):
        url = f"sqlite:///{tmp_path / f'fresh{attempt}'}"
        reading, writing = os.pipe()

        def opener(pipe: int, url: str = url, gate: int = reading, other: int = writing) -> None:
            os.close(other)
            os.read(gate, 1)  # returns for all at once, when the last writing end is closed
            with open_store(url) as store:
                store.save_environment(Environment(f"e{os.getpid()}", None, "", "open", NOW))
            os.write(pipe, b"opened\n")

        together = [Process(opener) for _ in range(4)]
        processes.extend(together)
        os.close(reading)
        os.close(writing)
        assert [each.wait() for each in together] == [(0, ["opened"])] * 4
        with open_store(url) as store:
            assert len(store.environments()) == 4
