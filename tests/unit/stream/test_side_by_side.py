"""Features that were made each for itself, used together: what went wrong once, and what is refused."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.test_transactions import Ledger, LedgerWriter

from sidestage.errors import DataError, DefinitionError
from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.stream import (
    Checkpoint,
    Collected,
    DeadLetter,
    EventTime,
    Progress,
    SetAside,
    Settings,
    Spill,
    Stream,
    TransactionLost,
    WindowPlan,
    count,
    tumbling,
)
from sidestage.stream.barrier import Barrier
from sidestage.stream.chunk import Chunk
from sidestage.stream.chunk import Ledger as Tickets
from sidestage.stream.columns.chunk_parts import ChunkParts
from sidestage.stream.contract import Batch
from sidestage.stream.failing import Halt
from sidestage.stream.keys.overflow import Aside, Frame, packed
from sidestage.stream.keys.spill import Store
from sidestage.stream.keys.spreading import spread
from sidestage.stream.windows.stage import Windows
from sidestage.stream.windows.state import WindowState
from sidestage.stream.windows.watermarks import Moment


@dataclass(frozen=True)
class Pair:
    left: str
    right: str


AGAIN = Settings(chunk=5, commit_every=3600, restart=Restart(times=5, delay=0.0, longest=0.0))


@pytest.mark.parametrize(
    "way",
    [
        lambda stream: stream.limit(Rate(100_000, burst=1)),
        lambda stream: stream.limit(Rate(100_000, burst=1), by=lambda n: n % 2),
        lambda stream: stream.revocable(lambda n: n),
        lambda stream: stream.by_key(lambda n: n % 2, into=2).map(lambda n: n, workers=2),
    ],
)
def test_what_was_made_of_lists_need_not_be_lists(way: Any) -> None:
    kept = Collected[int]()
    way(Stream(range(40)).batch(4).map(sum)).to(kept).run(settings=Settings(chunk=16))

    assert sorted(kept.items) == [sum(range(at, at + 4)) for at in range(0, 40, 4)]


def test_what_came_of_no_single_item_can_be_put_aside() -> None:
    ticket = Tickets().issue(Batch("a", 0, [1, 2], 2))
    chunk = Chunk([[1, 2]], (ticket,), 0.0, [-1])
    store = Store(Spill())
    aside = Aside(store, None, "by_key")  # type: ignore[arg-type]
    data = packed(chunk, aside)
    place = store.keep(None, data)
    assert place is not None
    read = Frame(chunk, place, aside).read()

    assert read is not None
    assert (read.items, read.origins) == ([[1, 2]], [-1])


def test_a_transaction_that_is_lost_while_items_are_tried_one_by_one_is_begun_anew() -> None:
    class Picky(Ledger):
        lost = False

        def open(self) -> LedgerWriter:
            return PickyWriter(self, super().open())  # type: ignore[return-value]

    class PickyWriter:
        def __init__(self, place: Picky, writer: LedgerWriter) -> None:
            self._place, self._writer = place, writer

        def write(self, items: Sequence[Any]) -> None:
            if 7 in items:
                raise ValueError("7 is not wanted")
            if items == [8] and not self._place.lost:
                self._place.lost = True
                self._writer._pending = []
                raise TransactionLost("the connection was cut")
            self._writer.write(items)

        def commit(self, progress: Progress, readers: Mapping[str, Any]) -> None:
            self._writer.commit(progress, readers)

        def close(self) -> None:
            self._writer.close()

    place, letters = Picky(), dict[Any, DeadLetter]()

    def keep(letter: DeadLetter) -> None:
        letters[letter.origin] = letter

    Stream(Parts({"a": range(20)}, sizes=(5,))).to(place, on_error=SetAside()).run(
        dead_letters=keep, settings=AGAIN
    )

    assert place.lost
    assert sorted(place.committed) == [n for n in range(20) if n != 7]
    assert [letter.item for letter in letters.values()] == [7]


def test_a_worker_that_dies_while_items_are_tried_one_by_one_goes_on() -> None:
    class Deadly(Kept):
        deaths = 0

        def write(self, items: Sequence[Any]) -> None:
            if 3 in items:
                raise ValueError("3 is not wanted")
            if items == [4] and not self.deaths:
                self.deaths += 1
                raise SystemExit(3)
            super().write(items)

    sink, letters = Deadly(), list[DeadLetter]()
    Stream(range(6)).to(sink, on_error=SetAside()).run(dead_letters=letters.append, settings=AGAIN)

    assert sink.deaths == 1
    assert {*sink.items, *(letter.item for letter in letters)} == set(range(6))


def test_windows_tell_parts_apart_only_while_they_are() -> None:
    forgotten: list[Any] = []
    tickets = Tickets("s")
    a, b = (tickets.issue(Batch(part, 0, [1], 1)) for part in "ab")
    parts = ChunkParts(forgotten.append)
    assert parts.name(Chunk([1], (a,), 0.0)) == ("s", "a")
    several = type("Several", (), {"source": "s", "part": "a", "is_several": True})()
    assert parts.name(Chunk([1], (several,), 0.0)) == "all"
    assert forgotten == [("s", "a")]
    assert parts.name(Chunk([1], (b,), 0.0)) == "all"


def test_late_items_cannot_go_into_a_transaction_beside() -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    stream = Stream([1]).window(plan, beside=Ledger())
    with pytest.raises(DefinitionError, match="transactions"):
        stream.to(Collected()).run()


# Checkpoints


class Paused:
    """A source as a barrier sees it."""

    name = "source"

    def __init__(self) -> None:
        self.unsettled = 0
        self.flushing, self.go_on = threading.Event(), threading.Event()

    def take_reached(self) -> dict[str, int]:
        return {"a": 1}

    def flush(self) -> None:
        self.flushing.set()
        assert self.go_on.wait(120)

    def tell(self, reached: Any) -> None:
        pass


class Place:
    progress = Progress(0, {})

    def __init__(self, saving: Any) -> None:
        self._saving = saving

    def save_all(self, reached: Any, states: Any) -> None:
        self._saving(states)


def test_no_checkpoint_is_taken_while_a_source_goes_on_that_was_slow_to_pause() -> None:
    halt, feed, drained = Halt(), Paused(), threading.Event()
    barrier = Barrier(Place(lambda states: None), Windows(frozenset()), 1, halt, lambda: None, 3600)  # type: ignore[arg-type]
    barrier._asked.set()
    passing = threading.Thread(target=barrier.pass_by, args=(feed,))
    passing.start()
    assert feed.flushing.wait(120)
    barrier._release()  # the round ends, before the source has noted that it has paused
    feed.go_on.set()
    passing.join(120)
    assert not passing.is_alive()
    drained.set()

    assert not barrier._all_paused()


def test_windows_stand_still_until_their_state_is_kept() -> None:
    class Operator:
        lock, results, state = threading.Lock(), Tickets(), type("State", (), {"snapshot": lambda _: b"s"})()

        def restore(self, snapshot: bytes) -> None:
            pass

    operator, seen = Operator(), list[bool]()
    windows = Windows(frozenset({"w"}))
    windows.add("w", operator)
    place = Place(lambda states: seen.append(operator.lock.locked()))
    barrier = Barrier(place, windows, 0, Halt(), lambda: None, 0.0)  # type: ignore[arg-type]

    assert barrier._keep(last=True)
    assert seen == [True]
    assert not operator.lock.locked()


def test_parts_that_were_kept_apart_before_a_checkpoint_do_not_hold_back_what_is_put_together_now() -> None:
    forgotten: list[Any] = []
    tickets = Tickets("s")
    a, b = (tickets.issue(Batch(part, 0, [1], 1)) for part in "ab")
    parts = ChunkParts(forgotten.append)
    parts.go_on_with([("s", "a"), ("s", "b")])
    assert parts.name(Chunk([1, 2], (a, b), 0.0)) == "all"
    assert sorted(forgotten) == [("s", "a"), ("s", "b")]

    again = ChunkParts(forgotten.append)
    again.go_on_with(["all"])
    assert again.name(Chunk([1], (a,), 0.0)) == "all"


def test_a_window_that_was_kept_closes_when_its_parts_are_put_together_after_it() -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    tickets, now = Tickets("s"), Moment(0.0, 0.0)
    before = WindowState(plan)
    for part in "ab":
        before.add([1], now, ("s", part))
    after = WindowState(plan)
    after.restore(before.snapshot(), now)
    parts = ChunkParts(after.forget)
    parts.go_on_with(after.partitions)
    both = tuple(tickets.issue(Batch(part, 0, [1], 1)) for part in "ab")
    outcome = after.add([25], now, parts.name(Chunk([25], both, 0.0)))

    assert [(each.start, each.value) for each in outcome.emitted] == [(0.0, 2)]


def test_what_time_gives_out_of_a_join_is_of_no_single_item() -> None:
    letters: list[DeadLetter] = []

    def bad(pair: tuple[int, int | None]) -> None:
        raise ValueError(pair)

    left = Stream(Parts({"a": [1, 100]}, sizes=(2,)), name="left")
    right = Stream(Parts({"b": [100]}, sizes=(1,)), name="right")
    joined = left.join(right, on=(int, int), within=(0, 1), time=(float, float), how="left")
    joined.map(bad).to(Collected()).run(fail="soft", dead_letters=letters.append)

    origins = {letter.item: letter.origin for letter in letters}
    assert origins.keys() == {(1, None), (100, 100)}
    assert origins[1, None] is None


def test_open_windows_are_not_forgotten_where_no_windows_are_any_more(tmp_path: Path) -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    source, kept = Parts({"a": range(5)}), Kept()
    Stream(source).window(plan).to(kept).run(checkpoint=Checkpoint(tmp_path / "checkpoint"))

    with pytest.raises(DataError, match="holds windows of window 1 of 1"):
        Stream(source).to(kept).run(checkpoint=Checkpoint(tmp_path / "checkpoint"))


def test_windows_of_all_items_are_not_shared_by_workers() -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    keyed = Stream(range(9)).by_key(lambda n: n % 3).map(lambda n: n, workers=3)
    with pytest.raises(DefinitionError, match="3 workers share them"):
        keyed.window(plan).to(Kept()).explain()
    kept = Kept()
    keyed.merge().window(plan).to(kept).run()

    assert [each.value for each in kept.items] == [9]


def test_a_worker_that_would_die_of_the_key_of_a_window_goes_on() -> None:
    def key(number: int) -> int:
        if number == 3:
            raise SystemExit(number)
        return 0

    letters, kept = list[DeadLetter](), Kept()
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), key=key, time=EventTime(at=float))
    Stream(range(5)).window(plan).to(kept).run(fail="soft", dead_letters=letters.append)

    assert [each.value for each in kept.items] == [4]
    assert [(letter.item, letter.failure_class) for letter in letters] == [(3, "worker-died")]


def test_a_failed_clean_up_has_a_place_although_failures_are_a_stream() -> None:
    stream = Stream([1]).revocable(lambda n: n, clean_up=lambda n: n / 0, on_error=SetAside())
    flow = stream.to(Kept()).also(stream.failures().to(Kept()))
    with pytest.raises(DefinitionError, match="no place for them"):
        flow.engine()

    assert flow.run(dead_letters=lambda letter: None).complete


def test_a_table_of_several_items_did_not_come_of_the_first_of_them() -> None:
    def picky(table: Any) -> Any:
        if {3, 5} & set(table["n"].to_pylist()):
            raise ValueError("no 3 and no 5")
        return table

    letters: list[DeadLetter] = []
    rows = Parts({"a": [{"n": n} for n in range(9)]}, sizes=(9,))
    tables = Stream(rows).map_batches(picky, 4, splittable=True)
    tables.to(Kept()).run(fail="soft", dead_letters=letters.append)

    assert [(letter.item, letter.origin) for letter in letters] == [({"n": 3}, None), ({"n": 5}, None)]


def test_equal_keys_have_one_worker_however_they_are_made() -> None:
    one, other = Pair("ab", "ab"), Pair("ab", bytes([97, 98]).decode())

    assert one == other
    assert spread(one) == spread(other)
