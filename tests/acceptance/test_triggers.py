"""Runs that begin by themselves: no tick is skipped and none begins twice, whoever is killed meanwhile."""

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from crowd import ended, new_database, until
from tests.servers.postgresql import Server

from conftest import SmallProject
from sidestage import Every
from sidestage.pipeline.trigger import between
from sidestage.store.contract import Store
from sidestage.store.sql import open_store
from sidestage.store.tick_records import Tick, TriggerState

SECOND = Every(timedelta(seconds=1))

# Which names there are is read when the code is loaded; each but the first fails in its first three runs.
CODE = """
import os
from datetime import timedelta
from sidestage import Every, Partition, Pipeline, Retry, Static, Value

LEDGER = "{LEDGER}"
more = open(LEDGER + ".names").read().split() if os.path.exists(LEDGER + ".names") else []
said = Value("said", Static(["first", *more]))
pipeline = Pipeline("small", retry=Retry(times=0), trigger=Every(timedelta(seconds=1)))


@pipeline.task(writes=said)
def say(name: Partition) -> str:
    with open(LEDGER, "a") as ledger:
        ledger.write(name.key + "\\n")
    if name.key != "first" and open(LEDGER).read().split().count(name.key) <= 3:
        raise ValueError("not yet")
    return name.key
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        server = Server(Path(folder), ("fsync=off",))
        server.start()
        yield server
        server.stop(immediately=True)


@dataclass
class Ticking:
    """A project whose pipeline is due every second, and workers that come and go."""

    project: SmallProject
    store: Store
    workers: list["subprocess.Popen[str]"] = field(default_factory=list)  # noqa: F821

    def start(self, *words: str) -> None:
        self.workers.append(self.project.start("worker", "--slots", "1", *words))

    def kill(self, which: int) -> None:
        process = self.workers.pop(which)
        process.kill()
        process.communicate()

    def names(self, *names: str) -> None:
        """Let there be more partitions, for those that load the code from now on."""
        path = self.project.ledger.with_name(f"{self.project.ledger.name}.names")
        path.write_text(f"{path.read_text() if path.exists() else ''} {' '.join(names)}")

    @property
    def state(self) -> TriggerState:
        (state,) = self.store.triggers()
        return state

    def ticks(self) -> list[Tick]:
        return list(reversed(self.store.ticks("small", limit=100_000)))

    def wait_for_ticks(self, number: int) -> None:
        wanted = len(self.ticks()) + number
        until(lambda: len(self.ticks()) >= wanted, f"there are {wanted} ticks")

    def wait_until_due(self, number: int) -> None:
        """Let ticks pile up that nobody begins."""
        until(
            lambda: datetime.now(UTC) > self.state.reached + timedelta(seconds=number + 1),
            f"{number} ticks are due",
        )

    def check(self) -> None:
        """Every tick from the first on was recorded once, in order, and each has its run."""
        ticks = self.ticks()
        moments = [tick.at for tick in ticks]
        assert moments == list(between(SECOND, self.state.since, moments[-1]))
        begun = [tick.run for tick in ticks if tick.run is not None]
        runs = [run for run in self.store.runs(limit=100_000) if run.by == "trigger"]
        assert begun == sorted(run.id for run in runs), "no run but those of ticks, no two of one"
        assert len({run.reason for run in runs}) == len(runs)
        assert all(run.created_at >= tick.at for run, tick in self._pairs(ticks))

    def _pairs(self, ticks: list[Tick]) -> Iterator[tuple]:
        for tick in ticks:
            if tick.run is not None:
                run = self.store.run(tick.run)
                assert run is not None
                assert run.reason == f"due at {tick.at:%Y-%m-%d %H:%M:%S} UTC"
                yield run, tick


@pytest.fixture(params=["sqlite", "postgresql"])
def ticking(request, new_project, tmp_path) -> Iterator[Ticking]:
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("server").url, template="template1")
    project = new_project(CODE, settings=f'[run]\nworkers = 1\n[state]\nstore = "{url}"\n')
    with contextlib.closing(open_store(url)) as store:
        ticking = Ticking(project, store)
        yield ticking
        while ticking.workers:
            ticking.kill(0)


on_sqlite = pytest.mark.parametrize("ticking", ["sqlite"], indirect=True)


@pytest.mark.slow
def test_killed_workers_skip_no_tick_and_begin_none_twice(ticking):
    """The dice say when who is killed; whatever they say, the same must hold."""
    dice = random.Random(5)
    ticking.project("run")
    assert ticking.store.triggers() == (), "an attended run looks at no trigger"
    for part in range(3):
        names = [f"{part}-{number}" for number in range(2)]
        ticking.names(*names)
        ticking.start()
        ticking.start()
        until(ticking.store.triggers, "a worker has looked")
        for _ in range(2):
            ticking.wait_for_ticks(dice.randint(1, 2))
            time.sleep(dice.random() / 2)
            ticking.kill(dice.randrange(2))
            ticking.start()
        ticking.wait_for_ticks(1)
        time.sleep(dice.random() / 2)
        ticking.kill(1)
        ticking.kill(0)
        if part < 2:
            ticking.wait_until_due(3)
    ticking.start()
    ticking.start()
    until(lambda: len(ticking.store.pointers("production")) == 7, "everything was made in the end")
    until(lambda: not ticking.store.open_runs(), "all runs have ended")
    ticking.wait_for_ticks(2)
    for process in ticking.workers:
        process.terminate()
    assert [ended(process).code for process in ticking.workers] == [0, 0]
    ticking.check()
    assert len([tick for tick in ticking.ticks() if tick.run is not None]) >= 4
    status = ticking.project("status", "--json").json["triggers"]
    assert [(each["pipeline"], each["trigger"]) for each in status] == [("small", "every 0:00:01")]


@on_sqlite
def test_a_tick_that_cannot_be_planned_stays_due_and_is_said_once(ticking):
    ticking.start()
    until(lambda: ticking.store.triggers() and ticking.state.held, "it was tried")
    since = ticking.state.since
    late = lambda: ticking.project("status", "--json").json["triggers"][0]["late"]  # noqa: E731
    until(late, "it is late")
    shown = ticking.project("status").out
    assert "trigger of small, every 0:00:01: no tick yet, late since" in shown
    assert "Production was not given all the code of 'small' yet." in shown
    assert ticking.ticks() == []
    ticking.project("run")
    until(ticking.ticks, "what was due is begun")
    ticking.workers[0].terminate()
    result = ended(ticking.workers[0])
    assert result.code == 0
    assert result.err.count("cannot begin") == result.err.count("Production was not given") == 1
    assert ticking.state.since == since
    ticking.check()


@on_sqlite
def test_who_works_until_idle_begins_what_is_due_and_leaves_what_will_be(ticking):
    ticking.project("run")
    ticking.project("worker", "--until-idle", "--no-triggers")
    assert ticking.store.triggers() == ()
    ticking.project("worker", "--until-idle")
    ticking.names("a")
    ticking.wait_until_due(3)
    before = datetime.now(UTC)
    ticking.project("worker", "--until-idle")
    ticking.check()
    ticks = ticking.ticks()
    assert ticks[-1].at >= before - timedelta(seconds=1)
    assert any(tick.run is not None for tick in ticks)
    assert ticking.store.open_runs() == ()
    status = ticking.project("status").out
    assert "trigger of small, every 0:00:01: last " in status


@on_sqlite
def test_a_run_that_is_open_keeps_the_next_tick_waiting(ticking):
    ticking.project("run")
    run = ticking.project("run", "--recompute", "--reason", "again", "--detach", "--json").json["run"]
    ticking.start("--queue", "nobody's")
    until(ticking.store.triggers, "a worker has looked")
    late: Callable[[], bool] = lambda: ticking.project("status", "--json").json["triggers"][0]["late"]  # noqa: E731
    until(late, "the next tick is late")
    assert f"It waits for the end of run {run}." in ticking.project("status").out
    assert ticking.ticks() == []
    ticking.project("cancel", str(run))
    until(ticking.ticks, "it was begun")
    ticking.check()


@on_sqlite
def test_code_that_cannot_be_loaded_leaves_ticks_to_others(ticking):
    ticking.project("run")
    ticking.project("worker", "--until-idle")
    ticking.project.edit("import os\n", "import os, nonsense_that_is_not_there\n")
    result = ticking.project("worker", "--until-idle")
    assert "Triggers are left to other workers: " in result.err
    assert "nonsense_that_is_not_there" in result.err
    assert "Traceback" not in result.err
