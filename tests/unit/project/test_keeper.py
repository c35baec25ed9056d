"""Keepers on a turned clock and a store in memory, with stand-ins for the processes of services."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidestage.errors import StoreError
from sidestage.pipeline.manifest import ServiceSpec
from sidestage.pipeline.service import ServiceTerms
from sidestage.policy.restart import Restart
from sidestage.project.keeper import LOOK_SECONDS, OTHER_CODE_SECONDS, Holder, Keeper, Site
from sidestage.run.service_messages import Broke, Finished, FromService, GoOn, OtherCode, Serve, Turned
from sidestage.run.tether import LOST
from sidestage.store.records import CodeChange, Environment, NewMove
from sidestage.store.service_records import ServiceState
from sidestage.testing.memory_store import MemoryStore, open_memory_store
from sidestage.testing.turned_clock import HandClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LEASE = 5.0
NAME = "p.s"
RESTART = Restart(times=2, within=100.0, delay=1.0, longest=8.0)


class Child:
    """What a process of a service looks like from outside."""

    def __init__(self, request: Serve) -> None:
        self.request = request
        self.words = [request.word]
        self.stops = 0
        self.was_ended = False
        self.is_over = False
        self._status = 0
        self._said: list[FromService] = []

    def says(self, *messages: FromService) -> None:
        self._said += messages

    def dies(self, status: int, *messages: FromService) -> None:
        self.says(*messages)
        self.is_over, self._status = True, status

    def heard(self) -> tuple[FromService, ...]:
        said, self._said = tuple(self._said), []
        return said

    def go_on(self, word: GoOn) -> None:
        self.words.append(word)

    def stop(self) -> None:
        self.stops += 1

    def end(self) -> int:
        self.was_ended = True
        return self._status if self.is_over else -9


class Broken(MemoryStore):
    """A store that can be made unreachable."""

    is_down = False

    def hold_service(self, service: str, owner: str, *, lease: float, now: datetime) -> int | None:
        if self.is_down:
            raise StoreError("gone")
        return super().hold_service(service, owner, lease=lease, now=now)


class World:
    """A store, a clock, and workers that keep one service."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = open_memory_store(self.clock.monotonic)
        self.store.save_environment(Environment("production", None, "", "open", NOON))
        self.children: list[Child] = []
        self.said: list[str] = []
        self.keepers: list[Keeper] = []

    def release(self, code: str, name: str = NAME) -> None:
        old = self.store.released("production").get(name)
        change = CodeChange(name, old, code)
        self.store.move(NewMove("promote", "production", "ann", "", "", (), (change,), "c"), NOON)

    def keeper(self, name: str = "worker", store: MemoryStore | None = None, **terms: object) -> Keeper:
        given = ServiceTerms(**{"restart": RESTART, **terms})  # type: ignore[arg-type]
        spec = ServiceSpec(NAME, "1", "pipeline.py:1", given)
        holder = Holder(name, LEASE, self.clock.monotonic)
        site = Site(Path("/code"), Path("/state/services"))
        keeper = Keeper(
            store or self.store,
            self.clock,
            holder,
            site,
            [spec],
            self.start,
            lambda *said: self.said.append(said[0]),
        )
        self.keepers.append(keeper)
        return keeper

    def start(self, request: Serve) -> Child:
        self.children.append(Child(request))
        return self.children[-1]

    def turn(self, seconds: float, each: float = 0.25) -> None:
        """Let time pass, while all keepers look."""
        for _ in range(round(seconds / each)):
            self.clock.advance(each)
            for keeper in self.keepers:
                keeper.look()

    @property
    def child(self) -> Child:
        return self.children[-1]

    @property
    def state(self) -> ServiceState:
        (state,) = self.store.services()
        return state


@pytest.fixture
def world() -> World:
    world = World()
    world.release("1")
    return world


def running(world: World, keeper: Keeper) -> Child:
    keeper.look()
    world.child.says(Turned("boot", "http://x/metrics"), Turned("steady", "http://x/metrics"))
    keeper.look()
    assert world.state.said.state == "running"
    return world.child


def test_a_service_that_nobody_holds_is_taken_and_started(world: World) -> None:
    keeper = world.keeper()
    keeper.look()
    word = GoOn(world.clock.monotonic() + 3, world.clock.monotonic() + 4)
    assert world.child.request == Serve("/code", NAME, "/state/services/p.s", "1", word)
    assert (world.state.owner, world.state.said.state) == ("worker", "starting")
    running(world, keeper)
    assert world.state.said.url == "http://x/metrics"
    assert not keeper.is_idle


