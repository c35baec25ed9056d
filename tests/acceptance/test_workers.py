"""Several workers, on SQLite and on PostgreSQL: they share runs, take over from the dead, and do nothing twice."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from crowd import HEAVY, LASTING, WAIT_FOR, Crowd, crowd_of, ended, is_alive, most_at_once, until
from tests.servers.postgresql import Server

SHORT_LEASE = f"[run]\nlease = 2.5\n{HEAVY}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        server = Server(Path(folder), ("fsync=off",))
        server.start()
        yield server
        server.stop(immediately=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def crowd(request, tmp_path, tmp_path_factory, sidestage) -> Iterator[Crowd]:
    url = request.getfixturevalue("server").url if request.param == "postgresql" else None
    with crowd_of(tmp_path / "crowd", tmp_path_factory.getbasetemp() / "crowds", sidestage, url) as crowd:
        yield crowd


@pytest.fixture
def hosts(capsys) -> None:
    """Other hosts are what unshare(1) makes of this one, which only root may."""
    if os.getuid() != 0:
        with capsys.disabled():
            print("\nSKIPPED: other hosts can only be made by root")  # noqa: T201  # skipped aloud
        pytest.skip("needs root")


def test_workers_share_a_run_that_nobody_drives_and_each_serves_its_queue(crowd):
    crowd.script(f"{WAIT_FOR.format(what='both')}time.sleep(0.1)")
    run = crowd.detach()
    workers = [crowd.start("worker", "--slots", "1", "--queue", "default", "--until-idle") for _ in "ab"]
    until(lambda: len(crowd.steps("begin")) == 2, "both work")
    crowd.touch("both")
    until(lambda: len(crowd.steps("end")) >= 12, "the steps of the default queue are done")
    assert crowd.state(run) == "running"
    assert {step.state for step in crowd.store.steps(run) if step.queue == "gpu"} == {"ready"}
    assert [worker.poll() for worker in workers] == [None, None]
    other = crowd.start("worker", "--slots", "2", "--queue", "gpu", "--until-idle")
    results = [ended(each) for each in (*workers, other)]
    assert [result.code for result in results] == [0, 0, 0], results
    assert crowd.state(run) == "done"
    assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 18
    assert {attempt.state for attempt in crowd.attempts(run)} == {"done"}
    owners = {attempt.owner for attempt in crowd.attempts(run)}
    assert {int(owner.split(":")[1]) for owner in owners} == {each.pid for each in (*workers, other)}
    assert most_at_once([note for note in crowd.notes() if not note.step.startswith("draw")]) == 2


def test_what_a_killed_worker_ran_is_taken_over_long_before_its_lease_is_over(crowd):
    """On this host another worker sees at once that it is dead; elsewhere nothing says so but its lease."""
    crowd.settings(f"[run]\nlease = 3600.0\n{HEAVY}")
    crowd.script(WAIT_FOR.format(what="ok"))
    run = crowd.detach()
    killed = crowd.worker("--slots", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    children = psutil.Process(killed.pid).children(recursive=True)
    other = crowd.worker("--slots", "2", "--until-idle")
    killed.kill()
    crowd.touch("ok")
    result = ended(other)
    assert result.code == 0, result
    assert crowd.state(run) == "done"
    taken = [each for each in crowd.attempts(run) if each.number == 2]
    assert len(taken) == len(crowd.attempts(run, "abandoned")) == 2
    assert all(f":{other.pid}:" in each.owner for each in taken)
    assert f":{killed.pid}:" in result.err
    assert not any(is_alive(child.pid) for child in children)
    assert len(crowd.published(run)) == 18


def test_a_killed_worker_of_another_host_is_noticed_by_its_lease(crowd, hosts):
    crowd.settings(SHORT_LEASE)
    crowd.script(WAIT_FOR.format(what="ok"))
    run = crowd.detach()
    killed = crowd.start_elsewhere("worker", "--slots", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    begun = {f"small.{step}" for step in crowd.steps("begin")}
    other = crowd.worker("--slots", "2", "--until-idle")
    killed.kill()
    crowd.touch("ok")
    assert ended(other).code == 0
    assert begun <= {each.step for each in crowd.attempts(run, "abandoned")}
    assert begun <= {each.step for each in crowd.attempts(run, "done") if each.number > 1}
    assert crowd.state(run) == "done"


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_what_a_dead_workers_tasks_started_is_ended_by_its_neighbours(crowd):
    """Also what left the session of its task, which nothing but its mark tells apart."""
    crowd.script(
        "import subprocess\n"
        "if not os.path.exists(os.environ['LEDGER'] + '.ok'):\n"
        "    started = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    note('started', str(started.pid))\n"
        "    time.sleep(600)\n"
    )
    run = crowd.detach("small", "--task", "draw", "--partitions", "a")
    killed = crowd.worker("--slots", "1")
    until(lambda: crowd.notes("started"), "it has started something")
    other = crowd.worker("--slots", "1", "--until-idle")
    started = int(crowd.notes("started")[0].step)
    assert is_alive(started)
    crowd.touch("ok")
    killed.kill()
    assert ended(other).code == 0
    assert crowd.state(run) == "done"
    assert not is_alive(started)


def test_a_worker_that_stood_still_for_longer_than_its_lease_publishes_nothing(crowd):
    crowd.settings(SHORT_LEASE)
    crowd.script(WAIT_FOR.format(what="ok"))
    run = crowd.detach("small", "--task", "make", "--partitions", "a")
    late = crowd.worker("--slots", "1")
    until(lambda: crowd.notes("begin"), "the step runs")
    late.send_signal(signal.SIGSTOP)
    until(lambda: crowd.store.next_due() == 0.0, "its lease is over")
    crowd.touch("ok")
    until(lambda: len(crowd.files("made", "a")) == 2, "its task, which goes on, has written its output aside")
    (aside,) = set(crowd.files("made", "a")) - {crowd.shown("made", "a")}
    crowd.settings(LASTING + HEAVY)
    assert ended(crowd.start("worker", "--slots", "1", "--until-idle")).code == 0
    assert crowd.state(run) == "done"
    late.send_signal(signal.SIGCONT)
    late.terminate()
    assert ended(late).code == 0
    assert [each.state for each in crowd.attempts(run)] == ["abandoned", "done"]
    assert crowd.published(run) == ["made@a"]
    assert crowd.shown("made", "a") != aside
    crowd("clean", "--yes", "--grace", "0")
    assert not aside.exists()
    assert crowd.shown("made", "a").exists()
