"""Lookups with a memory: who is asked, what is remembered, and what is said while nobody answers."""

import asyncio
import threading
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Breaker, Circuit
from sidestage.policy.failure import classify
from sidestage.policy.fallback import FailureBudget, FallbackTurned
from sidestage.stream.lookups.cache import Cache, CoroutineLookup, Lookup
from sidestage.stream.lookups.shelf import Found, Shelf
from sidestage.testing.turned_clock import HandClock

LONG = 30.0
SHORT = 0.02


class Service:
    """Knows numbers below a hundred, unless it is down; counts what it is asked."""

    def __init__(self) -> None:
        self.down: BaseException | None = None
        self.asked: Counter[int] = Counter()
        self.version = 1

    def __call__(self, key: int) -> tuple[int, int] | None:
        self.asked[key] += 1
        if self.down:
            raise self.down
        return (key, self.version) if key < 100 else None

    def many(self, keys):
        return {key: found for key in keys if (found := self(key)) is not None}

    async def soon(self, key):
        await asyncio.sleep(0)
        return self(key)

    async def many_soon(self, keys):
        await asyncio.sleep(0)
        return self.many(keys)


class OneByOne:
    """A coroutine lookup that is used like a plain one."""

    def __init__(self, *args, **kwargs) -> None:
        self.lookup = CoroutineLookup(*args, **kwargs)

    def look_up(self, keys):
        return asyncio.run(self.lookup.look_up(keys))

    def __getattr__(self, name):
        return getattr(self.lookup, name)


@pytest.fixture(params=["one", "many", "one, soon", "many, soon"])
def make(request):
    """Return what builds a lookup of a service, in each of the four ways to ask it."""

    def build(service, clock, circuit=None, listener=None, **numbers):
        options = {"circuit": circuit, "listener": listener, "many": request.param.startswith("many")}
        function = {
            "one": service,
            "many": service.many,
            "one, soon": service.soon,
            "many, soon": service.many_soon,
        }[request.param]
        kind = OneByOne if request.param.endswith("soon") else Lookup
        return kind("users", function, Cache(**numbers), clock, **options)

    return build


def seen(answers):
    return [(each.kind, each.value) for each in answers]


def test_each_key_is_asked_for_once_and_answers_come_in_order(make):
    service, lookup = Service(), None
    lookup = make(service, HandClock())
    assert seen(lookup.look_up([3, 1, 3, 1, 2])) == [("known", (each, 1)) for each in (3, 1, 3, 1, 2)]
    assert service.asked == {1: 1, 2: 1, 3: 1}
    assert seen(lookup.look_up([2, 3])) == [("known", (2, 1)), ("known", (3, 1))]
    assert service.asked.total() == 3
    counted = lookup.snapshot()
    assert (counted.hits, counted.misses, counted.negative, counted.entries) == (2, 5, 0, 3)
    assert lookup.look_up([]) == []


def test_values_are_asked_for_anew_after_their_time(make):
    service, clock = Service(), HandClock()
    lookup = make(service, clock, fresh=10)
    lookup.look_up([1])
    clock.advance(9.5)
    service.version = 2
    assert lookup.look_up([1])[0].value == (1, 1)
    clock.advance(0.5)
    assert lookup.look_up([1])[0].value == (1, 2)


def test_unknown_keys_are_known_to_be_for_a_time_of_their_own(make):
    service, clock = Service(), HandClock()
    lookup = make(service, clock, fresh=100, unknown=5)
    assert seen(lookup.look_up([500, 1, 500])) == [("unknown", None), ("known", (1, 1)), ("unknown", None)]
    clock.advance(4)
    assert seen(lookup.look_up([500, 1])) == [("unknown", None), ("known", (1, 1))]
    assert service.asked[500] == 1
    assert lookup.snapshot().negative == 1
    clock.advance(1)
    lookup.look_up([500])
    assert service.asked == {500: 2, 1: 1}


def test_unknown_keys_need_not_be_remembered_and_have_the_default_for_a_value(make):
    service = Service()
    lookup = make(service, HandClock(), unknown=0, default="nobody")
    for _ in range(2):
        assert seen(lookup.look_up([500])) == [("unknown", "nobody")]
    assert service.asked[500] == 2


