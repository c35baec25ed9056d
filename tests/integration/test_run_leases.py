"""Who may run what: leases that run out, runs that were begun elsewhere, locks and scratch of processes."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from sidestage.errors import NameRefused, StoreError
from sidestage.plan.world import Selection
from sidestage.project.candidates import new_environment
from sidestage.project.project import Project
from sidestage.run.dispatcher import Dispatcher
from sidestage.runtime.alone import Occupied, alone
from sidestage.runtime.lifeline import is_dead, is_living, scratch_is_dead, scratch_name, this_process
from sidestage.store.records import Demand, Environment, NewRun, NewStep, Worker

CODE = """
import time
import pyarrow as pa
from sidestage import Dataset, Partition, Pipeline, Static

parts = Static(["slow", *(f"quick{number}" for number in range(20))])
rows = Dataset("rows", parts)
pipeline = Pipeline("small")

@pipeline.task(writes=rows)
def make(part: Partition) -> pa.Table:
    time.sleep(1.0 if part.key == "slow" else 0.1)
    return pa.table({"n": [1]})
"""


@pytest.fixture
def project(new_project, sidestage, monkeypatch):
    for name, value in sidestage.environment.items():
        monkeypatch.setenv(name, value)
    with Project(new_project(CODE).root) as opened:
        yield opened


def begin_elsewhere(project, lease):
    """Record a run that a process of another host is executing."""
    now = datetime.now(UTC)
    project.store.save_environment(Environment("production", None, "", "open", now))
    there = Worker("elsewhere:17:4711", (), 1, draining=False, started_at=now, seen_at=now)
    project.store.beat(there, lease=lease, now=now)
    run = NewRun("small", "production", "tree", "ann", "", "{}", driver=there.name)
    step = NewStep("small.make@slow", "small.make", "rows", "slow", None)
    run_id = project.store.begin_run(run, [step], now)
    assert len(project.store.claim(Demand("elsewhere:17:4711", 5, lease=lease, runs=[run_id]), now)) == 1
    return run_id


def test_a_run_of_another_host_whose_lease_ran_out_is_taken_over(project):
    """As after a container was started anew, with another host name, on the same volume."""
    run_id = begin_elsewhere(project, lease=0.0)
    assert project.run(Selection("small")).state == "done"
    assert project.store.run(run_id).state == "cancelled"
    assert [entry.state for entry in project.store.attempts(run_id)] == ["abandoned"]


def test_a_run_of_another_host_that_holds_its_lease_is_left_alone(project):
    run_id = begin_elsewhere(project, lease=60.0)
    with pytest.raises(StoreError, match="elsewhere:17:4711"):
        project.run(Selection("small"))
    assert project.store.run(run_id).state == "running"
    assert project.store.pointers("production") == {}


def test_a_process_that_slept_through_its_leases_publishes_every_step_once(project, new_project, monkeypatch):
    """Its first attempt is fenced, and must not be taken for the second one, which runs at the same time."""
    settings = "[run]\nworkers = 2\nlease = 3.0\n"
    with Project(new_project(CODE, name="sleepy", settings=settings).root) as sleepy:
        beat = Dispatcher._beat
        slept = []

        def sleep_once(self):
            run = next((each.id for each in sleepy.store.open_runs()), 0)
            if not slept and len(sleepy.store.attempts(run, "small.make@slow")) == 1:
                # Its leases end now, as if it had slept for longer than they last.
                sleepy.store.beat(self._worker, lease=0.0, now=sleepy.clock.now())
                taken = sleepy.store.claim(Demand("other", 1, lease=0.0, runs=[run]), sleepy.clock.now())
                slept.extend(each.step for each in taken)
            beat(self)

        monkeypatch.setattr(Dispatcher, "_beat", sleep_once)
        summary = sleepy.run(Selection("small"))
        assert (summary.state, summary.published) == ("done", 21)
        assert slept == ["small.make@slow"]
        attempts = sleepy.store.attempts(summary.run, "small.make@slow")
        assert [entry.state for entry in attempts] == ["abandoned", "abandoned", "done"]
        log = sleepy.store.pointer_log(limit=1000)
        assert len(log) == len({entry.partition for entry in log}) == 21
        versions = sleepy.store.versions(sleepy.store.pointers("production").values()).values()
        assert all(version.id in version.stored.path for version in versions)
        lake = sleepy.layout.lake
        files = {path.relative_to(lake).as_posix() for path in lake.rglob("*.parquet")}
        assert {version.stored.path for version in versions} <= files


def test_a_lock_is_held_by_one_and_given_back_with_its_holder(tmp_path):
    lock = tmp_path / "locks" / "production.small.lock"
    code = (
        "import sys; from pathlib import Path; from sidestage.runtime.alone import alone\n"
        "with alone(Path(sys.argv[1]), 'host:1:2'):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Occupied) as refused, alone(lock, "other"):
            pass
        assert refused.value.holder == "host:1:2"
        holder.kill()
    with alone(lock, "other"):
        assert lock.read_text() == "other\n"


def test_scratch_says_whose_it_is(tmp_path):
    assert not scratch_is_dead(scratch_name("x"))
    host, pid, _ = this_process().rsplit(":", 2)
    assert scratch_is_dead(f"{host},{pid},1,x"), "that process number was another process then"
    assert not scratch_is_dead("notes"), "nobody knows whose that is"
    assert not is_dead("elsewhere:17:4711")


@pytest.mark.parametrize("name", ["production", "../x", "", "a b"])
def test_a_candidate_has_a_name_of_its_own(name):
    with pytest.raises(NameRefused):
        new_environment(name, "tree:1", datetime.now(UTC))


def test_a_process_of_this_host_that_is_slow_to_beat_is_not_taken_for_dead(project):
    """Or its files would be cleaned up while it writes them."""
    now = datetime.now(UTC)
    project.store.save_environment(Environment("production", None, "", "open", now))
    here = Worker(this_process(), (), 1, draining=False, started_at=now, seen_at=now)
    project.store.beat(here, lease=0.0, now=now)
    run = NewRun("small", "production", "tree", "ann", "", "{}", driver=here.name)
    project.store.begin_run(run, [NewStep("small.make@slow", "small.make", "rows", "slow", None)], now)
    assert is_living(this_process())
    assert not is_living("elsewhere:17:4711")
    assert project._execution.running_since() == now
    with pytest.raises(StoreError, match="is being executed"):
        project.run(Selection("small"))
