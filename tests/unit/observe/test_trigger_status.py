"""The last and the next tick of each trigger, and what is in the way of one that is late."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sidestage import Daily, Every
from sidestage.observe.status import TriggerStatus, read_status, read_triggers
from sidestage.store.records import Environment, NewRun, NewStep, Worker
from sidestage.store.tick_records import NewTick, Tick
from sidestage.testing.memory_store import MemoryStore, open_memory_store

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
EVERY = "every 0:01:00"


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def working(name: str) -> Worker:
    return Worker(name, (), 1, draining=False, started_at=NOON, seen_at=NOON)


@pytest.fixture
def store() -> MemoryStore:
    store = open_memory_store(lambda: 0.0)
    store.save_environment(Environment("production", None, "", "open", NOON))
    store.declare_triggers({"p": msgspec.json.encode(Every(timedelta(minutes=1))).decode()}, NOON)
    return store


def test_the_last_tick_and_the_next(store: MemoryStore) -> None:
    assert read_status(store).triggers == ()
    assert read_status(store, now=at(0)).triggers == (TriggerStatus("p", EVERY, None, at(1)),)
    store.begin_tick(NewTick("p", at(1), at(0)), None, (), at(1.5))
    assert read_triggers(store, at(2)) == (TriggerStatus("p", EVERY, Tick("p", at(1), None, at(1.5)), at(2)),)


def test_one_that_is_due_for_a_while_is_late_and_why(store: MemoryStore) -> None:
    def why() -> str:
        (shown,) = read_triggers(store, at(3))
        assert shown.late
        assert shown.next == at(1)
        return shown.why

    assert why() == "There is no worker to begin it."
    store.beat(working("w"), lease=60, now=NOON)
    assert why() == ""
    store.hold_tick("p", "Not released.")
    assert why() == "Not released."
    run = store.begin_run(
        NewRun("p", "production", "c", "ann", "", "{}"), [NewStep("t@a", "t", "d", "a", None)], NOON
    )
    assert why() == f"It waits for the end of run {run}."


def test_triggers_that_are_gone_or_have_ticked_for_the_last_time(store: MemoryStore) -> None:
    days = Daily("2023-12-30", "2023-12-31").closes
    store.declare_triggers({"q": msgspec.json.encode(days).decode()}, NOON)
    assert read_triggers(store, at(9)) == (TriggerStatus("q", "when each day in UTC has ended", None, None),)