def test_what_was_last_known_helps_while_nobody_answers(make):
    service, clock, heard = Service(), HandClock(), []
    lookup = make(service, clock, listener=heard.append, fresh=10, budget=FailureBudget(seconds=60, calm=1))
    lookup.look_up([1, 2])
    clock.advance(10)
    service.down = ConnectionError("rebooting")
    answers = lookup.look_up([1, 2, 3, 1])
    assert [each.kind for each in answers] == ["stale", "stale", "failed", "stale"]
    assert answers[0].value == (1, 1)
    assert all(each.error is service.down for each in answers)
    assert [(each.before, each.after) for each in heard] == [("normal", "degraded")]
    assert heard[0].why == "a call failed (transient)"
    assert lookup.snapshot().mode == "degraded"
    clock.advance(60.5)
    assert [each.kind for each in lookup.look_up([1])] == ["failed"], "the budget is spent"
    clock.advance(1)
    service.down = None
    service.version = 2
    assert seen(lookup.look_up([1])) == [("known", (1, 2))]
    assert [each.after for each in heard] == ["degraded", "spent", "normal"]
    assert isinstance(heard[-1], FallbackTurned)
    assert (heard[-1].seconds, heard[-1].makeshift, heard[-1].failed) == (61.5, 3, 1)
    counted = lookup.snapshot()
    assert (counted.stale, counted.failed, counted.mode) == (3, 2, "normal")


def test_a_share_of_makeshift_answers_at_most(make):
    service, clock = Service(), HandClock()
    budget = FailureBudget(seconds=None, share=0.1, least=10, within=1000)
    lookup = make(service, clock, fresh=10, budget=budget)
    lookup.look_up(list(range(90)))
    clock.advance(10)
    service.down = ConnectionError("rebooting")
    kinds = Counter(each.kind for each in lookup.look_up(list(range(20))))
    assert kinds["stale"] in (10, 11)
    assert kinds["stale"] + kinds["failed"] == 20


def test_a_default_where_nothing_was_known(make):
    service = Service()
    service.down = TimeoutError("slow")
    lookup = make(service, HandClock(), default={"name": "unknown"})
    assert seen(lookup.look_up([1])) == [("default", {"name": "unknown"})]
    assert lookup.snapshot().default == 1
    service.down = None
    assert seen(lookup.look_up([1])) == [("known", (1, 1))], "a makeshift answer is not remembered"


def test_none_is_a_default_too(make):
    service = Service()
    service.down = TimeoutError("slow")
    assert [each.kind for each in make(service, HandClock(), default=None).look_up([1])] == ["default"]


def test_without_a_budget_a_failure_is_a_failure(make):
    service, clock = Service(), HandClock()
    lookup = make(service, clock, fresh=10, budget=None, default=0)
    lookup.look_up([1])
    clock.advance(10)
    service.down = TimeoutError("slow")
    (answer,) = lookup.look_up([1])
    assert (answer.kind, answer.value, answer.error) == ("failed", None, service.down)


def test_while_its_circuit_is_open_nobody_is_asked(make):
    service, clock = Service(), HandClock()
    circuit = Circuit("users", Breaker(in_a_row=1, pause=5), clock)
    lookup = make(service, clock, circuit=circuit, fresh=10)
    lookup.look_up([1])
    clock.advance(10)
    service.down = ConnectionError("rebooting")
    assert lookup.look_up([1])[0].kind == "stale"
    assert circuit.state == "open"
    calls = lookup.snapshot().calls
    (answer, other) = lookup.look_up([1, 2])
    assert (answer.kind, other.kind) == ("stale", "failed")
    assert classify(other.error) == "transient"
    assert "stays open for 5 s" in str(other.error)
    assert lookup.snapshot().calls == calls
    assert service.asked == {1: 2}
    clock.advance(5)
    service.down = None
    assert lookup.look_up([1])[0].kind == "known"
    assert circuit.state == "closed"


