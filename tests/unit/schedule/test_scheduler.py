"""One look at what is due: every tick is begun once and in order, whoever looks, fails, or sets the clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage import Every
from sidestage.errors import GateClosed, StoreError
from sidestage.pipeline.trigger import between
from sidestage.schedule.scheduler import Planned, Scheduler
from sidestage.store.records import Environment, NewRun, NewStep
from sidestage.testing.memory_store import MemoryStore, open_memory_store
from sidestage.testing.turned_clock import HandClock

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = Every(timedelta(minutes=1))


class Plans:
    """A planner that is told whether there is anything to do, and what is in the way."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.work = False
        self.occupied = self.overtaken = False
        self.fault: Exception | None = None
        self.planned: list[datetime] = []

    @contextmanager
    def alone(self, pipeline: str) -> Iterator[bool]:
        yield not self.occupied and all(run.pipeline != pipeline for run in self.store.open_runs())

    def plan(self, pipeline: str, at: datetime) -> Planned | None:
        if self.overtaken:
            return None
        self.planned.append(at)
        if self.fault is not None:
            raise self.fault
        if not self.work:
            return Planned()
        run = NewRun(pipeline, "production", "c", "trigger", "", "{}", key=f"{pipeline}:{at.isoformat()}")
        return Planned(run, (NewStep("t@a", "t", "d", "a", None),))


class World:
    """A store, a clock, and one scheduler."""

    def __init__(self) -> None:
        self.clock = HandClock(START)
        self.store = open_memory_store(self.clock.monotonic)
        self.store.save_environment(Environment("production", None, "", "open", START))
        self.plans = Plans(self.store)
        self.scheduler = self.new()

    def new(self, trigger=MINUTE) -> Scheduler:
        return Scheduler(self.store, self.clock, self.plans, {"p": trigger})

    def ticks(self) -> list[datetime]:
        return [tick.at for tick in reversed(self.store.ticks("p", limit=10_000))]

    def end_runs(self) -> None:
        for run in self.store.open_runs():
            self.store.end_run(run.id, "done", self.clock.now())


@pytest.fixture
def world() -> World:
    return World()


def minutes(*numbers: float) -> list[datetime]:
    return [START + timedelta(minutes=number) for number in numbers]


def test_nothing_before_the_first_look_is_due_and_everything_after_it(world):
    world.clock.advance(90)
    assert world.scheduler.look() == ((), (), False)
    world.clock.advance(150)
    looked = world.scheduler.look()
    assert [tick.at for tick in looked.begun] == world.ticks() == minutes(2, 3, 4)
    assert world.plans.planned == minutes(2), "there was nothing to do, then neither for what piled up"
    assert not looked.pending
    assert world.scheduler.look().begun == ()


def test_while_its_run_is_open_the_next_tick_waits(world):
    world.scheduler.look()
    world.plans.work = True
    world.clock.advance(180)
    (first,) = world.scheduler.look().begun
    assert first.run is not None
    assert world.scheduler.look() == ((), (), True)
    world.end_runs()
    world.plans.work = False
    assert [tick.at for tick in world.scheduler.look().begun] == minutes(2, 3)
    assert [tick.run for tick in world.store.ticks("p")] == [None, None, first.run]
    assert world.plans.planned == minutes(1, 2), "each when its turn came"


def test_while_somebody_else_plans_or_runs_the_pipeline_the_tick_waits(world):
    world.scheduler.look()
    world.clock.advance(60)
    world.plans.occupied = True
    assert world.scheduler.look() == ((), (), True)
    world.plans.occupied, world.plans.overtaken = False, True
    assert world.scheduler.look() == ((), (), True)
    assert world.plans.planned == []
    world.plans.overtaken = False
    assert [tick.at for tick in world.scheduler.look().begun] == minutes(1)


