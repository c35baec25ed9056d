"""What every store keeps of workers: claims under leases, heartbeats, queues, pools, and how runs end."""

import select

import msgspec
import pytest
from tests.contract.making import NOON, Opener, at, begin, output, publish, step, take

from sidestage.errors import NotFound, StoreError
from sidestage.policy.pool import Pool
from sidestage.store.contract import Store, Wakeups
from sidestage.store.records import Demand, Failure, Holding, NewRun, NewStep, Publication, Reuse, Worker


def worker(name: str = "w1", *, draining: bool = False) -> Worker:
    return Worker(name, ("default", "gpu"), 2, draining, NOON, NOON)


def put(each: NewStep, **changes: object) -> NewStep:
    return msgspec.structs.replace(each, **changes)


def state_of(store: Store, run: int) -> str:
    found = store.run(run)
    assert found is not None
    return found.state


# Leases


def test_a_heartbeat_extends_what_a_worker_runs_in_all_runs(store: Store) -> None:
    runs = [begin(store, step("s1"), step("s2")), begin(store, step("t1"))]
    for run in runs:
        take(store, run, limit=1)
    held = {(runs[0], "s1", 1), (runs[1], "t1", 1)}
    assert store.beat(worker(), lease=60.0, now=at(1)).held == held
    assert [each.step for each in take(store, runs[0], owner="w2")] == ["s2"]
    assert store.owners(runs[0]) == ("w1", "w2")
    assert store.beat(worker("w3"), lease=60.0, now=at(1)).held == frozenset()
    assert store.beat(worker(), lease=0.0, now=at(1)).held == held
    assert store.beat(worker(), lease=0.0, now=at(1)).held == held, "nobody took them over: still its own"
    assert {each.step for each in store.claim(Demand("w3", 5, lease=60.0), at(2))} == {"s1", "t1"}
    assert store.beat(worker(), lease=60.0, now=at(2)).held == frozenset()


def test_an_expired_lease_is_anybodys_and_its_holder_hears_of_it(store: Store) -> None:
    run = begin(store, step("s1"))
    (late,) = take(store, run, lease=0.0)
    (taken,) = store.claim(Demand("w2", 5, lease=60.0), at(2))
    assert (taken.step, taken.attempt, taken.fence) == ("s1", 2, 2)
    assert store.beat(worker(), lease=60.0, now=at(2)).held == frozenset()
    assert publish(store, late, "v1") == "fenced"
    assert publish(store, taken, "v2") == "done"
    assert [each.state for each in store.attempts(run)] == ["abandoned", "done"]


def test_a_claim_of_nothing_takes_back_what_expired(store: Store) -> None:
    run = begin(store, step("s1"))
    take(store, run, lease=0.0)
    assert store.next_due() == 0.0
    assert store.claim(Demand("w2", 0, lease=60.0), at(2)) == ()
    assert (store.owners(run), store.next_due()) == ((), None)


def test_workers_are_known_while_they_live(store: Store) -> None:
    store.beat(worker("b"), lease=60.0, now=at(1))
    store.beat(worker("a"), lease=0.0, now=at(2))
    first, second = store.workers()
    assert (first.name, first.alive, first.seen_at) == ("a", False, at(2))
    assert (second.queues, second.slots, second.alive) == (("default", "gpu"), 2, True)
    store.abandon("a", at(3))
    assert [each.name for each in store.workers()] == ["b"]


def test_a_worker_that_was_told_to_drain_goes_on_draining(store: Store) -> None:
    assert not store.drain("w1")
    assert not store.beat(worker(), lease=60.0, now=at(1)).draining
    assert store.drain("w1")
    assert store.beat(worker(), lease=60.0, now=at(2)).draining
    assert store.workers()[0].draining
    assert store.beat(worker("w2", draining=True), lease=60.0, now=at(2)).draining


# What may be claimed


def test_older_runs_come_first_and_only_their_own_queue(store: Store) -> None:
    first = begin(store, put(step("s1"), queue="gpu"), step("s2"))
    second = begin(store, put(step("t1"), queue="gpu"))
    claims = store.claim(Demand("w1", 5, lease=60.0, queues=["gpu", "other"]), at(1))
    assert [(each.run, each.step) for each in claims] == [(first, "s1"), (second, "t1")]
    assert store.claim(Demand("w1", 5, lease=60.0, queues=["other"]), at(1)) == ()
    assert [each.step for each in store.claim(Demand("w1", 5, lease=60.0), at(1))] == ["s2"]