def test_a_bug_of_the_function_does_not_open_the_circuit(make):
    service, clock = Service(), HandClock()
    circuit = Circuit("users", Breaker(in_a_row=1), clock)
    service.down = ValueError("odd key")
    assert make(service, clock, circuit=circuit).look_up([1])[0].kind == "failed"
    assert circuit.state == "closed"


def test_a_change_is_told_by_forgetting(make):
    service = Service()
    lookup = make(service, HandClock())
    lookup.look_up([1, 2, 500])
    lookup.forget([1, 500])
    lookup.look_up([1, 2, 500])
    assert service.asked == {1: 2, 2: 1, 500: 2}


def test_more_keys_in_a_chunk_than_are_remembered(make):
    service = Service()
    lookup = make(service, HandClock(), entries=3)
    assert [each.value for each in lookup.look_up(list(range(50)))] == [(each, 1) for each in range(50)]
    counted = lookup.snapshot()
    assert (counted.entries, counted.evicted) == (3, 47)


class Stopped(BaseException):
    """What ends a worker, rather than what is wrong with an item."""


class Odd:
    """A key that cannot be hashed, and says so in its own way."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


@pytest.mark.parametrize(("odd", "error"), [([], TypeError), (Odd(), RuntimeError)])
def test_a_key_that_cannot_be_one_fails_alone(make, odd, error):
    service = Service()
    lookup = make(service, HandClock(), default="not for this")
    answers = lookup.look_up([1, odd, 2, 1])
    assert [each.kind for each in answers] == ["known", "failed", "known", "known"]
    assert isinstance(answers[1].error, error)
    counted = lookup.snapshot()
    assert (counted.hits, counted.misses, counted.failed) == (0, 4, 1)


def test_an_error_of_one_key_concerns_only_its_items():
    def ask(key):
        if key == 2:
            raise KeyError(key)
        return key

    answers = Lookup("users", ask, Cache(), HandClock()).look_up([1, 2, 3, 2])
    assert [each.kind for each in answers] == ["known", "failed", "known", "failed"]


def test_many_keys_at_once_and_one_of_them_fails():
    calls = []

    def ask(keys):
        calls.append(keys)
        return {key: ValueError("odd") if key == 2 else key for key in keys}

    lookup = Lookup("users", ask, Cache(), HandClock(), many=True)
    assert [each.kind for each in lookup.look_up([1, 2, 3, 2])] == ["known", "failed", "known", "failed"]
    assert calls == [(1, 2, 3)]
    lookup.look_up([1, 2, 3, 4])
    assert calls[1:] == [(2, 4)]


def test_many_keys_and_an_answer_that_is_no_mapping():
    (answer,) = Lookup("users", list, Cache(), HandClock(), many=True).look_up([1])
    assert answer.kind == "failed"
    assert "returned list" in str(answer.error)


def in_threads(count, work) -> None:
    threads = [threading.Thread(target=work, args=(each,)) for each in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LONG)
        assert not each.is_alive(), "stuck"


def joined(lookup, count) -> None:
    """Wait until so many items wait for another's call; nothing else can tell."""
    pause = threading.Event()
    for _ in range(3000):
        if lookup.snapshot().joined == count:
            return
        pause.wait(0.01)
    pytest.fail(f"{lookup.snapshot().joined} instead of {count} wait")


@pytest.mark.parametrize("error", [None, ConnectionError("down")])
def test_concurrent_misses_of_a_key_call_once(error):
    calls = []

    def ask(key):
        calls.append(key)
        if key == 1:
            joined(lookup, 4)
            if error:
                raise error
        return key

    lookup = Lookup("users", ask, Cache(), HandClock())
    answers = []
    in_threads(5, lambda number: answers.append(lookup.look_up([1, 10 + number])))
    assert calls.count(1) == 1
    assert {each[0].kind for each in answers} == {"failed" if error else "known"}
    assert sorted(each[1].value for each in answers) == [10, 11, 12, 13, 14]


