"""Stages of all kinds together, with all settings and faults: nothing lost, nothing twice, nothing left behind.

How many examples are tried is said by ``SIDESTAGE_COMBINATIONS``.
"""

import os
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note
from hypothesis import settings as tried
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.runs import (
    Moment,
    Ticking,
    TickingKept,
    TickingLedger,
    built,
    extended,
    finished,
    nothing_left,
    parts,
    roomy,
    sizes,
    terms,
    told,
    wanted,
)
from tests.unit.stream.stages import (
    ONCE_MORE,
    Build,
    Faulty,
    Stage,
    is_revocable,
    stages,
    stateless,
)

from sidestage.policy.rate import Rate
from sidestage.stream import (
    Breaker,
    Checkpoint,
    DeadLetter,
    Settings,
    Spill,
    Stream,
)
from sidestage.stream.engine import Engine
from sidestage.stream.nodes import Manner

EXAMPLES = int(os.environ.get("SIDESTAGE_COMBINATIONS", "30"))


def campaign() -> Any:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return tried(max_examples=EXAMPLES, deadline=None, suppress_health_check=checks)


BREAKER = Breaker(in_a_row=1, pause=0.001, longest=0.001)
SINKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "workers": {"workers": 3},
    "timed": {"timeout": 50.0},
    "retry": {"retry": ONCE_MORE},
    "breaker": {"breaker": BREAKER},
    "both": {"retry": ONCE_MORE, "breaker": BREAKER, "workers": 2},
}


@campaign()
@given(
    parts=parts,
    sizes=sizes,
    chosen=st.lists(stages, min_size=1, max_size=5),
    given_settings=terms,
    refused=st.sets(st.integers(0, 1000), max_size=50),
    manner=st.sampled_from(sorted(SINKS)),
    failing=st.sets(st.integers(1, 9), max_size=3),
)
def test_what_runs_to_its_end_writes_each_item_once(
    parts: dict[str, list[int]],
    sizes: list[int],
    chosen: list[Stage],
    given_settings: Settings,
    refused: set[int],
    manner: str,
    failing: set[int],
) -> None:
    note(told(chosen))
    given_settings = roomy(given_settings, chosen)
    fail = failing if {"retry", "breaker"} & SINKS[manner].keys() else ()
    sink, letters = Kept(refused, fail), list[DeadLetter]()
    source = Parts(parts, sizes)
    with nothing_left():
        flow = built(source, chosen).to(sink, **SINKS[manner])
        ended = finished(flow, {"fail": "soft", "dead_letters": letters.append, "settings": given_settings})
    at_sink = Counter(letter.item for letter in letters if letter.stage == "kept")
    assert Counter(sink.items) + at_sink == wanted(parts, chosen)
    assert source.committed == {part: len(items) for part, items in parts.items() if items}
    assert ended is not None
    assert (ended.complete, ended.dead_letters) == (True, len(letters))
    assert source.closed == 1
    assert sink.closed == sink.opened


@campaign()
@given(
    parts=parts,
    sizes=sizes,
    chosen=st.lists(stages, min_size=1, max_size=4),
    given_settings=terms,
    after=st.integers(1, 30),
    what=st.sampled_from(["drain", "cancel", "crash", "interruption"]),
)
def test_what_is_stopped_goes_on_from_its_checkpoint_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    parts: dict[str, list[int]],
    sizes: list[int],
    chosen: list[Stage],
    given_settings: Settings,
    after: int,
    what: str,
) -> None:
    note(told(chosen))
    given_settings = roomy(given_settings, chosen)
    moment = Moment(after, what)
    source, sink = Ticking(parts, sizes, moment), TickingKept()
    sink.moment = moment
    path = tmp_path_factory.mktemp("stream") / "checkpoint"
    letters: list[DeadLetter] = []
    given: dict[str, Any] = {"fail": "soft", "dead_letters": letters.append, "settings": given_settings}
    with nothing_left():
        flow = built(source, chosen).to(sink)
        ended = finished(flow, {**given, "checkpoint": Checkpoint(path)}, moment)
        if ended is None or not ended.complete:
            finished(flow, {**given, "checkpoint": Checkpoint(path)})
    owed, found = wanted(parts, chosen), Counter(sink.items)
    assert owed - found == Counter()
    assert set(found) <= set(owed)
    if what == "drain" or (ended is not None and ended.complete):
        assert found == owed


@campaign()
@given(
    parts=parts,
    sizes=sizes,
    chosen=st.lists(stages, min_size=1, max_size=4),
    given_settings=terms,
    plan=st.lists(st.sampled_from(["fine", "fine", "fine", "lost", "unanswered"]), max_size=30),
    moment=st.tuples(st.integers(1, 60), st.sampled_from(["drain", "cancel", "crash", "interruption"])),
)
def test_a_sink_with_transactions_has_each_item_once_whatever_fails(
    parts: dict[str, list[int]],
    sizes: list[int],
    chosen: list[Stage],
    given_settings: Settings,
    plan: list[str],
    moment: tuple[int, str],
) -> None:
    note(told(chosen))
    given_settings = roomy(given_settings, chosen)
    stop, beside = Moment(*moment), Kept()
    source, place = Ticking(parts, sizes, stop), TickingLedger(plan)
    place.moment = stop
    given: dict[str, Any] = {"fail": "soft", "dead_letters": lambda letter: None, "settings": given_settings}
    with nothing_left():
        stream = built(source, chosen)
        flow = stream.to(place).also(stream.to(beside))
        ended = finished(flow, given, stop)
        if ended is None or not ended.complete:
            finished(flow, given)
    owed = wanted(parts, chosen)
    assert Counter(place.committed) == owed
    assert owed - Counter(beside.items) == Counter()
    assert place.opened == place.closed


