"""A sink that commits its items together with how far the stream has come: each item once, whatever fails."""

import asyncio
import errno
import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.restart import Restart
from sidestage.stream import (
    Breaker,
    Checkpoint,
    Collected,
    DeadLetter,
    EventTime,
    Progress,
    Reader,
    Refused,
    SetAside,
    Settings,
    Stream,
    TransactionLost,
    WindowPlan,
    barrier,
    count,
    tumbling,
)

OFTEN = Settings(chunk=5, commit_every=0.0, restart=Restart(times=10_000, delay=0.0, longest=0.0))


class Ledger:
    """A place that commits. ``plan`` says what becomes of each call: it may be lost, or answer nothing."""

    name = "ledger"

    def __init__(self, plan: Sequence[str] = (), refuse: Any = ()) -> None:
        self.committed: list[Any] = []
        self.kept = msgspec.json.encode(Progress(0, {}))
        self.plan = iter(plan)
        self.refuse = refuse
        self.fence = 0
        self.opened = self.closed = 0
        self.readers: set[str] = set()

    def open(self) -> "LedgerWriter":
        self.fence += 1
        self.opened += 1
        return LedgerWriter(self, self.fence)

    def progress(self) -> Progress:
        return msgspec.json.decode(self.kept, type=Progress)

    def fate(self) -> str:
        return next(self.plan, "fine")


class LedgerWriter:
    def __init__(self, place: Ledger, fence: int) -> None:
        self._place = place
        self._fence = fence
        self._pending: list[Any] = []

    def write(self, items: Sequence[Any]) -> None:
        fate = self._place.fate()
        if fate == "lost":
            self._pending = []
            raise TransactionLost("the connection was cut")
        if fate == "fails":
            raise ConnectionError("try again")
        refused = {index: ValueError(item) for index, item in enumerate(items) if item in self._place.refuse}
        self._pending += [item for item in items if item not in self._place.refuse]
        if refused:
            raise Refused(refused)

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        if self._fence != self._place.fence:
            raise TransactionLost("somebody else writes here")
        fate = self._place.fate()
        self._place.readers |= set(readers)
        if fate in ("lost", "fails"):
            raise ConnectionError("not committed")
        self._place.committed += self._pending
        self._place.kept = msgspec.json.encode(progress)
        self._pending = []
        if fate == "unanswered":
            raise ConnectionError("committed, but nobody was told")

    def close(self) -> None:
        self._place.closed += 1


def test_what_is_committed_is_committed_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "_RENEW_SECONDS", 0.0)
    place = Ledger()
    renewed = threading.Event()

    class Renewed(LedgerWriter):
        def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
            super().commit(progress, readers)
            if progress.number == 3:
                renewed.set()

    class Idle(Parts):
        def open(self, resume: Any) -> Any:
            reader = super().open(resume)
            read = reader.read
            reads = itertools.count()
            reader.read = lambda limit, wait: read(limit, wait) or (None if is_over(next(reads)) else ())
            return reader

    def is_over(reads: int) -> bool:
        return renewed.wait(0.001) or reads == 20_000

    place.open = lambda: Renewed(place, place.fence)  # type: ignore[method-assign]
    Stream(Idle({"a": [1]})).to(place).run(settings=OFTEN)

    assert renewed.is_set()
    assert place.committed == [1]
    assert place.progress().positions == {"parts": {"a": 1}}


def test_items_become_visible_with_the_positions_they_came_from() -> None:
    place = Ledger()
    source = Parts({"a": range(20), "b": range(100, 120)})

    ended = Stream(source).map(lambda n: n + 1).to(place).run(settings=OFTEN)

    assert ended.complete
    assert sorted(place.committed) == [*range(1, 21), *range(101, 121)]
    assert place.progress().positions == {"parts": {"a": 20, "b": 20}}
    assert place.readers == {"parts"}
    assert place.closed == place.opened == 1
    assert source.committed == {"a": 20, "b": 20}


def test_a_second_run_goes_on_where_the_first_committed() -> None:
    place = Ledger()
    Stream(Parts({"a": range(10)})).to(place).run(settings=OFTEN)
    Stream(Parts({"a": range(15)})).to(place).run(settings=OFTEN)

    assert place.committed == list(range(15))


def test_nothing_is_committed_of_a_stream_that_fails() -> None:
    place = Ledger()
    with pytest.raises(StreamFailed, match="division"):
        Stream(Parts({"a": [3, 2, 1, 0]}, sizes=(1,))).map(lambda n: 1 // n).to(place).run(
            settings=Settings(commit_every=3600)
        )

    assert place.committed == []
    assert place.progress().number == 0
    assert place.closed == 1


def test_the_place_is_opened_before_it_is_asked_how_far_it_came() -> None:
    asked: list[str] = []

    class Asking(Ledger):
        def open(self) -> LedgerWriter:
            asked.append("open")
            return super().open()

        def progress(self) -> Progress:
            asked.append("progress")
            return super().progress()

    Stream([1]).to(Asking()).run()

    assert asked == ["open", "progress"]


