"""The loop of one worker, with processes that answer when the clock is turned."""

import itertools
from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import Any

from tests.contract.making import NOON, begin, output, step, take

from sidestage.run.assignment import Assignment, Audience, Chance, Done
from sidestage.run.crews import Answered
from sidestage.run.dispatcher import Dispatcher
from sidestage.store.records import Claim, Demand, Environment, Failure, Publication, Worker
from sidestage.testing.memory_store import MemoryStore, open_memory_store
from sidestage.testing.turned_clock import HandClock

STEP_SECONDS = 0.2


class OneAtATime:
    """A crew of one process, which takes ``STEP_SECONDS`` for each step."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.requests: list[Any] = []

    @property
    def free(self) -> int:
        return 1 - len(self.requests)

    def submit(self, request: Any, home: Any) -> None:
        self.requests.append(request)

    def collect(self, timeout: float) -> list[Any]:
        if not self.requests:
            self.clock.advance(timeout or 0.001)
            return []
        self.clock.advance(STEP_SECONDS)
        done, self.requests = self.requests, []
        return [Answered(request, None) for request in done]  # type: ignore[arg-type]

    def stop(self, versions: Collection[str]) -> None:
        assert not versions

    def wake_by(self, descriptor: int | None) -> None:
        assert descriptor is None


class Run:
    """A run whose steps publish, or fail as often as they are told to."""

    def __init__(self, store: MemoryStore, failures: dict[str, int]) -> None:
        self.store = store
        self.failures = failures

    def recall(self, _store: MemoryStore, steps: Iterable[str]) -> None:
        pass

    def prepare(self, claim: Claim, version: str) -> Any:
        return SimpleNamespace(
            claim=claim, request=SimpleNamespace(version=version, run=claim.run), home=None
        )

    def outcome(self, prepared: Any, _found: Any, _jitter: float) -> Publication | Failure:
        claim = prepared.claim
        if self.failures.get(claim.step, 0) > 0:
            self.failures[claim.step] -= 1
            return Failure(claim, "transient", "no luck", retry_in=0.3)
        return Publication(claim, output(self.store, claim, prepared.request.version))

    def published(self, _version: Any) -> None:
        pass


def work(store: MemoryStore, clock: HandClock, failures: dict[str, int], until: int) -> dict[str, float]:
    """Let one worker work; return when each step was done."""
    ended: dict[str, float] = {}

    def note(done: Done) -> None:
        if done.result.result == "done":
            ended[done.outcome.claim.step] = clock.monotonic()

    numbers = itertools.count()
    run = Run(store, failures)
    dispatcher = Dispatcher(
        store,
        None,  # type: ignore[arg-type]
        OneAtATime(clock),  # type: ignore[arg-type]
        clock,
        Assignment(Worker("me", (), 1, draining=False, started_at=NOON, seen_at=NOON)),
        lambda _: run,  # type: ignore[arg-type,return-value]
        Audience(lambda _event: None, note),
        Chance(lambda: f"v{next(numbers):05}", lambda: 0.5),
    )
    while len(ended) < until and clock.monotonic() < 1000:
        dispatcher.tick(1.0)
    return ended


def opened() -> tuple[MemoryStore, HandClock]:
    clock = HandClock()
    store = open_memory_store(clock.monotonic)
    store.save_environment(Environment("production", None, "", "open", NOON))
    return store, clock


def test_a_busy_worker_takes_over_what_a_dead_one_left() -> None:
    """However much it could do without looking for it."""
    store, clock = opened()
    old = begin(store, step("z1", dataset="z/z"))
    take(store, old, owner="elsewhere:1:1", lease=2.5)
    begin(store, *[step(f"s{number}") for number in range(200)])
    began = clock.monotonic()
    ended = work(store, clock, {}, until=201)
    assert len(ended) == 201
    assert ended["z1"] - began < 2.5 + 3.0


def test_a_busy_worker_tries_again_when_it_is_time() -> None:
    store, clock = opened()
    begin(store, *[step(f"s{number:03}") for number in range(100)])
    began = clock.monotonic()
    ended = work(store, clock, {"s000": 2}, until=100)
    assert ended["s000"] - began < 3.0
    assert store.claim(Demand("me", 5, lease=1.0), NOON) == ()
