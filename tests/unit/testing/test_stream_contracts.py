"""The suite for sources and sinks can fail: each check catches something that is broken just so."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from sidestage.stream.contract import Batch, Position, Positions, Progress, Refused
from sidestage.testing.streams import SinkContract, SourceContract, TransactionalSinkContract


class Queue:
    """A place in memory, whose reader is broken in one way."""

    def __init__(self, fault: str = "", *, ends: bool = True, shared: bool = False) -> None:
        self.fault = fault
        self.ends = ends
        self.shared = shared
        self.items: list[str] = []
        self.opened: list[QueueReader] = []
        self.committed: dict[str, Position] = {}
        self.name = "queue"

    def put(self, count: int) -> Sequence[str]:
        new = [f"item {len(self.items) + n}" for n in range(count)]
        self.items += new
        return new

    def source(self) -> "Queue":
        return self

    def open(self, resume: Positions) -> "QueueReader":
        reader = QueueReader(self, int({**self.committed, **resume}.get("all", 0)))
        self.opened.append(reader)
        return reader


class QueueReader:
    def __init__(self, place: Queue, at: int) -> None:
        self._place = place
        self._is = place.fault.__eq__
        self._at = (
            at + 1 if at and self._is("skips one") else at - 1 if at and self._is("repeats one") else at
        )
        self._stopped = False
        self._is_closed = False
        self._known = len(place.items)
        self._gone = False
        self._told = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        if self._gone:
            return ()
        if self._stopped and not self._is("never stops"):
            return None
        if self._is("reads in pieces"):
            limit += 2
        if self._is("waits for more") and wait > 1:
            time.sleep(2)
        end = self._known if self._is("sees nothing new") else len(self._place.items)
        items = self._place.items[self._at : min(self._at + limit, end)]
        return self._batch(items) if items else self._nothing(wait)

    def _batch(self, items: list[str]) -> Sequence[Batch]:
        first, self._at = self._at, self._at + len(items)
        if self._is("out of order") and len(items) > 1:
            items.reverse()
        if self._is("loses one") and first < 20 <= self._at:
            items = items[1:]
        if self._is("loses at stop") and self._at > 10:
            self._at += 1
        following: Any = self._at
        if self._is("positions are bytes"):
            following = float(self._at)
        shift = 100 if self._is("other beginnings") else 0
        return (Batch("all", first + shift, list(items), following),)

    def _nothing(self, wait: float) -> Sequence[Batch] | None:
        if self._place.ends and not self._is("never ends"):
            return None
        if self._is("blocks"):
            time.sleep(2)
        if self._is("ends early"):
            return None
        time.sleep(wait)
        return ()

    def stop(self) -> None:
        self._stopped = True

    def commit(self, positions: Positions) -> None:
        if self._is("commits too much") or self._place.shared:
            self._place.committed = dict(positions)
        if self._is("forgets nothing") and "all" in positions:
            self._place.committed = {"all": int(positions["all"]) + 1}

    def lost(self) -> Collection[str]:
        rival = self._place.opened[-1] is not self and not self._place.opened[-1]._is_closed
        if self._is("loses what nobody took"):
            return ("all",)
        if self._place.shared and rival and not self._is("never tells of losses"):
            self._gone = True
            if not self._told or self._is("tells twice"):
                self._told = True
                return ("all",)
        return ()

    def close(self) -> None:
        if self._is_closed and self._is("closes once"):
            raise RuntimeError("is closed")
        if self._is("hangs at close"):
            time.sleep(2)
        self._is_closed = True


class Quick(SourceContract):
    patience = 0.5
    resumes = 3


class Endless(Quick):
    ends = False
    grows = True


class Shared(Endless):
    keeps_positions = True
    takes_parts_away = True


FAULTS: Mapping[str, tuple[str, str]] = {
    "everything_comes_once_and_in_order": ("loses one", "never came|do not come"),
    "no_more_comes_than_was_asked_for": ("reads in pieces", "returned 3 items"),
    "what_is_there_is_not_held_back_for_more": ("waits for more", "does not come back"),
    "nothing_to_read_is_told_in_time": ("never ends", "did not end within"),
    "reading_goes_on_from_any_position": ("repeats one", "comes twice"),
    "batches_of_a_part_follow_each_other": ("other beginnings", "begins at"),
    "positions_survive_json": ("positions are bytes", "neither a number nor a text"),
    "stopping_brings_the_end_and_loses_nothing": ("loses at stop", "never came"),
    "it_may_be_closed_at_any_time_and_twice": ("closes once", "is closed"),
    "what_is_committed_is_heeded_or_left_to_the_checkpoint": ("commits too much", "never came"),
    "no_part_is_lost_that_nobody_took": ("loses what nobody took", "nobody took it"),
}
MORE = [
    (Quick, "everything_comes_once_and_in_order", "out of order", "out of order"),
    (Quick, "reading_goes_on_from_any_position", "skips one", "never came"),
    (Quick, "it_may_be_closed_at_any_time_and_twice", "hangs at close", "does not come back"),
    (Endless, "nothing_to_read_is_told_in_time", "blocks", "does not come back"),
    (Endless, "nothing_to_read_is_told_in_time", "ends early", "came to its end"),
    (Endless, "what_comes_later_is_read_too", "sees nothing new", "never came"),
    (Endless, "stopping_brings_the_end_and_loses_nothing", "never stops", "gave no None"),
    (Shared, "what_is_committed_is_heeded_or_left_to_the_checkpoint", "forgets nothing", "never came"),
    (Shared, "no_part_is_lost_that_nobody_took", "never tells of losses", "never said"),
    (Shared, "no_part_is_lost_that_nobody_took", "tells twice", "says twice"),
]


def checks(contract: type[Any]) -> list[str]:
    return [name.removeprefix("test_") for name in dir(contract) if name.startswith("test_")]


def run(contract: type[Any], check: str, place: Any) -> None:
    getattr(contract(), f"test_{check}")(place)


@pytest.mark.parametrize("check", checks(SourceContract))
def test_a_source_that_is_right_passes(check, monkeypatch):
    monkeypatch.setattr(Quick, "patience", 120.0)
    run(Quick, check, Queue())
    run(Endless, check, Queue(ends=False))
    run(Shared, check, Queue(ends=False, shared=True))


@pytest.mark.parametrize(
    ("contract", "check", "fault", "what"),
    [*((Quick, check, *fault) for check, fault in FAULTS.items()), *MORE],
)
def test_a_source_that_is_broken_is_caught(contract, check, fault, what):
    place = Queue(fault, ends=contract is Quick, shared=contract is Shared)
    with pytest.raises((AssertionError, RuntimeError), match=what):
        run(contract, check, place)


def test_every_check_of_sources_is_known_to_catch_something():
    assert set(checks(SourceContract)) == FAULTS.keys() | {check for _, check, _, _ in MORE}


class Shelf:
    """A place in memory, whose writer is broken in one way, or whose transactions are."""

    name = "shelf"

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.items: list[Any] = []
        self.kept = Progress(0, {})
        self.epoch = 0

    def item(self, number: int) -> str:
        return f"item {number}"

    def bad(self) -> str:
        return "bad"

    def sink(self) -> "Shelf":
        return self

    def written(self) -> Sequence[Any]:
        return list(self.items)

    def readers(self) -> Mapping[str, Any]:
        return {}

    def progress(self) -> Progress:
        return self.kept

    def open(self) -> Any:
        if self.fault == "clears" and self.epoch:
            self.items.clear()
        if self.fault == "begins with progress":
            self.kept = Progress(1, {})
        self.epoch += 1
        return ShelfWriter(self)


class ShelfWriter:
    def __init__(self, place: Shelf) -> None:
        self._place = place
        self._is = place.fault.__eq__
        self._held: list[Any] = []
        self._mine = place.epoch
        self._closed = False

    def write(self, items: Any) -> None:
        if self._is("alone") and self._mine != self._place.epoch:
            return
        errors: dict[int, Exception] = {
            index: ValueError(item) for index, item in enumerate(items) if item == "bad"
        }
        good = [item for item in items if item != "bad"]
        if self._is("refuses all"):
            errors = {index: ValueError(item) for index, item in enumerate(items)} if errors else {}
        if self._is("drops with the bad") and errors:
            good = good[:-1]
        if self._is("traces") and not good:
            good = ["trace"]
        if self._is("backwards"):
            good.reverse()
        if self._is("late"):
            self._held += good
        elif self._is("keeps the list"):
            self._place.items = items
        else:
            self._place.items += good
        if self._is("takes"):
            items.clear()
        if errors and not self._is("takes bad ones"):
            raise Refused(errors)

    def close(self) -> None:
        if self._is("late"):
            self._place.items += self._held
        if self._is("undoes"):
            self._place.items.clear()
        if self._closed and self._is("closes once"):
            raise RuntimeError("is closed")
        self._closed = True


SINK_FAULTS = [
    ("what_is_written_is_there_at_once", "late", "is there, not"),
    ("what_is_written_is_there_at_once", "backwards", "out of order"),
    ("closing_undoes_nothing_and_may_happen_twice", "undoes", "after it was closed"),
    ("closing_undoes_nothing_and_may_happen_twice", "closes once", "is closed"),
    ("nothing_to_write_writes_nothing", "traces", "trace"),
    ("what_is_refused_is_named_and_all_others_are_written", "refuses all", "it refused"),
    ("what_is_refused_is_named_and_all_others_are_written", "drops with the bad", "is there, not"),
    ("what_is_refused_is_named_and_all_others_are_written", "takes bad ones", "was not refused"),
    ("the_list_given_is_only_read", "takes", "changed the list"),
    ("the_list_given_is_only_read", "keeps the list", "emptied the list"),
    ("what_was_there_stays_when_it_is_opened_again", "clears", "after a second writer"),
    ("several_may_write_at_the_same_time", "alone", "15 are there"),
]


@pytest.mark.parametrize("check", checks(SinkContract))
def test_a_sink_that_is_right_passes(check):
    run(SinkContract, check, Shelf())


@pytest.mark.parametrize(("check", "fault", "what"), SINK_FAULTS)
def test_a_sink_that_is_broken_is_caught(check, fault, what):
    with pytest.raises((AssertionError, RuntimeError), match=what):
        run(SinkContract, check, Shelf(fault))


def test_every_check_of_sinks_is_known_to_catch_something():
    assert set(checks(SinkContract)) == {check for check, _, _ in SINK_FAULTS}


class Ledger(Shelf):
    def open(self) -> Any:
        super().open()
        return LedgerWriter(self)


class LedgerWriter:
    def __init__(self, place: Shelf) -> None:
        self._place = place
        self._is = place.fault.__eq__
        self._mine = place.epoch
        self._held: list[Any] = []

    def write(self, items: Sequence[Any]) -> None:
        errors: dict[int, Exception] = {
            index: ValueError(item) for index, item in enumerate(items) if item == "bad"
        }
        self._held += [item for item in items if item != "bad"]
        if self._is("visible early"):
            self._place.items += self._held
            self._held = []
        if errors:
            if self._is("refuses the transaction"):
                self._held = []
            raise Refused({0: ValueError()} if self._is("names one") else errors)

    def commit(self, progress: Progress, readers: Mapping[str, Any]) -> None:
        if self._mine != self._place.epoch and not self._is("not fenced"):
            raise RuntimeError("somebody else writes")
        self._place.items += self._held
        if not self._is("loses progress") and (self._held or not self._is("no progress without items")):
            self._place.kept = progress
        if not self._is("commits twice"):
            self._held = []

    def close(self) -> None:
        if self._is("commits at close"):
            self._place.items += self._held
            self._held = []


TRANSACTION_FAULTS = [
    ("nothing_was_committed_at_first", "begins with progress", "its progress is"),
    ("items_and_progress_become_visible_together", "visible early", "before the commit"),
    ("items_and_progress_become_visible_together", "loses progress", "its progress is"),
    ("items_and_progress_become_visible_together", "commits twice", "is visible, not"),
    ("closing_undoes_what_was_not_committed", "commits at close", "closed before a commit"),
    ("progress_is_kept_without_items_too", "no progress without items", "after a commit of nothing"),
    ("who_opens_it_fences_off_who_wrote_before", "not fenced", "could commit after"),
    ("what_is_refused_is_named_and_all_others_are_committed", "names one", "it refused"),
    ("what_is_refused_is_named_and_all_others_are_committed", "refuses the transaction", "is visible"),
]


@pytest.mark.parametrize("check", checks(TransactionalSinkContract))
def test_a_transactional_sink_that_is_right_passes(check):
    run(TransactionalSinkContract, check, Ledger())


@pytest.mark.parametrize(("check", "fault", "what"), TRANSACTION_FAULTS)
def test_a_transactional_sink_that_is_broken_is_caught(check, fault, what):
    with pytest.raises(AssertionError, match=what):
        run(TransactionalSinkContract, check, Ledger(fault))


class Exclusive(TransactionalSinkContract):
    is_exclusive = True


@pytest.mark.parametrize("check", checks(TransactionalSinkContract))
def test_nobody_looks_while_a_place_keeps_others_out(check):
    class Shut(Ledger):
        def open(self) -> Any:
            return ShutWriter(super().open(), self)

        def written(self) -> Sequence[Any]:
            assert not self.is_shut, "somebody looked in the middle of a transaction"
            return super().written()

        is_shut = False

    class ShutWriter:
        def __init__(self, inner: Any, place: Shut) -> None:
            self.inner, self.place = inner, place

        def write(self, items: Sequence[Any]) -> None:
            self.place.is_shut = bool(items)
            self.inner.write(items)

        def commit(self, *given: Any) -> None:
            self.place.is_shut = False
            self.inner.commit(*given)

        def close(self) -> None:
            self.place.is_shut = False
            self.inner.close()

    run(Exclusive, check, Shut())


def test_who_is_not_fenced_off_by_an_exclusive_place_is_caught():
    with pytest.raises(AssertionError, match="could commit after"):
        run(Exclusive, "who_opens_it_fences_off_who_wrote_before", Ledger("not fenced"))


def test_every_check_of_transactional_sinks_is_known_to_catch_something():
    assert set(checks(TransactionalSinkContract)) == {check for check, _, _ in TRANSACTION_FAULTS}