def test_a_pool_is_never_more_than_full(store: Store) -> None:
    run = begin(
        store,
        put(step("s1"), pool="heavy", slots=2),
        put(step("s2"), pool="heavy", slots=2),
        put(step("s3"), pool="heavy"),
        step("s4"),
    )
    pools = [Pool("heavy", 3), Pool("unused", 1)]
    claims = store.claim(Demand("w1", 10, lease=60.0, pools=pools), at(1))
    assert [each.step for each in claims] == ["s1", "s3", "s4"]
    assert store.holdings() == (
        Holding(run, "p", "s1", "heavy", 2, "w1"),
        Holding(run, "p", "s3", "heavy", 1, "w1"),
    )
    (waiting,) = store.waiting()
    assert (waiting.step, waiting.pool, waiting.slots, waiting.since) == ("s2", "heavy", 2, NOON)
    assert publish(store, claims[0], "v1") == "done"
    assert [each.step for each in store.claim(Demand("w2", 1, lease=60.0, pools=pools), at(1))] == ["s2"]


def test_a_step_that_wants_more_than_the_pool_has_takes_all_of_it(store: Store) -> None:
    begin(store, put(step("s1"), pool="heavy", slots=9), put(step("s2"), pool="heavy"))
    pools = [Pool("heavy", 3)]
    assert [each.step for each in store.claim(Demand("w1", 10, lease=60.0, pools=pools), at(1))] == ["s1"]
    assert store.claim(Demand("w1", 10, lease=60.0, pools=pools), at(1)) == ()


def test_what_is_reserved_for_one_pipeline_no_other_takes(store: Store) -> None:
    steps = [put(step(f"s{n}"), pool="heavy") for n in range(4)]
    begin(store, *steps)
    other = store.begin_run(NewRun("quick", "production", "tree:1", "ann", "", "{}"), [steps[0]], NOON)
    pools = [Pool("heavy", 3, {"quick": 1})]
    claims = store.claim(Demand("w1", 10, lease=60.0, pools=pools), at(1))
    assert [(each.run == other, each.step) for each in claims] == [(False, "s0"), (False, "s1"), (True, "s0")]


def test_a_step_of_an_unknown_pool_is_left_to_those_who_know_it(store: Store) -> None:
    begin(store, put(step("s1"), pool="heavy"))
    assert store.claim(Demand("w1", 10, lease=60.0, pools=[Pool("other", 1)]), at(1)) == ()
    assert store.claim(Demand("w1", 10, lease=60.0), at(1)) == ()


# Exchanges


def test_an_exchange_settles_and_claims_what_that_made_ready(store: Store) -> None:
    run = begin(store, step("s1"), step("s2", "s1"), step("s3", "s1"), step("s4", "s2"))
    (claim,) = take(store, run)
    outcome = Publication(claim, output(store, claim, "v1"))
    settled, claims = store.exchange([outcome], Demand("w1", 1, lease=60.0), at(2))
    assert [each.result for each in settled] == ["done"]
    assert claims is not None
    assert [(each.step, each.attempt, each.fence) for each in claims] == [("s2", 1, 1)]
    assert store.pointers("production") == {("a/b", "s1"): "v1"}
    assert [(each.step, each.state) for each in store.attempts(run)] == [("s1", "done"), ("s2", "running")]
    assert [each.step for each in store.waiting()] == ["s3"]


