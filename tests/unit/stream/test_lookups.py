"""Stages that look something up, and sinks that are left alone while they are down."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Breaker
from sidestage.policy.retry import Retry
from sidestage.stream.failing import DeadLetter
from sidestage.stream.lookups.cache import Cache, Found
from sidestage.stream.nodes import Manner
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream

USERS = {1: "ann", 2: "bob"}


def together(item: int, found: Found[str]) -> tuple[int, str | None, str]:
    return item, found.value, found.kind


def test_each_key_is_looked_up_once_and_put_to_its_items() -> None:
    asked: Counter[int] = Counter()

    def name_of(user: int) -> str | None:
        asked[user] += 1
        return USERS.get(user)

    sink = Kept()
    source = Parts({"a": [11, 12, 21, 31, 12, 11] * 20}, sizes=[7])
    Stream(source).look_up(lambda n: n % 10, name_of, together, cache=Cache(default="?")).to(sink).run()
    assert sink.items == [(n, USERS[n % 10], "known") for n in source.parts["a"]]
    assert asked == {1: 1, 2: 1}
    unknown = list(Stream([13, 13]).look_up(lambda n: n % 10, name_of, together, cache=Cache(default="?")))
    assert unknown == [(13, "?", "unknown")] * 2
    assert asked[3] == 1, "that a key is unknown is remembered, too"


def test_many_keys_are_asked_for_at_once() -> None:
    calls: list[Sequence[int]] = []

    def names_of(users: Sequence[int]) -> Mapping[int, str]:
        calls.append(sorted(users))
        return {user: USERS[user] for user in users if user in USERS}

    stream = Stream(range(10)).look_up(lambda n: n % 3, names_of, together, many=True)
    assert [value for _, value, _ in stream] == [None, "ann", "bob"] * 3 + [None]
    assert calls == [[0, 1, 2]]


def test_the_last_known_value_is_given_while_nobody_answers() -> None:
    down = threading.Event()

    def name_of(user: int) -> str:
        if down.is_set():
            raise ConnectionError("the service is away")
        return USERS[user]

    def put(item: int, found: Found[str]) -> tuple[int, str | None, str]:
        if item == 3:
            down.set()
        return together(item, found)

    letters: list[DeadLetter] = []
    sink = Kept()
    stream = Stream([1, 3, 1, 2]).look_up(lambda n: 1 if n == 3 else n, name_of, put, cache=Cache(fresh=1e-9))
    stream.to(sink).run(fail="soft", dead_letters=letters.append, settings=Settings(chunk=1))
    assert sink.items == [(1, "ann", "known"), (3, "ann", "known"), (1, "ann", "stale")]
    assert [(letter.item, letter.failure_class) for letter in letters] == [(2, "transient")]


def test_keys_that_cannot_be_had_and_answers_that_cannot_be_put_concern_their_items_only() -> None:
    def put(item: Any, found: Found[str]) -> str:
        return f"{found.value} {item[0]}"

    letters: list[DeadLetter] = []
    sink = Kept()
    stream = Stream([(1, 1), None, (1, [2]), (2, 2)]).look_up(lambda item: item[1], USERS.get, put)
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == ["ann 1", "bob 2"]
    assert [letter.item for letter in letters] == [None, (1, [2])]


def test_a_sink_that_is_down_is_waited_for_and_burns_no_retries() -> None:
    sink = Kept(fail=range(1, 9))
    source = Parts({"a": range(100)}, sizes=[10])
    breaker = Breaker(in_a_row=2, pause=0.001, longest=0.002)
    letters: list[DeadLetter] = []
    flow = Stream(source).to(sink, breaker=breaker, retry=Retry(times=1, delay=0.0))
    flow.run(fail="soft", dead_letters=letters.append)
    assert sink.items == list(range(100))
    assert (letters, sink.calls) == ([], 18)
    assert source.committed == {"a": 100}


def test_a_breaker_leaves_what_is_the_items_own_fault_to_the_stage() -> None:
    class Picky(Kept):
        def write(self, items: Sequence[Any]) -> None:
            if 7 in items:
                raise ValueError("seven")
            super().write(items)

    sink = Picky(refuse=[3])
    letters: list[DeadLetter] = []
    flow = Stream(Parts({"a": range(9)}, sizes=[1])).to(sink, breaker=Breaker())
    flow.run(fail="soft", dead_letters=letters.append)
    assert sink.items == [0, 1, 2, 4, 5, 6, 8]
    assert [letter.item for letter in letters] == [3, 7]


def test_cancelling_does_not_wait_for_a_sink_that_is_down() -> None:
    sink = Kept(fail=range(1, 10**6))
    engine = Stream(range(10)).to(sink, breaker=Breaker(in_a_row=1, pause=3600, longest=3600)).engine()
    engine.start()
    while not sink.calls:
        engine.is_over  # noqa: B018 - any short thing
    engine.cancel()
    assert not engine.join().complete
    assert sink.items == []


def test_a_lookup_in_processes_is_refused() -> None:
    stream = Stream([1]).look_up(int, {}.get, lambda item, found: item, manner=Manner(on="process"))
    with pytest.raises(DefinitionError, match="cannot be done by processes"):
        stream.to(Kept()).explain()
