"""Services on real workers: one at a time runs each, whoever is killed, paused or told to stop."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from crowd import ended, is_alive, told, until

from conftest import SmallProject
from sidestage.store.contract import Store
from sidestage.store.service_records import ServiceState
from sidestage.store.sql import open_store

# Two streams that follow one file: one writes in transactions, one keeps a checkpoint. Both say who wrote when.
CODE = """
import os
import time
from sidestage import Pipeline, ServiceContext, Stream
from sidestage.connectors.sql_table import SqlTransactionalTable
from sidestage.connectors.tail import Tail
from sidestage.stream import Called, Flow, Restart, Settings

LEDGER = "{LEDGER}"
RELEASE = "first"
pipeline = Pipeline("small")
restart = Restart(times=20, delay=0.1, longest=0.5)


def note(service):
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{time.monotonic():.6f} {os.getpid()} {service} {RELEASE}\\n")


def numbers():
    return Stream(Tail(LEDGER + ".lines", poll=0.02), name="numbers").map(int)


@pipeline.service(restart=restart)
def table() -> Flow:
    def row(n):
        note("table")
        return {"n": n, "pid": os.getpid()}

    sink = SqlTransactionalTable(url=f"sqlite:///{LEDGER}.db", table="written", stream="numbers")
    return numbers().map(row).to(sink).with_settings(Settings(commit_every=0.1))


@pipeline.service(name="lines", restart=restart)
def append(context: ServiceContext) -> Flow:
    def write(items):
        note("lines")
        with open(LEDGER + ".written", "a") as written:
            written.write("".join(f"{n}\\n" for n in items))
            written.flush()
            os.fsync(written.fileno())

    (context.folder / context.name).touch()
    return numbers().to(Called(write)).with_settings(Settings(commit_every=0.1))