def test_what_production_was_not_given_is_not_run() -> None:
    world = World()
    keeper = world.keeper()
    keeper.look()
    world.turn(2)
    assert not world.children
    assert world.said == ["The service p.s waits: production was not given its code."]
    world.release("1")
    world.turn(LOOK_SECONDS)
    assert len(world.children) == 1


def test_of_two_workers_one_runs_it_and_tells_its_process_to_go_on(world: World) -> None:
    first, _second = world.keeper("first"), world.keeper("second")
    first.look()
    world.turn(4 * LEASE)
    assert len(world.children) == 1
    assert world.state.owner == "first"
    words = world.child.words
    now = world.clock.monotonic()
    assert words[-1].until > now + LEASE / 4
    assert words[-1].over < now + LEASE, "it is gone before anybody else may take it"
    assert len(words) > 15


def test_the_other_waits_until_the_lease_is_over(world: World) -> None:
    world.keeper("first").look()
    del world.keepers[0]  # it is dead, or paused
    last = world.child.words[-1]
    world.keeper("second")
    while len(world.children) < 2:
        world.turn(0.25)
    assert world.clock.monotonic() > last.over
    assert world.state.owner == "second"
    assert world.state.fence == 2


def test_a_worker_that_was_paused_kills_what_it_ran(world: World) -> None:
    first = world.keeper("first")
    running(world, first)
    world.keepers.clear()
    second = world.keeper("second")
    world.turn(LEASE + 1)
    child = running(world, second)
    first.look()
    assert world.children[0].was_ended
    assert not child.was_ended
    assert first.is_idle
    assert world.state.owner == "second"
    assert world.state.said.state == "running", "it says nothing of what is another's"


def test_while_the_store_is_away_nobody_is_told_to_go_on(world: World) -> None:
    store = Broken(world.store._tables)
    keeper = world.keeper(store=store)
    child = running(world, keeper)
    store.is_down = True
    world.keepers.clear()
    before = len(child.words)
    for _ in range(8):
        world.clock.advance(LEASE / 5)
        with pytest.raises(StoreError, match="gone"):
            keeper.look()
    assert len(child.words) == before
    child.dies(LOST, Finished(complete=False))
    with pytest.raises(StoreError, match="gone"):
        keeper.look()
    assert len(world.children) == 1, "not before the lease is known to be ours"
    store.is_down = False
    keeper.look()
    assert len(world.children) == 2
    assert world.state.said.restarts == 0, "it is not the service's fault"


def test_it_is_started_again_by_policy_until_the_budget_is_spent(world: World) -> None:
    keeper = world.keeper()
    for number in range(1, 3):
        child = running(world, keeper)
        child.dies(-9)
        keeper.look()
        assert world.state.said.state == "restarting"
        assert world.state.said.note == "its process was killed by SIGKILL"
        assert world.state.said.restarts == number
        assert len(world.children) == number, "after a pause"
        world.turn(8)
        assert len(world.children) == number + 1
    running(world, keeper).dies(0, Broke("ValueError: no"))
    keeper.look()
    assert (world.state.said.state, world.state.said.note) == ("failed", "ValueError: no")
    assert world.state.owner is None
    world.turn(200)
    assert len(world.children) == 3
    assert keeper.is_idle


def fail(world: World, keeper: Keeper) -> None:
    running(world, keeper).dies(0, Broke("ValueError: no"))
    keeper.look()
    assert world.state.said.state == "failed"


@pytest.fixture
def no_restarts(world: World) -> Callable[[str], Keeper]:
    return lambda name: world.keeper(name, restart=Restart(times=0))


def test_what_failed_is_left_alone_by_those_who_saw_it(
    world: World, no_restarts: Callable[[str], Keeper]
) -> None:
    first, _other = no_restarts("first"), no_restarts("other")
    first.look()
    world.turn(LOOK_SECONDS)
    fail(world, first)
    world.turn(60)
    assert len(world.children) == 1
    no_restarts("started since")
    world.turn(LOOK_SECONDS)
    assert len(world.children) == 2
    assert world.state.owner == "started since"


