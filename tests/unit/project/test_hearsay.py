"""What others made of an attended run is told once each, about once a second, and nothing is asked when alone."""

import pytest
from tests.contract.making import NOON, begin, output, publish, step, take

from sidestage.events import StepFailed, StepPublished, StepReused
from sidestage.project.hearsay import Hearsay
from sidestage.runtime.lifeline import this_process
from sidestage.store.records import Environment, Reuse, Worker
from sidestage.testing.memory_store import open_memory_store
from sidestage.testing.turned_clock import HandClock


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def store(clock):
    store = open_memory_store(clock.monotonic)
    store.save_environment(Environment("production", None, "", "open", NOON))
    return store


def beat(store, name):
    store.beat(Worker(name, (), 1, draining=False, started_at=NOON, seen_at=NOON), lease=60.0, now=NOON)


def own(run, name):
    return StepPublished(NOON, str(run), name, f"mine-{name}", 1, 0.1)


def test_a_step_is_told_once_whoever_published_it(store, clock):
    told = []
    run = begin(store, step("a"), step("b"), step("c"))
    hearsay = Hearsay(store, clock, told.append, run, ["a", "b", "c"])
    beat(store, this_process())
    beat(store, "other")
    mine, theirs, _ = take(store, run, owner="other")
    publish(store, mine, "v1")
    hearsay(StepPublished(NOON, str(run), "a", "v1", 3, 1.5))
    publish(store, theirs, "v2")
    clock.advance(1.0)
    hearsay.look()
    hearsay(StepPublished(NOON, str(run), "b", "v2", 3, 1.5))
    clock.advance(1.0)
    hearsay.look()
    hearsay.catch_up()
    assert [(each.step, each.version, each.rows, each.seconds) for each in told] == [
        ("a", "v1", 3, 1.5),
        ("b", "v2", 3, 1.5),
    ]


def test_what_others_reused_is_told_as_such(store, clock):
    told = []
    first = begin(store, step("a"))
    publish(store, take(store, first)[0], "v1")
    run = begin(store, step("a", expects="v1"))
    (claim,) = take(store, run, owner="other")
    store.settle([Reuse(claim, "v1", point=False)], NOON)
    Hearsay(store, clock, told.append, run, ["a"]).catch_up()
    assert told == [StepReused(clock.now(), str(run), "a", "v1")]


def test_what_was_done_before_is_not_told(store, clock):
    told = []
    run = begin(store, step("a"), step("b"))
    publish(store, take(store, run, limit=1)[0], "v1")
    Hearsay(store, clock, told.append, run, ["b"]).catch_up()
    assert told == []


def test_everything_else_is_passed_on_as_it_comes(store, clock):
    told = []
    failed = StepFailed(NOON, "1", "a", 1, "bug", "no", final=False)
    hearsay = Hearsay(store, clock, told.append, 1, ["a"])
    hearsay(failed)
    hearsay(failed)
    assert told == [failed, failed]


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, store, clock, takes=0.0):
        self.asked = []
        self._store = store
        self._clock = clock
        self._takes = takes

    def workers(self):
        self.asked.append("workers")
        return self._store.workers()

    def made(self, run, steps):
        self.asked.append("made")
        self._clock.advance(self._takes)
        return self._store.made(run, steps)

    def versions(self, ids):
        return self._store.versions(ids)


def test_alone_it_asks_once_a_second_whether_there_is_anybody_else_and_nothing_more(store, clock):
    run = begin(store, step("a"))
    beat(store, this_process())
    counting = Counting(store, clock)
    hearsay = Hearsay(counting, clock, [].append, run, ["a"])
    for _ in range(30):
        clock.advance(0.1)
        hearsay.look()
    assert 2 <= len(counting.asked) <= 3
    assert set(counting.asked) == {"workers"}


def test_looks_that_take_long_are_rare(store, clock):
    run = begin(store, step("a"))
    beat(store, "other")
    counting = Counting(store, clock, takes=0.5)
    hearsay = Hearsay(counting, clock, [].append, run, ["a"])
    for _ in range(100):
        clock.advance(0.1)
        hearsay.look()
    assert counting.asked.count("made") == 1


def test_when_all_is_told_nothing_is_asked_any_more(store, clock):
    told = []
    run = begin(store, step("a"))
    claim = take(store, run, owner="other")[0]
    counting = Counting(store, clock)
    hearsay = Hearsay(counting, clock, told.append, run, ["a"])
    hearsay(own(run, "a"))
    publish(store, claim, "v1")
    hearsay.catch_up()
    assert counting.asked == []
    assert told == [own(run, "a")]


def test_what_a_lost_answer_left_in_doubt_is_told_once(store, clock):
    """This process published it, heard only later that it did, and looked in between."""
    told = []
    run = begin(store, step("a"))
    claim = take(store, run, owner=this_process())[0]
    made = output(store, claim, "v1")
    publish(store, claim, "v1")
    hearsay = Hearsay(store, clock, told.append, run, ["a"])
    hearsay.catch_up()
    hearsay(StepPublished(NOON, str(run), "a", "v1", made.stored.digest.rows, made.seconds))
    assert len(told) == 1
