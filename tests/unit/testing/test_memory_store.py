"""What the store in memory adds to the contract: its clock, its atomicity, its many handles, its speed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from tests.contract.making import NOON, a_move, at, begin, output, publish, step, take

import sidestage
from sidestage.errors import SidestageError, StoreError
from sidestage.store.contract import Store
from sidestage.store.records import Demand, Environment, Failure, Publication, Worker
from sidestage.testing.memory_store import MemoryStore, open_memory_store
from sidestage.testing.turned_clock import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> MemoryStore:
    store = open_memory_store(clock.monotonic)
    store.save_environment(Environment("production", None, "", "open", NOON))
    store.save_environment(Environment("fix", "production", "git:abc", "open", NOON))
    return store


def a_worker(name: str) -> Worker:
    return Worker(name, ("default",), 1, draining=False, started_at=NOON, seen_at=NOON)


def test_it_is_a_store(store: MemoryStore) -> None:
    as_one: Store = store
    assert as_one.open_runs() == ()


# Leases


def test_leases_are_measured_by_the_clock_it_was_given(store: MemoryStore, clock: HandClock) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run, lease=10.0)
    clock.advance(9.0)
    assert store.next_due() == 1.0
    assert take(store, run, owner="w2") == []
    clock.set_wall_clock(at(10_000))
    assert take(store, run, owner="w2") == []
    clock.advance(1.0)
    (taken,) = take(store, run, owner="w2")
    assert (taken.owner, taken.fence) == ("w2", claim.fence + 1)
    assert publish(store, claim, "v1") == "fenced"


def test_a_heartbeat_moves_the_end_of_the_lease(store: MemoryStore, clock: HandClock) -> None:
    run = begin(store, step("s1"))
    take(store, run, lease=10.0)
    worker = a_worker("w1")
    for _ in range(20):
        clock.advance(9.0)
        assert len(store.beat(worker, lease=10.0, now=NOON).held) == 1
        assert take(store, run, owner="w2") == []
    assert store.next_due() == 10.0
    clock.advance(10.0)
    assert [each.owner for each in take(store, run, owner="w2")] == ["w2"]


def test_a_retry_becomes_due_in_time(store: MemoryStore, clock: HandClock) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    store.settle([Failure(claim, "transient", "later", retry_in=5.0)], at(2))
    clock.advance(4.9)
    assert take(store, run) == []
    clock.advance(0.1)
    assert [each.attempt for each in take(store, run)] == [2]


def test_a_dead_worker_is_forgotten_after_a_day(store: MemoryStore, clock: HandClock) -> None:
    store.beat(a_worker("old"), lease=1.0, now=NOON)
    clock.advance(24 * 3600 + 2)
    store.beat(a_worker("new"), lease=1.0, now=NOON)
    assert [each.name for each in store.workers()] == ["new"]


# Atomic, shared


def everything(store: MemoryStore) -> object:
    runs = store.runs(limit=100)
    return (
        runs,
        [store.steps(run.id) for run in runs],
        [store.attempts(run.id) for run in runs],
        store.pointers("production"),
        store.pointer_log(),
        store.events(),
        store.moves(),
        store.environments(),
        store.released("production"),
        list(store.all_versions()),
        store.waiting(),
        store.holdings(),
        store.next_due(),
    )


def test_a_call_that_raises_changes_nothing(store: MemoryStore) -> None:
    run = begin(store, step("s1"), step("s2"), step("t1", "s1"))
    one, two = take(store, run)
    publish(store, one, "v1")
    before = everything(store)
    naive = NOON.replace(tzinfo=None)
    good = Publication(two, output(store, two, "v2"))
    bad = Publication(two, msgspec.structs.replace(good.version, created_at=naive))
    refused = [
        lambda: begin(store, step("x"), step("x")),
        lambda: begin(store, step("x"), environment="nowhere"),
        lambda: store.settle([good, bad], at(3)),
        lambda: store.settle([good], naive),
        lambda: store.claim(Demand("w", 9, lease=1.0), naive),
        lambda: store.move(a_move(("s1", "v1", None), ("s2", "other", None)), at(3)),
        lambda: store.move(a_move(("s1", "v1", None), undoes=5), at(3)),
        lambda: store.end_run(77, "done", at(3)),
        lambda: store.reopen_run(77),
        lambda: store.save_environment(Environment("e", None, "", "open", naive)),
    ]
    for call in refused:
        with pytest.raises(SidestageError):
            call()
        assert everything(store) == before
    assert store.settle([good], at(3))[0].result == "done"


def test_handles_share_their_tables_and_nothing_else_does(store: MemoryStore, clock: HandClock) -> None:
    with store.again() as other:
        begin(other, step("s1"))
    assert len(store.runs()) == 1
    with pytest.raises(SidestageError):
        begin(open_memory_store(clock.monotonic), step("s1"))


def test_each_ear_hears_for_itself(store: MemoryStore) -> None:
    one, two = store.listen(), store.again().listen()
    begin(store, step("s1"))
    assert (one.heard(), two.heard(), one.heard(), two.heard()) == (True, True, False, False)
    assert one.fileno() is None


def test_a_moment_without_a_time_zone_is_refused(store: MemoryStore) -> None:
    with pytest.raises(StoreError, match="time zone"):
        store.unreferenced_versions(NOON.replace(tzinfo=None))


# What it costs


def test_a_call_costs_what_it_touches_not_what_is_there(store: MemoryStore) -> None:
    """Ten thousand steps, one at a time: a call that looked at all of them would take minutes."""
    run = begin(store, *(step(f"s{n:05}") for n in range(10_000)))
    began = time.process_time()
    for _ in range(10_000):
        (claim,) = store.claim(Demand("w1", 1, lease=60.0, runs=[run]), NOON)
        store.settle([Failure(claim, "bug", "no")], NOON)
    assert time.process_time() - began < 10
    assert store.open_runs() == ()


def test_nothing_heavy_is_loaded_for_it() -> None:
    code = (
        "import sys, sidestage.testing.simulate, sidestage.testing.turned_clock\n"
        "print([name for name in ('sqlalchemy', 'pyarrow', 'duckdb', 'numpy', 'rich') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sidestage.__file__).parents[1])}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert told.stdout.strip() == "[]"