def test_whoever_waits_too_long_fails_and_the_next_one_asks_anew():
    let_go, asked, calls = threading.Event(), threading.Event(), []

    def ask(key):
        calls.append(key)
        asked.set()
        if len(calls) == 1:
            let_go.wait(LONG)
            return "too late"
        return "in time"

    lookup = Lookup("users", ask, Cache(patience=SHORT), HandClock())
    first = threading.Thread(target=lookup.look_up, args=([1],))
    first.start()
    assert asked.wait(LONG)
    (answer,) = lookup.look_up([1])
    assert answer.kind == "failed"
    assert classify(answer.error) == "transient"
    assert lookup.look_up([1])[0].value == "in time"
    let_go.set()
    first.join(LONG)
    assert lookup.look_up([1])[0].value == "in time", "a late answer is not remembered"


def test_when_the_one_who_asks_is_stopped_another_asks():
    calls = []

    def ask(key):
        calls.append(key)
        if len(calls) == 1:
            joined(lookup, 2)
            raise SystemExit
        return key

    lookup = Lookup("users", ask, Cache(), HandClock())
    answers = []

    def work(number) -> None:
        try:
            answers.append(lookup.look_up([7])[0].value)
        except SystemExit:
            answers.append("stopped")

    in_threads(3, work)
    assert sorted(map(str, answers)) == ["7", "7", "stopped"]
    assert calls == [7, 7]
    counted = lookup.snapshot()
    assert (counted.hits, counted.misses, counted.joined) == (0, 3, 1)


def test_a_trial_that_is_stopped_gives_its_place_to_another(make):
    service, clock = Service(), HandClock()
    circuit = Circuit("users", Breaker(in_a_row=1, pause=5), clock)
    lookup = make(service, clock, circuit=circuit)
    service.down = ConnectionError("rebooting")
    lookup.look_up([1])
    clock.advance(5)
    service.down = Stopped()
    with pytest.raises(Stopped):
        lookup.look_up([1])
    service.down = None
    assert lookup.look_up([1])[0].kind == "known"


def test_what_is_forgotten_while_it_is_asked_for_is_not_remembered():
    def ask(key):
        lookup.forget([key])
        return key

    lookup = Lookup("users", ask, Cache(), HandClock())
    assert lookup.look_up([1])[0].value == 1
    assert lookup.snapshot().entries == 0


def test_tasks_share_a_call_and_ask_again_when_it_is_cancelled():
    async def main() -> None:
        calls, let_go = [], asyncio.Event()

        async def ask(key):
            calls.append(key)
            await let_go.wait()
            return key

        lookup = CoroutineLookup("users", ask, Cache(), HandClock())
        tasks = [asyncio.create_task(lookup.look_up([1, 1])) for _ in range(3)]
        await asyncio.sleep(0)
        assert calls == [1]
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        let_go.set()
        for each in tasks[1:]:
            assert [found.value for found in await each] == [1, 1]
        assert calls == [1, 1]

    asyncio.run(main())


def test_so_many_coroutines_at_once():
    async def main() -> None:
        now, most = 0, 0

        async def ask(key):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            return key

        lookup = CoroutineLookup("users", ask, Cache(at_once=4), HandClock())
        assert [each.value for each in await lookup.look_up(list(range(20)))] == list(range(20))
        assert most == 4

    asyncio.run(main())


def test_a_task_that_waits_too_long_fails():
    async def main() -> None:
        never = asyncio.Event()
        lookup = CoroutineLookup("users", lambda key: never.wait(), Cache(patience=SHORT), HandClock())
        first = asyncio.create_task(lookup.look_up([1]))
        await asyncio.sleep(0)
        (answer,) = await lookup.look_up([1])
        assert classify(answer.error) == "transient"
        first.cancel()
        await asyncio.wait([first])

    asyncio.run(main())


