"""The suite that every store must pass: triggers and ticks, of which each is begun once, in order."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from tests.contract.making import NOON, Opener, at, step

from sidestage.errors import NotFound, StoreError
from sidestage.store.contract import Store
from sidestage.store.records import NewRun, NewStep
from sidestage.store.tick_records import NewTick, Tick, TriggerState

EVERY, OTHER = '{"type":"every"}', '{"type":"cron"}'


def new_run(minutes: float = 0, pipeline: str = "p") -> NewRun:
    return NewRun(pipeline, "production", "tree:1", "trigger", "", "{}", key=f"tick:{pipeline}:{minutes}")


def begin(store: Store, minutes: float, previous: float, *steps: NewStep, pipeline: str = "p") -> Tick | None:
    run = new_run(minutes, pipeline) if steps else None
    return store.begin_tick(NewTick(pipeline, at(minutes), at(previous)), run, steps, at(100))


def state(store: Store, pipeline: str = "p") -> TriggerState:
    return next(each for each in store.triggers() if each.pipeline == pipeline)


def test_ticks_are_due_since_the_trigger_was_first_declared(store: Store) -> None:
    assert store.triggers() == ()
    store.declare_triggers({"q": OTHER, "p": EVERY}, at(0))
    store.declare_triggers({"q": OTHER, "p": EVERY}, at(5))
    assert store.triggers() == (TriggerState("p", EVERY, at(0)), TriggerState("q", OTHER, at(0)))
    assert state(store).reached == at(0)
    assert store.ticks("p") == ()


def test_a_trigger_that_was_changed_goes_on_where_it_was(store: Store) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    begin(store, 1, 0)
    store.declare_triggers({"p": OTHER}, at(5))
    assert state(store).trigger == OTHER
    assert state(store).reached == at(1)


def test_a_trigger_that_comes_back_soon_was_never_away(store: Store) -> None:
    """Or a worker with other code, which starts for a moment, would make ticks vanish that are due."""
    store.declare_triggers({"p": EVERY, "q": EVERY}, at(0))
    begin(store, 1, 0)
    store.hold_tick("p", "no luck")
    store.declare_triggers({"q": EVERY}, at(5))
    store.declare_triggers({"q": EVERY}, at(6))
    assert state(store) == TriggerState("p", None, at(0), Tick("p", at(1), None, at(100)))
    store.declare_triggers({"p": EVERY, "q": EVERY}, at(9))
    assert (state(store).since, state(store).reached) == (at(0), at(1))
    assert begin(store, 2, 1) == Tick("p", at(2), None, at(100))


@pytest.mark.parametrize(("away", "comes_back_as"), [(24 * 60 + 1, EVERY), (4, OTHER)], ids=["long", "other"])
def test_while_a_pipeline_has_no_trigger_nothing_is_due(
    store: Store, away: float, comes_back_as: str
) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    begin(store, 1, 0)
    store.declare_triggers({}, at(5))
    assert state(store).trigger is None
    back = 5 + away
    store.declare_triggers({"p": comes_back_as}, at(back))
    assert state(store).since == state(store).reached == at(back)
    assert begin(store, back + 1, 1) is None
    assert begin(store, back + 1, back) == Tick("p", at(back + 1), None, at(100))


def test_a_tick_and_its_run_are_recorded_together(store: Store) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    made = begin(store, 1, 0, step("a"), step("b", "a"))
    assert made is not None
    assert made == Tick("p", at(1), made.run, at(100))
    assert made.run is not None
    assert [each.state for each in store.steps(made.run)] == ["ready", "waiting"]
    assert state(store).last == made
    store.end_run(made.run, "done", at(2))
    idle = begin(store, 2, 1)
    assert idle == Tick("p", at(2), None, at(100))
    assert store.ticks("p") == (idle, made)
    assert store.ticks("p", limit=1) == (idle,)
    assert len(store.runs()) == 1


def test_a_tick_is_begun_once_and_none_is_skipped(store: Store) -> None:
    assert begin(store, 1, 0, step("a")) is None, "nobody declared a trigger"
    store.declare_triggers({"p": EVERY, "q": EVERY}, at(0))
    first = begin(store, 1, 0)
    assert begin(store, 1, 0, step("a")) is None, "it was begun already"
    assert begin(store, 3, 2, step("a")) is None, "the one before was not"
    assert begin(store, 2, 0, step("a")) is None, "another came before"
    assert begin(store, 1, 0, pipeline="q") is not None, "each pipeline has its own"
    assert store.ticks("p") == (first,)
    assert store.runs() == ()
    with pytest.raises(StoreError, match="not later"):
        begin(store, 1, 1)


def test_what_begin_run_refuses_is_no_tick(store: Store) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    run = store.begin_run(new_run(), [step("a")], NOON)
    with pytest.raises(StoreError, match=f"Run {run} of 'p'"):
        begin(store, 1, 0, step("a"))
    with pytest.raises(StoreError, match="does not stand before"):
        begin(store, 1, 0, step("a", "b"))
    unknown = NewRun("p", "nowhere", "tree:1", "trigger", "", "{}", key="k")
    with pytest.raises(NotFound):
        store.begin_tick(NewTick("p", at(1), at(0)), unknown, [step("a")], NOON)
    assert store.ticks("p") == ()
    assert state(store).reached == at(0)
    store.end_run(run, "cancelled", NOON)
    assert begin(store, 1, 0, step("a")) is not None


def test_what_holds_a_tick_up_is_known_until_it_is_begun(store: Store) -> None:
    store.declare_triggers({"p": EVERY, "q": EVERY}, at(0))
    store.hold_tick("p", "no luck")
    store.hold_tick("none", "nobody")
    assert [each.held for each in store.triggers()] == ["no luck", None]
    store.declare_triggers({"p": EVERY, "q": EVERY}, at(1))
    assert state(store).held == "no luck"
    begin(store, 1, 0)
    assert state(store).held is None


def test_others_see_what_was_recorded(open_same: Opener, store: Store) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    begin(store, 1, 0)
    other = open_same()
    assert other.triggers() == store.triggers()
    assert begin(other, 1, 0) is None
    assert begin(other, 2, 1) is not None
    assert begin(store, 2, 1) is None


def test_of_many_who_begin_the_same_tick_one_does(open_same: Opener, store: Store) -> None:
    store.declare_triggers({"p": EVERY}, at(0))
    handles = [open_same() for _ in range(4)]
    barrier = Barrier(len(handles))

    def race(handle: Store) -> list[Tick | None]:
        found = []
        for minutes in range(1, 6):
            barrier.wait()
            found.append(begin(handle, minutes, minutes - 1))
        return found

    with ThreadPoolExecutor(len(handles)) as pool:
        results = list(pool.map(race, handles))
    assert [sum(each is not None for each in at_once) for at_once in zip(*results, strict=True)] == [1] * 5
    assert [tick.at for tick in store.ticks("p")] == [at(minutes) for minutes in (5, 4, 3, 2, 1)]


def test_of_many_who_declare_a_trigger_one_says_since_when(open_same: Opener, store: Store) -> None:
    handles = [open_same() for _ in range(4)]
    barrier = Barrier(len(handles))

    def declare(number: int) -> Tick | None:
        barrier.wait()
        handles[number].declare_triggers({"p": EVERY}, at(number))
        since = (state(handles[number]).since - NOON).total_seconds() / 60
        return begin(handles[number], 9, since)

    with ThreadPoolExecutor(len(handles)) as pool:
        begun = list(pool.map(declare, range(len(handles))))
    assert sum(each is not None for each in begun) == 1, "nobody changed it afterwards"
    assert len(store.ticks("p")) == 1