def test_people_ask_that_what_failed_be_started(world: World, no_restarts: Callable[[str], Keeper]) -> None:
    fail(world, no_restarts("first"))
    world.store.ask_service(NAME)
    world.turn(LOOK_SECONDS)
    assert len(world.children) == 2
    assert world.state.said.state == "starting"


def test_people_do_not_wait_for_a_pause(world: World) -> None:
    keeper = world.keeper(restart=Restart(times=2, within=1000.0, delay=100.0, longest=200.0))
    for _ in range(2):
        running(world, keeper).dies(1)
        keeper.look()
        world.store.ask_service(NAME)
        world.turn(2 * LOOK_SECONDS)
    assert len(world.children) == 3
    assert world.state.said.restarts == 0
    running(world, keeper).dies(1)
    keeper.look()
    assert world.state.said.restarts == 1, "they count from the beginning"


def test_people_ask_that_what_runs_be_started_anew(world: World) -> None:
    keeper = world.keeper()
    child = running(world, keeper)
    world.store.ask_service(NAME)
    world.turn(3)
    assert child.stops == 1
    assert world.state.said.state == "draining"
    child.dies(0, Finished(complete=False))
    keeper.look()
    assert len(world.children) == 2
    world.turn(3)
    assert world.child.stops == 0
    assert world.state.said.restarts == 0


def test_new_code_of_production_drains_it_and_is_started(world: World) -> None:
    keeper = world.keeper()
    child = running(world, keeper)
    world.release("2")
    world.turn(LOOK_SECONDS)
    assert child.stops == 1
    child.dies(0, Finished(complete=False))
    keeper.look()
    assert world.child.request.fingerprint == "2"


def test_where_other_code_lies_it_is_left_to_others_for_a_while(world: World) -> None:
    world.release("2")
    keeper = world.keeper()
    keeper.look()
    world.child.dies(0, OtherCode("1"))
    keeper.look()
    assert (world.state.owner, world.state.said.state) == (None, "waiting")
    world.turn(OTHER_CODE_SECONDS - 1)
    assert len(world.children) == 1
    world.turn(2)
    assert len(world.children) == 2
    world.child.dies(0, OtherCode("1"))
    keeper.look()
    world.release("1")
    world.turn(LOOK_SECONDS)
    assert len(world.children) == 3, "at once when production was given another"


def test_a_stream_that_ended_is_left_alone(world: World) -> None:
    keeper = world.keeper()
    running(world, keeper).dies(0, Finished(complete=True))
    keeper.look()
    assert world.state.said.state == "ended"
    world.turn(30)
    assert len(world.children) == 1


def test_a_worker_that_drains_drains_its_services_and_takes_none(world: World) -> None:
    keeper = world.keeper()
    child = running(world, keeper)
    keeper.drain()
    assert child.stops == 1
    world.turn(2 * LEASE)
    assert world.state.owner == "worker", "it holds it as long as something is under way"
    child.dies(0, Finished(complete=False))
    keeper.look()
    assert (world.state.owner, world.state.said.state) == (None, "stopped")
    assert keeper.is_idle
    world.turn(5)
    assert len(world.children) == 1


def test_told_twice_it_cancels_and_at_last_kills(world: World) -> None:
    keeper = world.keeper()
    child = running(world, keeper)
    keeper.drain()
    keeper.drain()
    assert child.stops == 2
    keeper.end()
    assert child.was_ended
    assert keeper.is_idle
    assert world.state.owner is None


def test_a_drain_is_not_a_cancellation_of_what_drains_already(world: World) -> None:
    keeper = world.keeper()
    child = running(world, keeper)
    world.release("2")
    world.turn(LOOK_SECONDS)
    keeper.drain()
    assert child.stops == 1


def test_one_that_pauses_before_a_restart_is_given_back_at_once_by_a_drain(world: World) -> None:
    keeper = world.keeper()
    running(world, keeper).dies(1)
    keeper.look()
    assert world.state.said.note == "its process exited with status 1"
    keeper.drain()
    keeper.look()
    assert keeper.is_idle
    assert world.state.owner is None


def test_a_process_that_cannot_be_started_is_tried_again(world: World) -> None:
    keeper = world.keeper()
    refused: list[Serve] = []

    def refuse(request: Serve) -> Child:
        refused.append(request)
        raise OSError("no processes left")

    keeper._start = refuse
    keeper.look()
    assert world.state.said.note == "its process cannot be started: no processes left"
    world.turn(30)
    assert len(refused) == 3
    assert world.state.said.state == "failed"
