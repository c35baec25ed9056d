"""The store in memory and the one in SQLite give the same answers to the same calls, whatever those are."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.making import NOON, a_move, at, digest

from sidestage.data.version import Stored, Version
from sidestage.errors import SidestageError
from sidestage.policy.pool import Pool
from sidestage.store.contract import Store
from sidestage.store.records import (
    Claim,
    CodeChange,
    Demand,
    Environment,
    Exchanged,
    Failure,
    NewRun,
    NewStep,
    Outcome,
    Publication,
    Reuse,
    Worker,
)
from sidestage.store.sql import open_store
from sidestage.testing.memory_store import open_memory_store

CALLS = 120
# Far off or at once, so that it does not matter that the two read different clocks.
SECONDS = (0.0, 3600.0, 3600.0)
POOLS = (Pool("heavy", 2), Pool("light", 3, {"q": 1}))


class Caller:
    """Makes up calls, gives each to both stores, and compares what they say."""

    def __init__(self, seed: int, stores: tuple[Store, Store]) -> None:
        self.dice = random.Random(seed)
        self.stores = stores
        self.claims: list[Claim] = []
        self.runs: list[int] = []
        self.steps: dict[tuple[int, str], tuple[str, NewStep]] = {}
        self.versions: list[str] = []
        self.moves: list[int] = []

    def both(self, call: Callable[[Store], object]) -> object:
        one, two = (self._answer(call, store) for store in self.stores)
        assert one == two
        return one

    def _answer(self, call: Callable[[Store], object], store: Store) -> object:
        try:
            return call(store)
        except SidestageError as error:
            return type(error), str(error)

    def begin(self) -> None:
        dice = self.dice
        environment = dice.choice(["production", "production", "fix", "nowhere"])
        names = [f"p{n}" for n in dice.sample(range(6), dice.randint(0, 4))]
        steps = [
            NewStep(
                f"s@{name}",
                f"task {dice.randint(1, 2)}",
                "a/b",
                name,
                dice.choice([None, *self.versions[-3:]])
                if dice.random() < 0.4
                else self._shown(environment, name),
                tuple(f"s@{other}" for other in names[:position] if dice.random() < 0.4),
                dice.choice(["default", "default", "gpu"]),
                dice.choice([None, None, "heavy", "light"]),
                dice.randint(1, 3),
            )
            for position, name in enumerate(names)
        ]
        key = dice.choice([None, None, "k1", "k2"])
        new = NewRun(dice.choice("pq"), environment, "tree:1", "ann", "", "{}", key=key)
        alone = dice.random() < 0.2
        run = self.both(lambda store: store.begin_run(new, steps, NOON, alone=alone))
        if isinstance(run, int) and run not in self.runs:
            self.runs.append(run)
            self.steps.update({(run, each.id): (environment, each) for each in steps})

    def claim(self) -> None:
        demand = self._demand()
        found = self.both(lambda store: store.claim(demand, at(1)))
        assert isinstance(found, tuple)
        self.claims += found

    def _demand(self) -> Demand:
        dice = self.dice
        owner, limit, lease = dice.choice(["w1", "w2"]), dice.randint(0, 3), dice.choice(SECONDS)
        runs = None if dice.random() < 0.6 else dice.sample(self.runs, min(2, len(self.runs)))
        queues = dice.choice([None, None, ("default",), ("gpu", "default")])
        pools = dice.choice([(), POOLS, POOLS, POOLS[:1]])
        return Demand(owner, limit, lease=lease, runs=runs, queues=queues, pools=pools)

    def settle(self) -> None:
        if self.claims:
            recent = self.claims[-8:]
            outcomes = [self._outcome(self.dice.choice(recent)) for _ in range(self.dice.randint(1, 4))]
            if self.dice.random() < 0.5:
                self.both(lambda store: store.settle(outcomes, at(2)))
            else:
                demand = self._demand()
                found = self.both(lambda store: store.exchange(outcomes, demand, at(2)))
                assert isinstance(found, Exchanged)
                self.claims += found.claims or ()

    def _outcome(self, claim: Claim) -> Outcome:
        dice = self.dice
        kind = dice.random()
        if kind < 0.2:
            return Failure(claim, "transient", "no luck", "trace", retry_in=dice.choice((None, *SECONDS)))
        if kind < 0.35:
            return Reuse(claim, dice.choice([*self.versions, "none"]), point=dice.random() < 0.7)
        environment, step = self.steps[claim.run, claim.step]
        version = f"v{len(self.versions):03}" if dice.random() < 0.9 else dice.choice([*self.versions, "v"])
        self.versions.append(version)
        stored = Stored(f"{version}.parquet", 1, "c", (), digest(0))
        made = Version(
            version, "a/b", step.partition, stored, environment, str(claim.run), claim.step,
            dice.choice(["c1", "c1", "c2"]), (), at(1), float(len(self.versions)),
        )  # fmt: skip
        return Publication(claim, made, isolation=dice.choice(["", "process"]))

    def of_workers(self) -> None:
        dice, name = self.dice, self.dice.choice(["w1", "w2", "w3"])
        worker = Worker(name, ("default",), 1, dice.random() < 0.2, NOON, NOON)
        run = dice.choice([None, *self.runs[-2:]])
        calls: list[Callable[[Store], object]] = [
            lambda store: store.beat(worker, lease=3600.0, now=at(3)),
            lambda store: store.abandon(name, at(4), run=run),
            lambda store: store.drain(name),
        ]
        self.both(dice.choice(calls))

    def of_runs(self) -> None:
        run, state = self.dice.choice([*self.runs, 999]), self.dice.choice(["cancelled", "failed"])
        if self.dice.random() < 0.5:
            self.both(lambda store: store.end_run(run, state, at(5)))
        else:
            self.both(lambda store: store.reopen_run(run, driver="me"))

    def of_catalog(self) -> None:
        dice = self.dice
        partition, shown = f"p{dice.randint(0, 5)}", [None, *self.versions[-6:]]
        old = self._shown("production", partition) if dice.random() < 0.7 else dice.choice(shown)
        code = (CodeChange("task 1", None, "c1"),) if dice.random() < 0.1 else ()
        undoes = dice.choice([None, None, *self.moves])
        move = a_move((partition, old, dice.choice(shown)), code=code, undoes=undoes)
        ids, since = dice.sample(self.versions, min(3, len(self.versions))), dice.choice([None, at(0), at(9)])
        if dice.random() < 0.7:
            made = self.both(lambda store: store.move(move, at(6)))
            self.moves += [made.id] if hasattr(made, "id") else []
        else:
            self.both(lambda store: store.forget_versions(ids, at(7), keep_since=since))

    def _shown(self, environment: str, partition: str) -> str | None:
        return self.stores[0].pointers(environment).get(("a/b", partition))

    def compare(self) -> None:
        """Compare all there is to be seen."""
        for name in ("production", "fix"):
            self.both(lambda store, name=name: store.pointers(name))
            self.both(lambda store, name=name: store.pointers(name, as_of=at(2)))
            self.both(lambda store, name=name: store.released(name))
        for run in self.runs:
            self.both(lambda store, run=run: (store.run(run), store.steps(run), store.attempts(run)))
            self.both(
                lambda store, run=run: (store.owners(run), store.made(run, [f"s@p{n}" for n in range(6)]))
            )
        self.both(lambda store: (store.runs(limit=99), store.open_runs(), store.workers()))
        self.both(lambda store: (store.waiting(), store.holdings()))
        self.both(lambda store: (store.events(limit=9999), store.events(after=5, limit=3)))
        self.both(
            lambda store: (store.pointer_log(limit=9999), store.moves(limit=9999), store.environments())
        )
        self.both(lambda store: (list(store.all_versions()), store.data_gone(self.versions)))
        self.both(lambda store: store.unreferenced_versions(at(3)))
        self.both(lambda store: store.task_seconds(["task 1", "task 2", "none"]))
        self.both(lambda store: (due := store.next_due()) and due > 1.0)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_calls_have_the_same_answers(seed: int, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as sql:
        memory = open_memory_store(time.monotonic)
        caller = Caller(seed, (memory, sql))
        for name, base in (("production", None), ("fix", "production")):
            caller.both(
                lambda store, n=name, b=base: store.save_environment(Environment(n, b, "", "open", NOON))
            )
        for _ in range(4):
            caller.begin()
        kinds = [caller.claim, caller.claim, caller.settle, caller.settle, caller.settle]
        kinds += [caller.begin, caller.of_workers, caller.of_runs, caller.of_catalog]
        for number in range(CALLS):
            caller.dice.choice(kinds)()
            if number % 20 == 19:
                caller.compare()
        caller.compare()
