"""What steps wait for, in words."""

from datetime import UTC, datetime, timedelta

import pytest

from sidestage.observe.waits import waits
from sidestage.policy.pool import Pool
from sidestage.store.records import Holding, Waiting, Worker

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def step(name, *, run=1, pool=None, queue="default", ago=10.0, slots=1):
    return Waiting(run, "sales", name, queue, pool, slots, NOW - timedelta(seconds=ago))


def holding(run, slots=1, pool="api"):
    return Holding(run, "sales", f"held@{run}", pool, slots, "host:1:1")


def worker(*queues, slots=2, draining=False, alive=True):
    return Worker(f"host:{len(queues)}:1", queues, slots, draining, NOW, NOW, alive)


def why(*steps, holdings=(), pools=(), workers=None):
    workers = [worker()] if workers is None else workers
    return [each.why for each in waits(steps, holdings, pools, workers, NOW)]


def test_nobody_waits():
    assert waits((), (), (), (), NOW) == ()


def test_steps_that_wait_for_the_same_are_one_entry_with_the_longest_wait_first():
    found = waits(
        [step("b", ago=5), step("a", ago=20), step("c", run=2, ago=60), step("d", ago=1)],
        (),
        (),
        [worker()],
        NOW,
    )
    assert [(each.run, each.steps, each.first, each.seconds) for each in found] == [
        (2, 1, "c", 60.0),
        (1, 3, "a", 20.0),
    ]


def test_worker_slots_are_those_of_all_who_serve_the_queue():
    workers = (worker(), worker("gpu", slots=3), worker("default", "gpu", slots=5))
    assert why(step("a"), workers=workers) == ["waiting for one of 7 worker slots for 10 s"]
    assert why(step("a", queue="gpu"), workers=workers) == ["waiting for one of 10 worker slots for 10 s"]


@pytest.mark.parametrize(
    "workers", [(), (worker("other"),), (worker(alive=False),), (worker("gpu", draining=True),)]
)
def test_a_queue_that_nobody_serves(workers):
    (said,) = why(step("a", queue="gpu", pool="api"), workers=workers)
    assert said == "waiting for a worker that serves the queue 'gpu' for 10 s; there is none"


def test_a_pool_that_is_full_names_who_holds_it():
    held = [holding(7), holding(3, 2), holding(7), holding(9, pool="other")]
    (said,) = why(step("a", pool="api", slots=2, ago=300), holdings=held, pools=[Pool("api", 4)])
    assert said == "waiting for 2 of 4 api slots for 5 min, held by runs 3, 7"
    (said,) = why(step("a", pool="api"), holdings=[holding(3, 4)], pools=[Pool("api", 4)])
    assert said == "waiting for 1 of 4 api slots for 10 s, held by run 3"


def test_of_many_holders_a_few_are_named():
    held = [holding(number) for number in range(1, 7)]
    (said,) = why(step("a", pool="api"), holdings=held, pools=[Pool("api", 6)])
    assert said.endswith("held by runs 1, 2, 3 and 3 more")


def test_slots_that_are_kept_for_others_are_said():
    (said,) = why(step("a", pool="api"), holdings=[holding(3, 2)], pools=[Pool("api", 4, {"other": 2})])
    assert said == "waiting for 1 of 4 api slots for 10 s, held by run 3, 2 kept for other pipelines"


def test_a_pool_that_is_not_defined():
    (said,) = why(step("a", pool="api"))
    assert said == "waiting for the pool 'api' for 10 s, which sidestage.toml does not define"


def test_clocks_that_differ_a_little_do_not_make_waits_negative():
    (found,) = waits([step("a", ago=-3)], (), (), [worker()], NOW)
    assert found.seconds == 0.0
