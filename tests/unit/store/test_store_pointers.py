"""Publish, promote, roll back and look back, in any order, against a model made of dicts."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidestage.data.version import Digest, Stored, Version
from sidestage.errors import StaleWorld
from sidestage.store.records import Demand, Environment, NewMove, NewRun, NewStep, PointerChange, Publication
from sidestage.store.sql import open_store

START = datetime(2013, 1, 1, tzinfo=UTC)
ENVIRONMENTS = ("production", "fix")
STORED = Stored("path", 1, "c", (), Digest("d1", 1, "0", ()))
environments = st.sampled_from(ENVIRONMENTS)
partitions = st.sampled_from(["a", "b", "ü"])


class Pointers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_store(f"sqlite:///{Path(self.folder.name) / 'store'}")
        self.now = START
        self.count = 0
        self.shown: dict[str, dict[str, str]] = {name: {} for name in ENVIRONMENTS}
        self.history: list[tuple[datetime, dict[str, dict[str, str]]]] = []
        self.moves: dict[int, tuple[PointerChange, ...]] = {}
        for name in ENVIRONMENTS:
            self.store.save_environment(Environment(name, None, "", "open", START))
        self.remember()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def remember(self) -> None:
        self.history.append((self.now, {name: dict(own) for name, own in self.shown.items()}))
        self.now += timedelta(seconds=1)

    @rule(environment=environments, partition=partitions, honest=st.booleans())
    def publish(self, environment: str, partition: str, honest: bool) -> None:
        shown = self.shown[environment].get(partition)
        new = NewStep("s", "t", "d", partition, shown if honest else "another")
        run = self.store.begin_run(NewRun("p", environment, "", "", "", ""), [new], self.now)
        (claim,) = self.store.claim(Demand("w", 1, lease=60, runs=[run]), self.now)
        self.count += 1
        name = f"v{self.count:06}"
        version = Version(name, "d", partition, STORED, environment, str(run), "s", "c", (), self.now, 1.0)
        (settled,) = self.store.settle([Publication(claim, version)], self.now)
        self.store.end_run(run, "done", self.now)
        assert settled.result == ("done" if honest else "stale")
        assert set(self.store.versions([name])) == ({name} if honest else set())
        if honest:
            self.shown[environment][partition] = name
        self.remember()

    def make_move(self, kind: str, changes: tuple[PointerChange, ...], undoes: int | None = None) -> None:
        move = NewMove(kind, "production", "ann", "", "", changes, undoes=undoes)
        own = self.shown["production"]
        fits = all(own.get(each.partition) == each.old for each in changes)
        if not fits:
            with pytest.raises(StaleWorld):
                self.store.move(move, self.now)
            return
        made = self.store.move(move, self.now)
        self.moves[made.id] = changes
        if undoes is not None:
            del self.moves[undoes]
        for each in changes:
            if each.new is None:
                own.pop(each.partition, None)
            else:
                own[each.partition] = each.new
        self.remember()

    @rule(wrong=st.booleans())
    def promote(self, wrong: bool) -> None:
        changes = [
            PointerChange("d", partition, self.shown["production"].get(partition), version)
            for partition, version in self.shown["fix"].items()
        ]
        if changes and wrong:
            changes[-1] = PointerChange("d", changes[-1].partition, "another", changes[-1].new)
        self.make_move("promote", tuple(changes))

    @precondition(lambda self: self.moves)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        undoes = data.draw(st.sampled_from(sorted(self.moves)))
        back = tuple(PointerChange("d", c.partition, c.new, c.old) for c in self.moves[undoes])
        self.make_move("rollback", back, undoes)

    @rule(data=st.data(), environment=environments)
    def look_back(self, data: st.DataObject, environment: str) -> None:
        moment, shown = data.draw(st.sampled_from(self.history))
        then = self.store.pointers(environment, as_of=moment)
        assert then == {("d", partition): version for partition, version in shown[environment].items()}

    @rule()
    def clean_up(self) -> None:
        gone = {version.id for version in self.store.unreferenced_versions(self.now)}
        assert not gone & {v for own in self.shown.values() for v in own.values()}
        assert self.store.forget_versions(gone, self.now) == len(gone)
        # What cannot be shown any more cannot be rolled back to; the store's contract tests refuse that.
        self.moves = {
            move: changes
            for move, changes in self.moves.items()
            if not self.store.data_gone([each.old for each in changes if each.old])
        }

    @invariant()
    def pointers_are_those_of_the_model(self) -> None:
        for environment, own in self.shown.items():
            shown = self.store.pointers(environment)
            assert shown == {("d", partition): version for partition, version in own.items()}


TestPointers = Pointers.TestCase
TestPointers.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
