from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidestage.data.check import Finding
from sidestage.data.version import Digest, Stored, Version
from sidestage.errors import NotFound
from sidestage.observe.status import FailedStep, ServiceStatus, Warned, read_run, read_status
from sidestage.runtime.logs import attempt_log
from sidestage.store.records import Claim, Demand, Environment, Failure, NewRun, NewStep, Publication
from sidestage.store.service_records import ServiceNote
from sidestage.store.sql import SqlStore, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WARNING = Finding("row_count(at_least=5)", passed=False, blocking=False, message="3 rows.", observed="3")


def published(claim: Claim) -> Publication:
    digest = Digest("a", 3, "0" * 32, ())
    stored = Stored(f"d/{claim.step}.parquet", 10, "0" * 32, (), digest)
    name, _, partition = claim.step.partition("@")
    version = Version(
        f"v{partition}", "d", partition, stored, "production", str(claim.run), claim.step, name, (), NOW, 0.1
    )
    return Publication(claim, version, (WARNING,))


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    store = open_store(f"sqlite:///{tmp_path / 'catalog.db'}")
    store.save_environment(Environment("production", None, "", "open", NOW))
    return store


def begun(store: SqlStore) -> tuple[int, tuple[Claim, ...]]:
    steps = [NewStep(f"p.t@{key}", "p.t", "d", key, None) for key in ("1", "2", "3")]
    run = store.begin_run(NewRun("p", "production", "c", "ann", "why", "{}"), steps, NOW)
    return run, store.claim(Demand("w", 3, lease=60, runs=[run]), NOW)


def test_a_run_in_detail_tells_failures_their_logs_and_warnings(store: SqlStore, tmp_path: Path) -> None:
    run, (one, two, three) = begun(store)
    log = attempt_log(tmp_path, run, three.step, 1)
    log.parent.mkdir()
    log.write_text("printed")
    store.settle([published(one), published(two), Failure(three, "bug", "broke")], NOW)
    details = read_run(store, run, tmp_path)
    assert details.steps == {"done": 2, "failed": 1}
    assert details.failures == (FailedStep("p.t@3", 1, "bug", "broke", str(log)),)
    assert details.warnings == (Warned("row_count(at_least=5)", 2, "p.t@1", "3 rows."),)
    store.close()


def test_an_unknown_run_is_said(store: SqlStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no run 7"):
        read_run(store, 7, tmp_path)
    store.close()


def test_status_counts_steps_and_names_the_first_failure(store: SqlStore) -> None:
    _, (one, two, _) = begun(store)
    store.settle([published(one), Failure(two, "bug", "broke")], NOW)
    (run,) = read_status(store).runs
    assert run.steps == {"done": 1, "failed": 1, "running": 1}
    assert run.first_failure == "p.t@2: broke"
    assert read_status(store).own_pointers == {"production": 1}
    store.close()


def test_a_service_that_nobody_gave_back_is_lost(store: SqlStore) -> None:
    said = ServiceNote("running", "steady", 2, "http://127.0.0.1:9100/metrics")
    for name, lease in (("p.held", 60.0), ("p.lost", 0.0)):
        fence = store.hold_service(name, "ann", lease=lease, now=NOW)
        assert fence == 1
        store.note_service(name, fence, said, NOW)
    store.hold_service("p.ended", "ann", lease=60, now=NOW)
    store.note_service("p.ended", 1, ServiceNote("ended"), NOW)
    store.release_service("p.ended", 1)
    assert read_status(store).services == (
        ServiceStatus("p.ended", "ended", None, NOW, 0, "", ""),
        ServiceStatus("p.held", "running", "ann", NOW, 2, "steady", said.url),
        ServiceStatus("p.lost", "lost", None, NOW, 2, "steady", ""),
    )
    store.close()