def test_an_exchange_leaves_to_a_claim_what_expired_or_is_to_be_tried_again(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    take(store, run, limit=1, owner="w2", lease=0.0)
    (claim,) = take(store, run, limit=1, owner="w1", lease=60.0)
    assert claim.step == "s1", "the expired lease was taken over by a claim"
    failure = Failure(claim, "transient", "no luck", retry_in=0.0)
    settled, claims = store.exchange([failure], Demand("w1", 5, lease=60.0), at(2))
    assert [each.result for each in settled] == ["retry"]
    assert [each.step for each in claims or ()] == ["s2"]
    assert [each.step for each in store.claim(Demand("w1", 5, lease=60.0), at(2))] == ["s1"]


def test_an_exchange_minds_runs_queues_and_pools(store: Store) -> None:
    run = begin(store, step("s1"), put(step("s2", "s1"), pool="heavy", slots=2), put(step("s3"), queue="gpu"))
    (claim,) = store.claim(Demand("w1", 5, lease=60.0, queues=["default"]), at(1))
    outcome = Publication(claim, output(store, claim, "v1"))
    only = Demand("w1", 5, lease=60.0, runs=[run], queues=["default"], pools=[Pool("heavy", 2)])
    _, claims = store.exchange([outcome], only, at(2))
    assert [each.step for each in claims or ()] == ["s2"]
    assert [each.step for each in store.holdings()] == ["s2"]


def test_an_exchange_ends_the_run_of_its_last_step(store: Store) -> None:
    run, other = begin(store, step("s1")), begin(store, step("t1"))
    (claim,) = take(store, run)
    outcome = Publication(claim, output(store, claim, "v1"))
    _, claims = store.exchange([outcome], Demand("w1", 5, lease=60.0), at(2))
    assert [each.run for each in claims or ()] == [other]
    assert state_of(store, run) == "done"


# How runs begin and end


def test_a_run_ends_with_its_last_step(store: Store) -> None:
    run = begin(store, step("s1"), step("t1", "s1"))
    assert [each.id for each in store.open_runs()] == [run]
    (claim,) = take(store, run)
    publish(store, claim, "v1")
    assert state_of(store, run) == "running"
    (claim,) = take(store, run)
    publish(store, claim, "v2", minutes=7)
    found = store.run(run)
    assert found is not None
    assert (found.state, found.ended_at) == ("done", at(7))
    assert store.open_runs() == ()
    ended = [each for each in store.events() if each.kind == "RunEnded"]
    assert len(ended) == 1
    store.end_run(run, "cancelled", at(9))
    assert state_of(store, run) == "done"


def test_a_run_whose_rest_cannot_run_has_failed(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"), step("t1", "s1"))
    one, two = take(store, run)
    store.settle([Failure(one, "bug", "broke")], at(2))
    assert state_of(store, run) == "running"
    assert publish(store, two, "v2") == "done"
    assert state_of(store, run) == "failed"
    assert store.claim(Demand("w1", 5, lease=60.0), at(3)) == ()


def test_a_run_waiting_for_a_retry_goes_on(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, two = take(store, run)
    store.settle([Failure(one, "transient", "later", retry_in=3600.0)], at(2))
    publish(store, two, "v2")
    assert state_of(store, run) == "running"


def test_a_run_without_steps_is_done(store: Store) -> None:
    assert state_of(store, begin(store)) == "done"


def test_a_stale_step_ends_its_run(store: Store) -> None:
    run = begin(store, step("s1", expects="gone"))
    (claim,) = take(store, run)
    assert publish(store, claim, "v1") == "stale"
    assert state_of(store, run) == "failed"


def test_a_cancelled_run_is_claimed_by_nobody_and_can_be_taken_up_again(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"), step("t1", "s1"))
    one, two = take(store, run)
    store.settle([Failure(two, "transient", "later", retry_in=3600.0)], at(2))
    store.end_run(run, "cancelled", at(3))
    assert publish(store, one, "v1") == "fenced"
    assert (store.claim(Demand("w1", 5, lease=60.0), at(3)), store.next_due()) == ((), None)
    assert store.reopen_run(run, driver="me") == 3
    found = store.run(run)
    assert found is not None
    assert (found.state, found.driver) == ("running", "me")
    assert [each.step for each in store.claim(Demand("w1", 5, lease=60.0), at(3))] == ["s1", "s2"]


def test_a_run_with_nothing_left_stays_done(store: Store) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    publish(store, claim, "v1")
    assert store.reopen_run(run) == 0
    assert state_of(store, run) == "done"


def test_the_same_key_never_begins_a_second_run(store: Store) -> None:
    new = NewRun("p", "production", "tree:1", "ann", "why", "{}", key="p@2013-01-01")
    first = store.begin_run(new, [step("s1")], NOON)
    assert store.begin_run(new, [step("s1")], at(5)) == first
    assert len(store.runs()) == 1


def test_many_that_ask_at_once_for_one_key_begin_one_run(open_same: Opener, store: Store) -> None:
    import threading

    new = NewRun("p", "production", "tree:1", "ann", "why", "{}", key="tick")
    others = [open_same() for _ in range(3)]
    begun: list[int] = []
    threads = [
        threading.Thread(target=lambda mine=mine: begun.append(mine.begin_run(new, [step("s1")], NOON)))
        for mine in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 3
    assert len(set(begun)) == len(store.runs()) == 1


def test_a_run_that_is_to_be_alone_waits_for_others_of_its_pipeline(store: Store) -> None:
    run = begin(store, step("s1"))
    new = NewRun("p", "production", "tree:1", "ann", "why", "{}")
    with pytest.raises(StoreError, match=f"Run {run}"):
        store.begin_run(new, [step("s2")], NOON, alone=True)
    elsewhere = msgspec.structs.replace(new, environment="fix")
    store.begin_run(elsewhere, [step("s2")], NOON, alone=True)
    store.end_run(run, "cancelled", NOON)
    store.begin_run(new, [step("s2")], NOON, alone=True)


def test_a_run_is_taken_up_again_only_if_none_of_its_pipeline_is_open(store: Store) -> None:
    first = begin(store, step("s1"))
    store.end_run(first, "cancelled", NOON)
    second = begin(store, step("s1"))
    with pytest.raises(StoreError, match=f"Run {second} of 'p'"):
        store.reopen_run(first, driver="me", alone=True)
    with pytest.raises(StoreError, match=f"Run {second} of 'p'"):
        store.reopen_run(second, driver="me", alone=True)
    assert state_of(store, first) == "cancelled"
    store.end_run(second, "cancelled", NOON)
    assert store.reopen_run(first, driver="me", alone=True) == 1
    with pytest.raises(NotFound):
        store.reopen_run(99, alone=True)


def test_what_steps_made_is_found_by_their_ids(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, _ = take(store, run)
    publish(store, one, "v1")
    assert store.made(run, ["s1", "s2", "none"]) == {"s1": "v1"}
    assert store.made(run, []) == {}


def test_a_claim_may_be_confined_to_runs(store: Store) -> None:
    runs = [begin(store, put(step(name), pool=pool)) for name, pool in (("a", None), ("b", "p"), ("c", None))]
    pools = [Pool("p", 1)]
    assert store.claim(Demand("w1", 5, lease=60.0, pools=pools, runs=[]), at(1)) == ()
    claims = store.claim(Demand("w1", 5, lease=60.0, pools=pools, runs=runs[1:], queues=["default"]), at(1))
    assert [each.step for each in claims] == ["b", "c"]


def test_isolation_and_small_values_are_kept(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, two = take(store, run)
    made = output(store, one, "v1")
    made = msgspec.structs.replace(made, stored=msgspec.structs.replace(made.stored, value='{"a":1}'))
    outcomes = [
        Publication(one, made, isolation="landlock-7"),
        Failure(two, "bug", "no", isolation="process"),
    ]
    store.settle(outcomes, at(2))
    assert store.versions(["v1"]) == {"v1": made}
    assert [each.isolation for each in store.attempts(run)] == ["landlock-7", "process"]


def test_a_reused_step_ends_its_run_too(store: Store) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    publish(store, claim, "v1")
    again = begin(store, step("s1", expects="v1"))
    (claim,) = take(store, again)
    store.settle([Reuse(claim, "v1")], at(4))
    assert state_of(store, again) == "done"


def test_the_last_two_steps_settled_at_once_end_the_run(open_same: Opener, store: Store) -> None:
    import threading

    for _ in range(20):
        name = f"s{len(store.runs(limit=100))}"
        run = begin(store, step(f"{name}a"), step(f"{name}b"))
        claims = take(store, run)
        mine = [open_same(), open_same()] if len(store.runs(limit=100)) == 1 else mine  # noqa: F821
        versions = [output(store, claim, f"v{claim.step}") for claim in claims]
        barrier = threading.Barrier(2)

        def settle(which: int) -> None:
            barrier.wait()  # noqa: B023
            mine[which].settle([Publication(claims[which], versions[which])], at(2))  # noqa: B023

        threads = [threading.Thread(target=settle, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state_of(store, run) == "done"


def hears(ear: Wakeups) -> bool:
    """Whether an ear hears something now; where the database calls, the call may still be on its way."""
    if ear.fileno() is None:
        return ear.heard()
    return bool(select.select([ear.fileno()], [], [], 10.0)[0]) and ear.heard()


def test_an_ear_hears_what_others_do(open_same: Opener, store: Store) -> None:
    ear = open_same().listen()
    try:
        ear.heard()
        assert not ear.heard()
        run = begin(store, step("s1"), step("t1", "s1"))
        assert hears(ear)
        (claim,) = take(store, run)
        ear.heard()
        publish(store, claim, "v1")
        assert hears(ear)
        store.end_run(run, "cancelled", at(5))
        assert hears(ear)
    finally:
        ear.close()
