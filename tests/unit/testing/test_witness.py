"""The witness: each thing that it watches for is noticed, and what is right is not."""

import msgspec
import pytest
from tests.contract.making import NOON, at, begin, output, step, take

from sidestage.policy.pool import Pool
from sidestage.store.records import Beat, Claim, Demand, Environment, Publication, Settled
from sidestage.testing.memory_store import MemoryStore
from sidestage.testing.memory_tables import LogRow, Tables
from sidestage.testing.turned_clock import HandClock
from sidestage.testing.witness import Witness


class Court:
    """A store, a witness, and what was published with the witness looking on."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.tables = Tables(self.clock.monotonic)
        self.store = MemoryStore(self.tables)
        self.store.save_environment(Environment("production", None, "", "open", NOON))
        self.witness = Witness(self.tables, [Pool("heavy", 2)], self.clock.monotonic)
        self.files: set[str] = set()

    def claim(self, run: int, owner: str = "w1") -> list[Claim]:
        claims = take(self.store, run, owner=owner, lease=10.0)
        self.witness.claimed(claims, 10.0)
        return claims

    def publish(self, claim: Claim, version: str) -> Publication:
        outcome = Publication(claim, output(self.store, claim, version))
        settled = self.store.settle([outcome], at(2))
        self.witness.settled([outcome], settled)
        self.witness.acknowledged([outcome], settled)
        self.files.add(outcome.version.stored.path)
        return outcome

    def verdict(self) -> str:
        self.witness.conclude(self.store, self.files)
        return "\n".join(self.witness.violations)


@pytest.fixture
def court() -> Court:
    return Court()


def test_what_is_right_is_not_accused(court: Court) -> None:
    run = begin(court.store, step("s1"), step("t1", "s1"))
    (late,) = court.claim(run)
    court.clock.advance(10.0)
    (claim,) = court.claim(run, "w2")
    court.publish(late, "v0")
    court.files.discard("v0.parquet")
    court.publish(claim, "v1")
    (last,) = court.claim(run, "w2")
    court.publish(last, "v2")
    court.witness.heard(run, "t1", "v2")
    assert court.verdict() == ""


def test_a_claim_within_anothers_lease_is_noticed(court: Court) -> None:
    run = begin(court.store, step("s1"))
    (claim,) = court.claim(run)
    court.witness.beaten(Beat(frozenset({(run, "s1", 1)}), draining=False), 10.0)
    court.clock.advance(9.9)
    court.witness.claimed([msgspec.structs.replace(claim, owner="w2", fence=2)], 10.0)
    assert "while w1 held the lease" in court.verdict()


def test_a_publication_by_somebody_else_is_noticed(court: Court) -> None:
    run = begin(court.store, step("s1"))
    (claim,) = court.claim(run)
    outcome = court.publish(claim, "v1")
    thief = msgspec.structs.replace(outcome, claim=msgspec.structs.replace(claim, fence=7))
    court.witness.settled([thief], [Settled("s1", "done")])
    assert "though v1 was published before" in court.verdict()


def test_a_refusal_of_the_newest_claim_is_noticed(court: Court) -> None:
    run = begin(court.store, step("s1"))
    (claim,) = court.claim(run)
    court.witness.settled([Publication(claim, output(court.store, claim, "v1"))], [Settled("s1", "fenced")])
    assert "was refused, though it was the newest" in court.verdict()


def test_a_publication_after_the_end_of_its_run_is_noticed(court: Court) -> None:
    run = begin(court.store, step("s1"))
    (claim,) = court.claim(run)
    court.store.end_run(run, "cancelled", at(2))
    court.witness.ended(run, "cancelled")
    court.witness.settled([Publication(claim, output(court.store, claim, "v1"))], [Settled("s1", "done")])
    assert "in a run that was cancelled" in court.verdict()


def test_a_run_that_goes_nowhere_is_noticed(court: Court) -> None:
    begin(court.store, step("s1"))
    assert "run 1 is stuck" in court.verdict()


@pytest.mark.parametrize(
    ("damage", "accusation"),
    [
        (lambda court: court.files.clear(), "its file was removed"),
        (lambda court: court.tables.versions.clear(), "not in the store"),
        (lambda court: court.tables.log.extend(court.tables.log), "each version once"),
        (lambda court: court.tables.pointers["production"].clear(), "differ from their log"),
        (lambda court: court.tables.runs[0].steps[0].attempts.clear(), "attempts are done"),
        (lambda court: setattr(court.tables.runs[0].steps[0], "state", "failed"), "what was seen is v1"),
        (
            lambda court: court.witness.heard(1, "s1", "v1") or court.witness.heard(1, "s1", "v1"),
            "told twice",
        ),
        (lambda court: court.witness.heard(1, "s1", "v9"), "told to be published, and is not"),
        (
            lambda court: court.tables.point(
                LogRow(NOON, ("production", "a/b", "s2"), None, "v7", "publish", None, 1)
            ),
            "each version once",
        ),
    ],
)
def test_damage_to_the_records_is_noticed(court: Court, damage: object, accusation: str) -> None:
    run = begin(court.store, step("s1"))
    (claim,) = court.claim(run)
    court.publish(claim, "v1")
    assert callable(damage)
    damage(court)
    assert accusation in court.verdict()


def test_a_pool_that_is_more_than_full_is_noticed(court: Court) -> None:
    steps = [msgspec.structs.replace(step(f"s{n}"), pool="heavy") for n in range(3)]
    begin(court.store, *steps)
    claims = court.store.claim(Demand("w1", 9, lease=9.0, pools=[Pool("heavy", 3)]), NOON)
    court.witness.claimed(claims, 9.0)
    assert "pool heavy has 2 slots, of which 3 are held" in court.verdict()
