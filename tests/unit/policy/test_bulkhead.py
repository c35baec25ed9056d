"""Bulkheads: places, times, lost threads. What waits here waits for something that never comes by itself."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from sidestage.errors import DefinitionError
from sidestage.policy.bulkhead import (
    Bulkhead,
    BulkheadSnapshot,
    CallLate,
    NoPlace,
    TaskBulkhead,
    ThreadBulkhead,
    ThreadReturned,
    ThreadWrittenOff,
)
from sidestage.policy.failure import classify
from sidestage.testing.turned_clock import HandClock

LONG = 30.0
SHORT = 0.02


class Stuck:
    """A place that does not answer until it is let go; counts who is there."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self) -> str:
        self.entered.release()
        assert self.let_go.wait(LONG), "nobody let go"
        return "at last"

    def wait_for(self, calls: int) -> None:
        for _ in range(calls):
            assert self.entered.acquire(timeout=LONG)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    place = Stuck()
    yield place
    place.let_go.set()


@pytest.fixture
def make() -> Iterator:
    made = []

    def build(listener=None, **numbers):
        made.append(ThreadBulkhead("api", Bulkhead(**numbers), HandClock(), listener))
        return made[-1]

    yield build
    for each in made:
        each.close()
    for thread in threading.enumerate():
        if thread.name.startswith("api "):
            thread.join(LONG)
            assert not thread.is_alive(), f"{thread.name} was left behind"


def started(target, *args) -> threading.Thread:
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