def test_a_place_that_cannot_say_how_far_it_came_is_closed() -> None:
    class Silent(Ledger):
        def progress(self) -> Progress:
            raise ConnectionError("no answer")

    place = Silent()
    with pytest.raises(ConnectionError):
        Stream([1]).to(place).run()

    assert place.closed == place.opened == 1


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(st.sampled_from(["fine", "fine", "fine", "lost", "fails", "unanswered"]), max_size=40),
    items=st.lists(st.lists(st.integers(0, 30), max_size=40), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    workers=st.sampled_from([None, 2]),
)
def test_each_item_is_committed_once_or_set_aside(
    plan: list[str], items: list[list[int]], sizes: list[int], workers: int | None
) -> None:
    place = Ledger(plan, refuse={7})
    letters: dict[Any, DeadLetter] = {}
    source = Parts({str(number): part for number, part in enumerate(items)}, sizes)

    def odd(number: int) -> int:
        if number == 13:
            raise ValueError(number)
        return number

    def keep(letter: DeadLetter) -> None:
        letters[letter.trace] = letter  # read again, an item may lie in another batch

    stream = Stream(source).map(odd, workers=workers)
    stream.to(place, on_error=SetAside()).run(fail="soft", dead_letters=keep, settings=OFTEN)

    expected = Counter(item for part in items for item in part)
    # A write that failed otherwise has set its items aside: each is in one of the places at least.
    failed = Counter(letter.item for letter in letters.values() if letter.stage == "ledger")
    aside = Counter(letter.item for letter in letters.values())
    committed = Counter(place.committed)
    assert all(committed[item] <= expected[item] for item in expected)
    assert committed + aside >= expected
    assert not (committed - expected)
    if not failed - Counter({7: failed[7]}):
        assert committed + aside == expected


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(st.sampled_from(["fine", "fine", "lost", "unanswered"]), max_size=30),
    times=st.lists(st.integers(0, 50), max_size=60),
)
def test_windows_are_kept_in_the_transactions_too(plan: list[str], times: list[int]) -> None:
    place = Ledger(plan)
    per_ten = WindowPlan(
        windows=tumbling(10), aggregate=count(), key=lambda n: n % 3, time=EventTime(at=float, disorder=60)
    )

    Stream(Parts({"a": times})).window(per_ten).to(place).run(settings=OFTEN)

    counted = Counter({(each.key, each.start): each.value for each in place.committed})
    assert len(place.committed) == len(counted)
    assert counted == Counter((n % 3, n // 10 * 10.0) for n in times)


def test_parts_that_are_taken_away_end_the_transaction() -> None:
    class Taken(Parts):
        taken = False

        def open(self, resume: Any) -> Any:
            reader = super().open(resume)
            if not self.taken:
                self.taken = True
                asked = iter([(), ("a",)])
                reader.lost = lambda: next(asked, ())
            return reader

    place = Ledger()
    Stream(Taken({"a": range(20)}, sizes=(3,))).to(place).run(
        settings=Settings(commit_every=3600, restart=Restart(times=3, delay=0.0, longest=0.0))
    )

    assert place.committed == list(range(20))
    assert place.opened == place.closed == 2


def test_transactions_that_are_lost_too_often_end_the_stream() -> None:
    place = Ledger(["lost"] * 50)
    with pytest.raises(StreamFailed, match="connection was cut") as raised:
        Stream([1]).to(place).run(settings=Settings(restart=Restart(times=2, delay=0.0, longest=0.0)))

    assert "goes on from what was committed" in raised.value.hint
    assert place.opened == place.closed == 3


def test_a_commit_that_can_never_succeed_ends_the_stream_at_once() -> None:
    class Full(Ledger):
        def fate(self) -> str:
            raise OSError(errno.ENOSPC, "disk full")

    place = Full()
    with pytest.raises(OSError, match="disk full"):
        Stream([]).to(place).run(settings=OFTEN)

    assert place.opened == place.closed == 1


def test_a_cancelled_stream_undoes_what_it_has_not_committed() -> None:
    place = Ledger()
    written = threading.Event()

    def endless() -> Any:
        yield 1
        written.wait(120)
        while True:
            yield 2

    engine = Stream(endless()).to(place).engine(settings=Settings(commit_every=3600, chunk=1))
    engine.start()
    written.set()
    engine.cancel()
    engine.wait()

    assert place.committed == []
    assert place.closed == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda s: s.to(Ledger()).also(s.to(Ledger())), "cannot be committed together"),
        (lambda s: s.to(Ledger(), workers=2), "with one worker"),
        (lambda s: s.to(Ledger(), breaker=Breaker()), "no breaker"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        make(Stream([1])).run()


def test_a_place_that_keeps_no_states_takes_no_windows() -> None:
    class Stateless(Ledger):
        keeps_states = False

    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    with pytest.raises(DefinitionError, match="cannot keep the state of windows"):
        Stream([1]).window(plan).to(Stateless()).run()
    pairs = Stream([1]).join(Stream([2]), on=(str, str), within=(1, 1), time=(float, float))
    with pytest.raises(DefinitionError, match="or of joins"):
        pairs.to(Stateless()).run()


def test_progress_is_kept_in_one_place_only(tmp_path: Any) -> None:
    with pytest.raises(DefinitionError, match="keeps how far"):
        Stream([1]).to(Ledger()).run(checkpoint=Checkpoint(tmp_path / "checkpoint"))


def test_other_sinks_get_their_items_at_least_once() -> None:
    place, other = Ledger(["fine", "fine", "lost"]), Kept()
    stream = Stream(Parts({"a": range(30)}))
    stream.to(place).also(stream.to(other)).run(settings=OFTEN)

    assert place.committed == list(range(30))
    assert set(other.items) == set(range(30))


def test_a_sink_without_transactions_is_none() -> None:
    sink: Collected[int] = Collected()
    engine = Stream([1]).to(sink).engine()
    assert engine.run().complete
    assert sink.items == [1]


@pytest.mark.parametrize("how", ["run", "serve", "arun"])
def test_a_flow_is_begun_anew_as_often_as_its_own_settings_say(how: str) -> None:
    place = Ledger(["lost"] * 50)
    flow = Stream([1]).to(place).with_settings(Settings(restart=Restart(times=0, delay=0.0, longest=0.0)))

    with pytest.raises(StreamFailed, match="connection was cut"):
        asyncio.run(flow.arun()) if how == "arun" else getattr(flow, how)()

    assert place.opened == 1
