"""Workers on PostgreSQL: called when there is something to do, and undisturbed by a server that crashes."""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from crowd import WAIT_FOR, crowd_of, ended, until
from tests.servers.postgresql import Server

pytestmark = pytest.mark.slow

# So long that it would never find out by itself, nor for the heartbeat that it sends.
NEVER = "[run]\nlease = 86400.0\n[pools.heavy]\nslots = 2\n"
ONLY_CALLED = """
import sys
import sidestage.project.working
import sidestage.run.dispatcher
from sidestage.cli.main import main

sidestage.run.dispatcher._LOOK_SECONDS = 86400.0
sidestage.project.working._TICK_SECONDS = 86400.0
sys.exit(main(["worker", "--slots", "1"]))
"""


@pytest.fixture
def server():
    """A server of one test, which may do with it as it likes."""
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        server = Server(Path(folder), ("fsync=off",))
        server.start()
        yield server
        server.stop(immediately=True)


@pytest.fixture
def crowd(tmp_path, sidestage, server):
    with crowd_of(tmp_path / "crowd", tmp_path / "crowds", sidestage, server.url) as crowd:
        yield crowd


def test_an_idle_worker_is_called_when_a_run_is_begun_also_after_its_line_was_cut(crowd, server, capsys):
    crowd.settings(NEVER)
    program = crowd.root.parent / "only_called.py"
    program.write_text(ONLY_CALLED)
    crowd.start_program(sys.executable, str(program))
    until(crowd.store.workers, "it works")
    delays = []
    for _ in range(3):
        run = crowd.detach("small", "--task", "draw", "--partitions", "a")
        crowd.wait(run)
        begun = crowd.store.run(run).created_at
        delays.append((crowd.attempts(run)[0].started_at - begun).total_seconds())
    # A worker that was called is there; what else waits would wait for a day.
    with psycopg.connect(crowd.url, autocommit=True) as connection:
        lines = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        assert connection.execute(f"SELECT count(pg_terminate_backend(pid)) {lines}").fetchone() == (1,)
        until(lambda: connection.execute(f"SELECT count(*) {lines}").fetchone() == (1,), "it listens again")
    run = crowd.detach("small", "--task", "draw", "--partitions", "b")
    crowd.wait(run)
    with capsys.disabled():
        print(f"\ncalled after {', '.join(f'{delay * 1000:.0f}' for delay in delays)} ms")  # noqa: T201


@pytest.mark.parametrize(("lease", "down"), [(60.0, 0.0), (1.0, 2.5)], ids=["short", "longer than a lease"])
def test_workers_go_on_by_themselves_after_the_server_crashed(crowd, server, lease, down):
    crowd.settings(f"[run]\nlease = {lease}\n[pools.heavy]\nslots = 2\n")
    crowd.script("time.sleep(0.3)")
    runs = [crowd.detach("small"), crowd.detach("slow")]
    workers = [crowd.start("worker", "--slots", "2") for _ in "ab"]
    for already in (4, 12):
        until(lambda: len(crowd.notes("end")) >= already, f"{already} steps are done")  # noqa: B023
        server.stop(immediately=True)
        time.sleep(down)
        server.start()
    for run in runs:
        crowd.wait(run)
    assert [worker.poll() for worker in workers] == [None, None]
    log = [(entry.run, entry.dataset, entry.partition) for entry in crowd.store.pointer_log(limit=1000)]
    assert Counter(log).most_common(1)[0][1] == 1
    assert sum(run in runs for run, _, _ in log) == 24
    if down == 0.0:
        assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 24
    for worker in workers:
        worker.terminate()
    assert [ended(worker).code for worker in workers] == [0, 0]


def test_a_worker_says_that_its_store_is_away_and_drains_when_it_is_back(crowd, server):
    """What it finished meanwhile is published then, if nobody took it over."""
    crowd.settings("[run]\nlease = 3600.0\n[pools.heavy]\nslots = 2\n")
    crowd.script(WAIT_FOR.format(what="ok"))
    run = crowd.detach("small", "--task", "draw")
    worker = crowd.worker("--slots", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    server.stop(immediately=True)
    crowd.touch("ok")
    until(lambda: len(crowd.notes("end")) == 2, "both end while the store is away")
    worker.terminate()
    server.start()
    result = ended(worker)
    assert result.code == 0, result
    assert len(crowd.published(run)) == 2
    assert len(crowd.notes("begin")) == 2
