"""A step that fails gives back its slots of a pool: those who wait for them hear of it at once."""

import select

import pytest
from tests.contract.making import Opener, at, begin, output, publish, step, take

from sidestage.store.contract import Store, Wakeups
from sidestage.store.records import Claim, Failure, Publication, Settled

PATIENT = 5.0


def hears(ear: Wakeups) -> bool:
    """Whether an ear hears something, given a moment where there is something to wait for."""
    descriptor = ear.fileno()
    if descriptor is not None:
        select.select([descriptor], [], [], PATIENT)
    return ear.heard()


def fail(store: Store, claim: Claim, retry_in: float | None) -> Settled:
    failure = Failure(claim, "transient", "away", retry_in=retry_in)
    return store.settle([failure], at(2))[0]


@pytest.mark.parametrize(("retry_in", "result"), [(600.0, "retry"), (None, "failed")])
def test_a_failed_attempt_wakes_others(
    store: Store, open_same: Opener, retry_in: float | None, result: str
) -> None:
    """The run goes on, and no step waits for this one: nothing else could have woken them."""
    run = begin(store, step("s1"), step("s2"))
    claim, _ = take(store, run)
    ear = open_same().listen()
    try:
        ear.heard()
        assert fail(store, claim, retry_in).result == result
        assert hears(ear)
        assert not ear.heard()
    finally:
        ear.close()


def test_a_refused_publication_wakes_others(store: Store, open_same: Opener) -> None:
    run = begin(store, step("s1"), step("s2"))
    first, second = take(store, run)
    publish(store, first, "v1")
    ear = open_same().listen()
    try:
        ear.heard()
        again = Publication(second, output(store, second, "v1"))
        assert store.settle([again], at(2))[0].result == "failed"
        assert hears(ear)
    finally:
        ear.close()