# Revocation


@campaign()
@given(
    parts=parts,
    sizes=sizes,
    chosen=st.tuples(st.lists(stateless, max_size=2), st.lists(stages, max_size=3)),
    given_settings=terms,
    moments=st.tuples(st.integers(1, 20), st.sets(st.integers(0, 1000), max_size=30)),
    transactional=st.booleans(),
)
def test_only_what_is_revoked_is_missing_and_all_of_it_is_cleaned_up_after(
    parts: dict[str, list[int]],
    sizes: list[int],
    chosen: tuple[list[Stage], list[Stage]],
    given_settings: Settings,
    moments: tuple[int, set[int]],
    transactional: bool,
) -> None:
    note(f"{told(chosen[0])} || {told(chosen[1])}")
    given_settings = roomy(given_settings, [*chosen[0], *chosen[1]])
    after, keys = moments
    keys |= {number for some in parts.values() for number in some[::3]}
    cleaned: Counter[int] = Counter()

    class Revoking(Moment):
        def act(self, engine: Engine) -> None:
            for key in keys:
                engine.revoke(key)

    moment = Revoking(after, "act")
    source, sink, place = Ticking(parts, sizes, moment), TickingKept(), TickingLedger()
    sink.moment = place.moment = moment
    with nothing_left():
        stream = built(source, chosen[0])
        if not is_revocable(stream.node):
            stream = stream.revocable(lambda n: n, clean_up=lambda n: cleaned.update([n]))
        stream = extended(stream, chosen[1])
        flow = stream.to(place) if transactional else stream.to(sink)
        given = {"fail": "soft", "dead_letters": lambda letter: None, "settings": given_settings}
        ended = finished(flow, given, moment)
    assert ended is not None
    assert ended.complete
    found = Counter(place.committed if transactional else sink.items)
    owed = wanted(parts, [*chosen[0], *chosen[1]])
    assert found - owed == Counter()
    assert set(owed - found) <= keys
    assert set(cleaned) <= keys
    assert source.committed == {part: len(items) for part, items in parts.items() if items}


# Order


@st.composite
def keyed_stages(draw: st.DrawFn) -> Build:
    """A stage after by_key that changes nothing."""
    count = draw(st.sampled_from([None, None, 1, 2, 3]))
    deadly = Faulty(99, draw(st.integers(0, 25)))
    match draw(st.sampled_from(["map", "coroutine", "filter", "look_up", "route", "flat_map"])):
        case "coroutine":

            async def later(item: tuple[int, int]) -> tuple[int, int]:
                return item

            return lambda s: s.map(later, workers=count or 7)
        case "filter":
            return lambda s: s.filter(lambda _: True, workers=count)
        case "look_up":
            return lambda s: s.look_up(lambda i: i[0], str, lambda i, _: i, manner=Manner(count))
        case "route":
            return lambda s: s.route(lambda _: "a", "ab")["a"]
        case "flat_map":
            return lambda s: s.flat_map(lambda i: [i], workers=count)

    def careful(item: tuple[int, int]) -> tuple[int, int]:
        deadly(item[1])
        return item

    return lambda s: s.map(careful, workers=count, retry=ONCE_MORE)


@campaign()
@given(
    count=st.integers(0, 300),
    keys=st.integers(1, 9),
    first=st.sampled_from(["none", "limit", "revocable", "filter"]),
    chosen=st.lists(keyed_stages(), min_size=1, max_size=4),
    given_settings=terms,
    spills=st.sampled_from(["no", "memory", "disk"]),
)
def test_items_of_a_key_stay_in_order_through_all_that_keeps_keys(
    count: int, keys: int, first: str, chosen: list[Build], given_settings: Settings, spills: str
) -> None:
    def key(item: tuple[int, int]) -> int:
        return item[0]

    items = [(n * n % keys, n) for n in range(count)]
    sink = Kept()
    with nothing_left() as folder:
        given_spill = {"no": None, "memory": Spill(memory=500), "disk": Spill(path=folder, memory=0)}
        stream: Stream[Any] = Stream(items).by_key(key, into=4, spill=given_spill[spills])
        match first:
            case "limit":
                stream = stream.limit(Rate(50_000, burst=3), by=key, held=7)
            case "revocable":
                stream = stream.revocable(key)
            case "filter":
                stream = stream.filter(lambda _: True)
        for build in chosen:
            stream = build(stream)
        stream = stream if spills == "no" else stream.map(lambda i: i, workers=2)
        finished(stream.to(sink), {"settings": given_settings})
    found: defaultdict[int, list[int]] = defaultdict(list)
    for its_key, number in sink.items:
        found[its_key].append(number)
    assert sorted(sink.items) == sorted(items)
    assert all(numbers == sorted(numbers) for numbers in found.values())