@pytest.mark.parametrize(
    "numbers",
    [
        {"entries": 0},
        {"fresh": 0},
        {"fresh": float("nan")},
        {"fresh": float("inf")},
        {"unknown": -1},
        {"unknown": float("nan")},
        {"patience": 0},
        {"patience": float("inf")},
        {"at_once": 0},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        Cache(**numbers)


def kept(shelf, keys):
    return [key for key, each in zip(keys, shelf.find(keys, 0.0), strict=True) if each is not None]


def test_what_was_found_stays_what_was_not_goes():
    shelf: Shelf[int, int] = Shelf(10, None, 0.0, keeps_stale=True)
    for key in range(10):
        shelf.keep(key, Found(key), 0.0)
    for new in range(100, 200):
        assert kept(shelf, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5], "found all the time, and never dropped"
        shelf.keep(new, Found(new), 0.0)
    assert kept(shelf, [0, 6, 7, 8, 9, 100]) == []
    assert kept(shelf, list(range(195, 200))) == list(range(195, 200))
    assert len(shelf) == 10


def test_unknown_keys_do_not_push_out_known_ones():
    shelf: Shelf[int, int] = Shelf(100, None, 60.0, keeps_stale=True)
    for key in range(70):
        shelf.keep(key, Found(key), 0.0)
    for key in range(1000, 2000):
        shelf.keep(key, Found(None, "unknown"), 0.0)
    assert len(kept(shelf, list(range(70)))) == 70
    assert len(shelf) == 100


class AnyHistory(RuleBasedStateMachine):
    """Chunks, time, a service that fails and recovers, against what may be said of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.down: set[int] = set()
        self.version = 0
        self.asked_now: list[int] = []
        self.heard: list[FallbackTurned] = []
        self.answered: dict[int, tuple[float, int | None]] = {}
        cache = Cache(entries=6, fresh=10, unknown=4, budget=FailureBudget(seconds=20, calm=0))
        self.lookup = Lookup("users", self.ask, cache, self.clock, listener=self.heard.append)
        self.items = 0

    def ask(self, key):
        self.asked_now.append(key)
        if key in self.down:
            raise ConnectionError(key)
        return None if key % 5 == 4 else (key, self.version)

    @rule(keys=st.lists(st.integers(0, 11), max_size=12))
    def look_up(self, keys) -> None:
        self.asked_now.clear()
        answers = self.lookup.look_up(keys)
        now = self.clock.monotonic()
        self.items += len(keys)
        assert len(answers) == len(keys)
        assert len(self.asked_now) == len(set(self.asked_now)), "asked twice"
        assert len(answers) == len(keys)
        for key, found in zip(keys, answers, strict=True):
            self.check(key, found, now)
        for key in self.asked_now:
            if key not in self.down:
                self.answered[key] = (now, None if key % 5 == 4 else self.version)

    def check(self, key, found, now) -> None:
        asked = key in self.asked_now
        at, version = self.answered.get(key, (None, None))
        if asked and key not in self.down:
            assert found.kind == ("unknown" if key % 5 == 4 else "known")
            assert key % 5 == 4 or found.value == (key, self.version)
        elif asked:
            assert found.kind in ("stale", "failed")
            assert isinstance(found.error, ConnectionError)
            if found.kind == "stale":
                assert found.value == (key, version)
        else:
            assert found.kind == ("unknown" if key % 5 == 4 else "known")
            assert at is not None
            assert now - at < (4 if key % 5 == 4 else 10), "too old"
            assert key % 5 == 4 or found.value == (key, version)

    @rule(seconds=st.integers(0, 7))
    def pass_time(self, seconds) -> None:
        self.clock.advance(seconds)

    @rule(keys=st.sets(st.integers(0, 11)))
    def go_down(self, keys) -> None:
        self.down = keys

    @rule()
    def change(self) -> None:
        self.version += 1

    @rule(keys=st.lists(st.integers(0, 11), max_size=3))
    def forget(self, keys) -> None:
        self.lookup.forget(keys)
        for key in keys:
            self.answered.pop(key, None)

    @invariant()
    def adds_up(self) -> None:
        counted = self.lookup.snapshot()
        assert counted.entries <= 6
        assert counted.hits + counted.negative + counted.misses == self.items
        assert counted.mode == (self.heard[-1].after if self.heard else "normal")
        shelf = self.lookup._desk._shelf
        assert self.lookup._desk._flights == {}
        assert set(shelf._due) == set(shelf._known)
        assert shelf._marked - {None} <= set(shelf._known.values())


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=120, stateful_step_count=40
)