"""
NAMES = ("small.lines", "small.table")


@dataclass
class Field:
    """A project with two services, and the workers that come and go."""

    project: SmallProject
    store: Store
    workers: list["subprocess.Popen[str]"] = field(default_factory=list)
    appended: int = 0

    def worker(self) -> "subprocess.Popen[str]":
        self.workers.append(self.project.start("worker", "--slots", "1"))
        return self.workers[-1]

    def append(self, number: int = 50) -> None:
        with self.project.ledger.with_name(f"{self.project.ledger.name}.lines").open("a") as lines:
            for n in range(self.appended, self.appended + number):
                lines.write(f"{n}\n")
        self.appended += number

    def table(self) -> list[int]:
        with contextlib.closing(sqlite3.connect(f"{self.project.ledger}.db", timeout=60)) as database:
            return [row[0] for row in database.execute("SELECT n FROM written ORDER BY n")]

    def lines(self) -> list[int]:
        path = self.project.ledger.with_name(f"{self.project.ledger.name}.written")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_until_written(self) -> None:
        wanted = set(range(self.appended))
        until(lambda: wanted <= set(self.table()), "all of it is in the table")
        until(lambda: wanted <= set(self.lines()), "all of it is in the file")

    def state(self, service: str) -> ServiceState | None:
        return next((each for each in self.store.services() if each.service == service), None)

    def are(self, condition: str) -> bool:
        states = [self.state(name) for name in NAMES]
        return all(state is not None and state.said.state == condition for state in states)

    def are_noted(self, note: str) -> bool:
        return all(state.said.note == note for state in self.store.services())

    def notes(self, service: str = "") -> list[tuple[float, int, str]]:
        noted = (line.split() for line in self.project.done())
        return [(float(at), int(pid), release) for at, pid, who, release in noted if service in ("", who)]

    def pid(self, service: str) -> int:
        """Return the newest process that wrote for a service."""
        return self.notes(service)[-1][1]

    def check(self) -> None:
        """Each line is in the table once, and in the file; no two processes wrote at the same time."""
        self.wait_until_written()
        assert self.table() == list(range(self.appended))
        for service in ("table", "lines"):
            order = [pid for _, pid, _ in sorted(self.notes(service))]
            turns = [pid for number, pid in enumerate(order) if number == 0 or order[number - 1] != pid]
            assert len(turns) == len(set(turns)), f"{service}: two processes wrote at the same time"

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.communicate()


@pytest.fixture
def lease() -> float:
    """Seconds, so many that no worker loses a service for being slow."""
    return 60.0


@pytest.fixture
def open_field(new_project, lease) -> Iterator[Field]:
    project = new_project(CODE, settings=f"[run]\nworkers = 1\nlease = {lease}\n")
    project("run")
    with contextlib.closing(sqlite3.connect(f"{project.ledger}.db")) as database:
        database.execute("CREATE TABLE written (n INTEGER, pid INTEGER)")
    with contextlib.closing(open_store(f"sqlite:///{project.root}/.sidestage/catalog.db")) as store:
        opened = Field(project, store)
        yield opened
        opened.close()


def test_of_two_workers_one_runs_each_and_the_other_takes_over(open_field: Field) -> None:
    open_field.append()
    workers = {str(each.pid): each for each in (open_field.worker(), open_field.worker())}
    open_field.wait_until_written()
    until(lambda: open_field.are("running"), "both run")
    state = open_field.state("small.table")
    assert state is not None
    holder = str(state.owner).split(":")[1]
    pid = open_field.pid("table")
    workers[holder].kill()
    until(lambda: not is_alive(pid), "its process dies with it")
    open_field.append()
    open_field.wait_until_written()
    taken = open_field.state("small.table")
    assert taken is not None
    assert taken.owner != state.owner
    assert taken.fence == state.fence + 1
    open_field.check()


def test_a_service_whose_process_is_killed_is_started_again(open_field: Field) -> None:
    worker = open_field.worker()
    for number in range(1, 3):
        open_field.append()
        open_field.wait_until_written()
        os.kill(open_field.pid("table"), signal.SIGKILL)
        os.kill(open_field.pid("lines"), signal.SIGKILL)
        until(
            lambda number=number: all(
                state.said.restarts == number and state.said.state == "running"
                for state in open_field.store.services()
            ),
            "both were started again",
        )
    open_field.append()
    open_field.check()
    (found,) = {state.owner for state in open_field.store.services()}
    assert str(worker.pid) in str(found)
    shown = open_field.project("status", "--json").json["services"]
    assert [(each["service"], each["state"], each["restarts"]) for each in shown] == [
        ("small.lines", "running", 2),
        ("small.table", "running", 2),
    ]
    assert shown[0]["note"] == "its process was killed by SIGKILL"
    with urllib.request.urlopen(shown[0]["url"], timeout=30) as answer:
        assert 'pipeline_phase{phase="steady"} 1' in answer.read().decode()
    assert "service small.table running since" in open_field.project("status").out
    open_field.project("drain", str(found))
    assert ended(worker).code == 0
    assert open_field.are("stopped")


def test_a_worker_that_is_told_to_stop_drains_its_services(open_field: Field) -> None:
    worker = open_field.worker()
    open_field.append()
    open_field.wait_until_written()
    pids = {open_field.pid("table"), open_field.pid("lines")}
    worker.send_signal(signal.SIGTERM)
    assert ended(worker).code == 0
    assert not any(is_alive(pid) for pid in pids)
    assert open_field.are("stopped")
    assert {state.owner for state in open_field.store.services()} == {None}
    log = open_field.project.root / ".sidestage" / "services" / "small.lines" / "log"
    events = [json.loads(line)["type"] for line in log.read_text().splitlines()]
    assert events == ["StreamStarted", "StreamBooted", "StreamDraining", "StreamEnded"]
    open_field.append()
    open_field.worker()
    open_field.check()
    assert open_field.lines() == list(range(open_field.appended)), "after a drain nothing is done twice"


@pytest.mark.parametrize("lease", [5.0])
def test_a_worker_that_is_paused_loses_its_services(open_field: Field) -> None:
    paused = open_field.worker()
    open_field.append()
    open_field.wait_until_written()
    pids = {open_field.pid("table"), open_field.pid("lines")}
    paused.send_signal(signal.SIGSTOP)
    until(lambda: not any(is_alive(pid) for pid in pids), "its processes stop by themselves")
    other = open_field.worker()
    open_field.append()
    open_field.wait_until_written()
    assert {str(state.owner).split(":")[1] for state in open_field.store.services()} == {str(other.pid)}
    paused.send_signal(signal.SIGCONT)
    open_field.append()
    open_field.wait_until_written()
    told(paused, "was taken over by another worker")
    paused.send_signal(signal.SIGTERM)
    assert ended(paused).code == 0
    assert {str(state.owner).split(":")[1] for state in open_field.store.services()} == {str(other.pid)}
    open_field.check()


def test_new_code_is_run_once_production_was_given_it(open_field: Field) -> None:
    project = open_field.project
    worker = open_field.worker()
    open_field.append()
    open_field.wait_until_written()
    project.edit('RELEASE = "first"', 'RELEASE = "second"')
    project("stage", "--code", ".", "--name", "fix")
    time.sleep(0.5)
    assert {release for _, _, release in open_field.notes()} == {"first"}, "no candidate is run"
    project("compare", "fix")
    project("promote", "fix")
    until(
        lambda: open_field.are("running") and open_field.are_noted("production was given other code"),
        "both were begun anew",
    )
    open_field.append()
    open_field.check()
    assert {release for _, _, release in open_field.notes()} == {"first", "second"}
    assert worker.poll() is None
    project.edit('RELEASE = "second"', 'RELEASE = "third"')
    os.kill(open_field.pid("table"), signal.SIGKILL)
    waiting = "waiting"
    until(lambda: open_field.state("small.table").said.state == waiting, "what was not promoted is not run")


def test_what_fails_too_often_is_left_alone_until_somebody_asks(new_project) -> None:
    code = """
        import os
        from sidestage import Pipeline, Stream
        from sidestage.stream import Collected, Restart

        pipeline = Pipeline("small")


        @pipeline.service(restart=Restart(times=1, delay=0.1))
        def fragile():
            with open("{LEDGER}", "a") as ledger:
                ledger.write("begun\\n")
            raise ValueError("no luck")


        @pipeline.service()
        def short():
            return Stream([1, 2, 3]).to(Collected())
        """
    project = new_project(code)
    project("run")
    with contextlib.closing(open_store(f"sqlite:///{project.root}/.sidestage/catalog.db")) as store:
        opened = Field(project, store)
        try:
            opened.worker()
            until(
                lambda: (state := opened.state("small.fragile")) and state.said.state == "failed", "it failed"
            )
            until(lambda: (state := opened.state("small.short")) and state.said.state == "ended", "it ended")
            assert opened.state("small.fragile").said.note == "ValueError: no luck"
            assert project.done() == ["begun"] * 2
            shown = project("status").out
            assert "service small.fragile failed since" in shown
            assert "next: sidestage stream restart small.fragile" in shown
            project("stream", "restart", "small.fragile")
            until(lambda: len(project.done()) == 4, "it was tried again")
            assert "No worker ever held" in project("stream", "restart", "small.none", expect=2).err
        finally:
            opened.close()


def test_a_second_signal_cancels_what_does_not_come_to_an_end(new_project) -> None:
    code = """
        import os, time
        from sidestage import Pipeline, Stream
        from sidestage.stream import Called, Settings

        pipeline = Pipeline("small")


        def slow(n):
            with open("{LEDGER}", "a") as ledger:
                ledger.write(f"{os.getpid()}\\n")
            time.sleep(3600)


        @pipeline.service()
        def endless():
            return Stream(range(9)).map(slow).to(Called(print)).with_settings(Settings(grace=0.2))
        """
    project = new_project(code)
    project("run")
    with contextlib.closing(open_store(f"sqlite:///{project.root}/.sidestage/catalog.db")) as store:
        opened = Field(project, store)
        try:
            worker = opened.worker()
            until(project.done, "it hangs")
            worker.send_signal(signal.SIGTERM)
            until(lambda: opened.state("small.endless").said.state == "draining", "it drains")
            assert worker.poll() is None
            worker.send_signal(signal.SIGTERM)
            assert ended(worker).code == 0
            assert not is_alive(int(project.done()[0]))
            assert opened.state("small.endless").owner is None
        finally:
            opened.close()