@pytest.mark.parametrize("timeout", [None, LONG])
def test_it_returns_and_raises_what_the_function_does(make, timeout):
    bulkhead = make(timeout=timeout)
    assert bulkhead.call(divmod, 7, 2) == (3, 1)
    assert bulkhead.call(sorted, [1, 2], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        bulkhead.call(divmod, 1, 0)
    assert bulkhead.snapshot().running == 0


def test_threads_are_used_again(make):
    bulkhead = make(timeout=LONG)
    assert len({bulkhead.call(threading.get_ident) for _ in range(20)}) == 1
    assert bulkhead.call(threading.get_ident) != threading.get_ident()


def test_without_a_timeout_the_caller_works_itself(make):
    assert make(timeout=None).call(threading.get_ident) == threading.get_ident()


def test_the_callers_context_goes_along(make):
    trace = contextvars.ContextVar("trace", default="none")
    trace.set("abc")
    assert make(timeout=LONG).call(trace.get) == "abc"


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("wait", [0, SHORT])
def test_no_more_calls_at_once_than_there_are_places(make, stuck, timeout, wait):
    bulkhead = make(calls=2, wait=wait, timeout=timeout)
    threads = [started(bulkhead.call, stuck) for _ in range(2)]
    stuck.wait_for(2)
    with pytest.raises(NoPlace, match="None of the 2 places") as caught:
        bulkhead.call(stuck)
    assert classify(caught.value) == "resource"
    assert bulkhead.snapshot().refused == 1
    stuck.let_go.set()
    for each in threads:
        each.join(LONG)
    assert bulkhead.call(len, "ab") == 2


def test_whoever_waits_gets_the_place_that_comes_free(make, stuck):
    bulkhead = make(calls=1, wait=LONG)
    first = started(bulkhead.call, stuck)
    stuck.wait_for(1)
    answers = []
    second = started(lambda: answers.append(bulkhead.call(len, "abc")))
    stuck.let_go.set()
    first.join(LONG)
    second.join(LONG)
    assert answers == [3]


def test_a_late_call_fails_its_thread_is_written_off_and_its_place_is_free(make, stuck):
    heard = []
    bulkhead = make(heard.append, calls=1, wait=0, timeout=SHORT, lost=3)
    for lost in (1, 2):
        with pytest.raises(CallLate, match="did not return within") as caught:
            bulkhead.call(stuck)
        assert classify(caught.value) == "transient"
        assert isinstance(heard[-1], ThreadWrittenOff)
        assert (heard[-1].bulkhead, heard[-1].lost, heard[-1].most) == ("api", lost, 3)
    assert bulkhead.snapshot() == BulkheadSnapshot(idle=0, running=0, lost=2, late=2, refused=0)


def test_too_many_lost_threads_and_nothing_is_called_until_one_returns(make, stuck):
    heard, back = [], threading.Semaphore(0)

    def listen(event) -> None:
        heard.append(event)
        if isinstance(event, ThreadReturned):
            back.release()

    bulkhead = make(listen, timeout=SHORT, lost=2)
    for _ in range(2):
        with pytest.raises(CallLate):
            bulkhead.call(stuck)
    with pytest.raises(NoPlace, match="2 calls through 'api' never returned") as caught:
        bulkhead.call(len, "")
    assert classify(caught.value) == "resource"
    assert "timeout of its own" in caught.value.hint
    stuck.let_go.set()
    assert back.acquire(timeout=LONG)
    assert back.acquire(timeout=LONG)
    assert [each.lost for each in heard] == [1, 2, 1, 0]
    assert bulkhead.snapshot().lost == 0
    assert bulkhead._in_thread(lambda: "works", LONG) == "works"


def test_who_waits_for_a_place_is_refused_too_once_too_many_threads_are_lost(make, stuck):
    bulkhead = make(calls=1, wait=LONG, timeout=SHORT, lost=1)
    ends = []

    def caller() -> None:
        try:
            bulkhead.call(stuck)
        except (CallLate, NoPlace) as error:
            ends.append(type(error))

    threads = [started(caller) for _ in range(4)]
    for each in threads:
        each.join(LONG)
    assert sorted(each.__name__ for each in ends) == ["CallLate", "NoPlace", "NoPlace", "NoPlace"]
    assert bulkhead.snapshot().lost == 1
    assert bulkhead._places._value == 1, "the place was handed back"


def test_an_interrupted_caller_leaves_nothing_running_on_its_place(make, stuck, monkeypatch):
    bulkhead = make(calls=1, wait=0, timeout=LONG)
    plain_wait = threading.Event.wait

    def interrupted(event, timeout=None):
        if timeout == LONG and event is not stuck.let_go and threading.current_thread() is main:
            stuck.wait_for(1)
            raise KeyboardInterrupt
        return plain_wait(event, timeout)

    main = threading.current_thread()
    monkeypatch.setattr(threading.Event, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bulkhead.call(stuck)
    monkeypatch.undo()
    assert bulkhead.snapshot().lost == 1
    assert bulkhead.call(len, "abc") == 3


def test_an_answer_that_comes_this_very_moment_is_an_answer(make, monkeypatch):
    bulkhead = make(timeout=LONG)
    plain_wait = threading.Event.wait

    def just_too_late(event, timeout=None):
        assert plain_wait(event, timeout)
        return timeout != LONG

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", just_too_late)
        assert bulkhead.call(len, "abc") == 3
    assert bulkhead.snapshot() == BulkheadSnapshot(idle=1, running=0, lost=0, late=0, refused=0)


def test_a_thread_that_runs_while_it_is_closed_ends_after_its_call(make, stuck):
    bulkhead = make(timeout=LONG)
    caller = started(bulkhead.call, stuck)
    stuck.wait_for(1)
    bulkhead.close()
    stuck.let_go.set()
    caller.join(LONG)
    for thread in threading.enumerate():
        if thread.name.startswith("api "):
            thread.join(LONG)
            assert not thread.is_alive()
    assert bulkhead.snapshot().idle == 0


def test_what_ends_a_thread_reaches_the_caller_and_not_the_thread(make):
    bulkhead = make(timeout=LONG)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        bulkhead.call(leave)
    assert bulkhead.call(len, "abc") == 3


def test_a_closed_one_calls_nothing(make):
    bulkhead = make(timeout=LONG)
    bulkhead.call(len, "")
    bulkhead.close()
    assert bulkhead.snapshot().idle == 0
    with pytest.raises(NoPlace, match="is closed"):
        bulkhead.call(len, "")


def test_many_callers_never_more_at_once_than_allowed(make):
    bulkhead = make(calls=3, wait=LONG, timeout=LONG)
    lock, now, most, done = threading.Lock(), [0], [0], []

    def work() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with lock:
            now[0] -= 1

    def caller() -> None:
        for _ in range(40):
            bulkhead.call(work)
        done.append(True)

    threads = [started(caller) for _ in range(6)]
    for each in threads:
        each.join(LONG)
    assert len(done) == 6
    assert most[0] <= 3
    seen = bulkhead.snapshot()
    assert (seen.running, seen.lost, seen.late, seen.refused) == (0, 0, 0, 0)
    assert seen.idle <= 3


@pytest.mark.parametrize(
    "numbers",
    [
        {"calls": 0},
        {"wait": -1},
        {"wait": float("nan")},
        {"wait": float("inf")},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"lost": 0},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense"):
        Bulkhead(**numbers)


async def give(value):
    return value


def test_a_coroutine_is_awaited():
    async def main() -> None:
        bulkhead = TaskBulkhead("api", Bulkhead(timeout=LONG))
        assert await bulkhead.call(give, 3) == 3

    asyncio.run(main())


def test_a_late_coroutine_is_cancelled():
    cancelled = []

    async def stay() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        bulkhead = TaskBulkhead("api", Bulkhead(calls=1, timeout=SHORT))
        with pytest.raises(CallLate, match="did not return within"):
            await bulkhead.call(stay)
        assert cancelled == [True]
        assert bulkhead.snapshot() == BulkheadSnapshot(0, 0, 0, 1, 0)
        assert await bulkhead.call(give, 3) == 3

    asyncio.run(main())


def test_a_timeout_of_the_coroutine_is_its_own():
    async def fail() -> None:
        raise TimeoutError("mine")

    async def main() -> None:
        with pytest.raises(TimeoutError, match="mine"):
            await TaskBulkhead("api", Bulkhead(timeout=LONG)).call(fail)

    asyncio.run(main())


@pytest.mark.parametrize("wait", [0, SHORT])
def test_tasks_have_places_too(wait):
    async def main() -> None:
        bulkhead = TaskBulkhead("api", Bulkhead(calls=2, wait=wait))
        let_go = asyncio.Event()
        tasks = [asyncio.create_task(bulkhead.call(let_go.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NoPlace):
            await bulkhead.call(give, 1)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert await bulkhead.call(give, 1) == 1
        let_go.set()
        assert await tasks[1] is True
        assert bulkhead.snapshot() == BulkheadSnapshot(0, 0, 0, 0, 1)

    asyncio.run(main())


def test_a_task_that_waits_gets_the_place_that_comes_free():
    async def main() -> None:
        bulkhead = TaskBulkhead("api", Bulkhead(calls=1, wait=LONG))
        let_go = asyncio.Event()
        first = asyncio.create_task(bulkhead.call(let_go.wait))
        await asyncio.sleep(0)
        second = asyncio.create_task(bulkhead.call(give, 2))
        await asyncio.sleep(0)
        assert not second.done()
        let_go.set()
        assert (await first, await second) == (True, 2)

    asyncio.run(main())
