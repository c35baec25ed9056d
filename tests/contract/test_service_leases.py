"""The suite that every store must pass: services, each held by one owner at a time."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.contract.making import Opener, at

from sidestage.store.contract import Store
from sidestage.store.service_records import ServiceNote, ServiceState

LONG = 60.0
SHORT = 0.2


def hold(store: Store, owner: str, service: str = "p.s", lease: float = LONG) -> int | None:
    return store.hold_service(service, owner, lease=lease, now=at(0))


def test_a_service_is_held_by_one_owner(store: Store) -> None:
    assert store.services() == ()
    assert hold(store, "ann") == 1
    assert hold(store, "bob") is None
    assert hold(store, "bob", "p.other") == 1
    assert [(each.service, each.owner, each.fence) for each in store.services()] == [
        ("p.other", "bob", 1),
        ("p.s", "ann", 1),
    ]


def test_a_holder_extends_its_lease_and_keeps_its_fence(store: Store) -> None:
    assert hold(store, "ann", lease=SHORT) == 1
    assert hold(store, "ann", lease=LONG) == 1
    time.sleep(SHORT * 2)
    assert hold(store, "bob") is None, "the lease was extended"


def test_a_lease_ends_by_the_clock_of_the_database(store: Store) -> None:
    assert hold(store, "ann", lease=SHORT) == 1
    time.sleep(SHORT * 1.5)
    assert store.services()[0].owner is None
    assert hold(store, "bob") == 2
    assert hold(store, "ann") is None
    assert store.services()[0].owner == "bob"


def test_a_holder_that_was_late_goes_on_if_nobody_came(store: Store) -> None:
    assert hold(store, "ann", lease=SHORT) == 1
    time.sleep(SHORT * 1.5)
    assert hold(store, "ann") == 1
    assert hold(store, "bob") is None


def test_what_was_given_back_can_be_taken_at_once(store: Store) -> None:
    assert hold(store, "ann") == 1
    assert store.release_service("p.s", 1)
    assert store.services()[0].owner is None
    assert hold(store, "bob") == 2
    assert not store.release_service("p.s", 1), "it is another's"
    assert not store.release_service("p.other", 1)
    assert store.services()[0].owner == "bob"


def test_what_is_said_stays_when_the_service_is_given_back(store: Store) -> None:
    hold(store, "ann")
    said = ServiceNote("failed", "OSError: no", 5, "")
    assert store.note_service("p.s", 1, said, at(3))
    store.release_service("p.s", 1)
    assert store.services() == (ServiceState("p.s", None, 1, at(3), said),)


def test_since_is_when_the_state_began(store: Store) -> None:
    hold(store, "ann")
    for minute, said in enumerate(
        [ServiceNote("running"), ServiceNote("running", "steady", 1, "http://x"), ServiceNote("draining")], 1
    ):
        assert store.note_service("p.s", 1, said, at(minute))
        (state,) = store.services()
        assert state.said == said
        assert state.since == at(3 if said.state == "draining" else 1)


def test_only_the_holder_says_what_becomes_of_it(store: Store) -> None:
    hold(store, "ann", lease=SHORT)
    time.sleep(SHORT * 1.5)
    assert hold(store, "bob") == 2
    store.note_service("p.s", 2, ServiceNote("running"), at(1))
    assert not store.note_service("p.s", 1, ServiceNote("failed"), at(2))
    assert not store.note_service("p.other", 1, ServiceNote("failed"), at(2))
    assert store.services()[0].said == ServiceNote("running")


def test_people_ask_for_a_new_start(store: Store) -> None:
    assert not store.ask_service("p.s")
    hold(store, "ann")
    assert store.ask_service("p.s")
    assert store.ask_service("p.s")
    assert store.services()[0].asked == 2
    assert hold(store, "bob") is None, "asking takes it from nobody"


def test_of_many_that_want_a_service_at_once_one_gets_it(open_same: Opener) -> None:
    stores = [open_same() for _ in range(4)]
    for each in range(5):
        gate = Barrier(len(stores))

        def want(number: int, service: str = f"p.s{each}", gate: Barrier = gate) -> int | None:
            gate.wait()
            return hold(stores[number], f"owner {number}", service)

        with ThreadPoolExecutor(len(stores)) as threads:
            got = list(threads.map(want, range(len(stores))))
        assert sorted(fence for fence in got if fence is not None) == [1]