def test_what_cannot_be_planned_stays_due_is_said_once_and_tried_less_and_less(world):
    world.scheduler.look()
    world.plans.fault = GateClosed("not released", hint="release it")
    world.clock.advance(60)
    said, tried = [], []
    for _ in range(300):
        said += world.scheduler.look().held
        tried.append(len(world.plans.planned))
        world.clock.advance(1)
    assert [(held.pipeline, held.at, held.error.message) for held in said] == [
        ("p", minutes(1)[0], "not released")
    ]
    tries = [second for second, (one, two) in enumerate(pairwise([0, *tried])) if two > one]
    assert tries[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert tries[7:] == [123, 183, 243]
    assert set(world.plans.planned) == set(minutes(1))
    assert world.store.triggers()[0].held == "not released"
    world.plans.fault = GateClosed("pool unknown")
    world.clock.advance(60)
    assert [held.error.message for held in world.scheduler.look().held] == ["pool unknown"]
    world.plans.fault = None
    world.clock.advance(60)
    assert [tick.at for tick in world.scheduler.look().begun] == minutes(1, 2, 3, 4, 5, 6, 7, 8)
    assert world.store.triggers()[0].held is None


def test_one_pipeline_that_cannot_begin_is_in_nobody_elses_way(world):
    scheduler = Scheduler(world.store, world.clock, world.plans, {"o": MINUTE, "p": MINUTE})
    scheduler.look()
    world.clock.advance(60)
    world.plans.fault = GateClosed("not released")
    assert len(scheduler.look().held) == 2
    world.plans.fault = None
    world.clock.advance(60)
    assert [tick.pipeline for tick in scheduler.look().begun] == ["o", "o", "p", "p"]


def test_a_clock_that_is_set_back_gives_no_second_tick_and_none_is_skipped(world):
    world.scheduler.look()
    world.clock.advance(300)
    world.scheduler.look()
    world.clock.set_wall_clock(START + timedelta(minutes=2))
    assert world.scheduler.look() == ((), (), False)
    world.clock.advance(180)
    assert world.scheduler.look() == ((), (), False)
    world.clock.advance(60)
    world.scheduler.look()
    world.clock.set_wall_clock(START + timedelta(minutes=9))
    world.scheduler.look()
    assert world.ticks() == minutes(1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_a_store_that_is_away_is_not_held_against_the_tick(world):
    world.scheduler.look()
    world.clock.advance(60)
    away = StoreError("away")
    away.transient = True
    world.plans.fault = away
    with pytest.raises(StoreError, match="away"):
        world.scheduler.look()
    world.plans.fault = None
    assert len(world.scheduler.look().begun) == 1


def test_triggers_are_declared_by_whoever_came_last_and_kept_by_whoever_is_there(world):
    world.scheduler.look()
    (state,) = world.store.triggers()
    assert state.trigger == '{"type":"every","interval":"PT60S"}'
    hourly = world.new(Every(timedelta(hours=1)))
    hourly.look()
    world.scheduler.look()
    assert world.store.triggers()[0].trigger == '{"type":"every","interval":"PT3600S"}'
    without = Scheduler(world.store, world.clock, world.plans, {})
    without.look()
    assert world.store.triggers()[0].trigger is None
    world.clock.advance(600)
    assert world.scheduler.look().begun == (), "while it had none nothing was due"
    assert world.store.triggers()[0].trigger == '{"type":"every","interval":"PT60S"}'
    without.look()
    assert world.store.triggers()[0].trigger is not None


class Dies(MemoryStore):
    """A store whose caller dies now and then, before or after a tick was recorded."""

    def begin_tick(self, *arguments):
        how = self.fate.pop() if self.fate else None
        if how == "before":
            raise KeyboardInterrupt
        made = super().begin_tick(*arguments)
        if how == "after":
            raise KeyboardInterrupt
        return made


acts = st.lists(
    st.tuples(
        st.sampled_from(
            ["look", "look", "advance", "set", "end", "work", "idle", "fault", "before", "after"]
        ),
        st.integers(0, 3),
        st.integers(-400, 400),
    ),
    max_size=60,
)


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(acts)
def test_whoever_looks_dies_fails_or_sets_the_clock_every_tick_is_begun_once_and_in_order(acts):
    world = World()
    world.store = Dies(world.store._tables)
    world.store.fate = []
    world.plans.store = world.store
    schedulers = [world.new() for _ in range(4)]
    schedulers[0].look()
    for act, who, seconds in acts:
        match act:
            case "look":
                try:
                    schedulers[who].look()
                except KeyboardInterrupt:
                    schedulers[who] = world.new()
            case "advance":
                world.clock.advance(abs(seconds))
            case "set":
                world.clock.set_wall_clock(world.clock.now() + timedelta(seconds=seconds))
            case "end":
                world.end_runs()
            case "work" | "idle":
                world.plans.work, world.plans.fault = act == "work", None
            case "fault":
                world.plans.fault = GateClosed("not released")
            case fate:
                world.store.fate.append(fate)
    ticks = world.ticks()
    assert ticks == list(between(MINUTE, START, ticks[-1])) if ticks else True
    runs = {run.id: run for run in world.store.runs(limit=1000)}
    begun = [tick.run for tick in world.store.ticks("p", limit=1000) if tick.run is not None]
    assert sorted(begun) == sorted(runs), "a run for each of these ticks, a tick for each run"
