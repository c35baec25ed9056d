"""What every transactional sink must keep: items and progress become visible together, or not at all."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sidestage.stream.contract import Progress, Reader, Refused, TransactionalSink
from sidestage.testing.sink_contract import Unsuitable

_LOOK_SECONDS = 0.05


class TransactionalSinkPlace(Protocol):
    """A place that a transactional sink writes to, new and empty for each check."""

    def item(self, number: int) -> Any:
        """Return an item that can be written, another one for each number."""
        ...

    def bad(self) -> Any:
        """Return an item that is refused. Raises Unsuitable if there is none."""
        ...

    def sink(self) -> TransactionalSink[Any]:
        """Return the sink, ready to be opened."""
        ...

    def written(self) -> Sequence[Any]:
        """Return the items that are visible to somebody else now, oldest first."""
        ...

    def readers(self) -> Mapping[str, Reader[Any]]:
        """Return the readers that a commit is given."""
        ...


class TransactionalSinkContract:
    """Checks of a transactional sink, whose attribute ``keeps_states`` may be False.

    ``is_exclusive``: while a transaction has items, nobody else can look or open, as in a file of SQLite.
    ``patience`` is for how many seconds what was committed may still be on its way to those who look, as in
    Kafka; what was not may never be seen.
    """

    is_exclusive = False
    patience = 0.0

    def test_nothing_was_committed_at_first(self, place: TransactionalSinkPlace) -> None:
        """A new place has progress with number 0, also when it was opened."""
        _require(place.sink().progress() == Progress(0, {}), "a new place has progress already")
        place.sink().open().close()
        self._require_there(place, 0, 0, "after it was opened and closed")

    def test_items_and_progress_become_visible_together(self, place: TransactionalSinkPlace) -> None:
        """Neither before ``commit``, both when it has returned; and again with the next one."""
        writer = place.sink().open()
        try:
            for number in (1, 2, 3):
                for item in range(number * 10 - 10, number * 10, 5):
                    writer.write([place.item(each) for each in range(item, item + 5)])
                    if not self.is_exclusive:
                        self._require_there(place, number * 10 - 10, number - 1, "before the commit")
                writer.commit(_progress(place, number), place.readers())
                self._require_there(place, number * 10, number, "after the commit")
        finally:
            writer.close()

    def test_closing_undoes_what_was_not_committed(self, place: TransactionalSinkPlace) -> None:
        """And nothing else; the next writer's transaction holds nothing of it."""
        writer = place.sink().open()
        writer.write([place.item(0)])
        writer.commit(_progress(place, 1), place.readers())
        writer.write([place.item(1)])
        writer.close()
        writer.close()
        self._require_there(place, 1, 1, "after it was closed before a commit")
        writer = place.sink().open()
        try:
            self._require_there(place, 1, 1, "after it was opened again")
            writer.write([place.item(1)])
            writer.commit(_progress(place, 2), place.readers())
            self._require_there(place, 2, 2, "after the next writer's commit")
        finally:
            writer.close()

    def test_progress_is_kept_without_items_too(self, place: TransactionalSinkPlace) -> None:
        """All items of a while may have been dropped on the way."""
        writer = place.sink().open()
        try:
            writer.commit(_progress(place, 1), place.readers())
            self._require_there(place, 0, 1, "after a commit of nothing")
            writer.write([])
            writer.commit(_progress(place, 2), place.readers())
            self._require_there(place, 0, 2, "after a commit of an empty list")
            writer.write([place.item(0)])
            writer.commit(_progress(place, 3), place.readers())
            self._require_there(place, 1, 3, "after a commit of an item behind two of nothing")
        finally:
            writer.close()

    def test_who_opens_it_fences_off_who_wrote_before(self, place: TransactionalSinkPlace) -> None:
        """The first one's ``commit`` raises, and changes nothing; the second one's is seen."""
        first = place.sink().open()
        try:
            if not self.is_exclusive:
                first.write([place.item(100)])
            second = place.sink().open()
            try:
                self._require_fenced(first, place)
                self._require_there(place, 0, 0, "after a fenced writer tried to commit")
                second.write([place.item(0)])
                second.commit(_progress(place, 1), place.readers())
                self._require_there(place, 1, 1, "after the second writer's commit")
            finally:
                first.close()
                second.close()
        finally:
            first.close()
        self._require_there(place, 1, 1, "after both were closed")

    def test_what_is_refused_is_named_and_all_others_are_committed(
        self, place: TransactionalSinkPlace
    ) -> None:
        """``Refused`` has the index of each bad item; the others belong to the transaction."""
        try:
            bad = place.bad()
        except Unsuitable:
            return
        writer = place.sink().open()
        try:
            writer.write([place.item(0)])
            try:
                writer.write([bad, place.item(1), bad])
            except Refused as refused:
                named = sorted(refused.errors)
                _require(named == [0, 2], f"the items [0, 2] are bad, and it refused {named}")
            else:
                raise AssertionError("a bad item was not refused")
            writer.commit(_progress(place, 1), place.readers())
            self._require_there(place, 2, 1, "after others were refused")
        finally:
            writer.close()

    def _require_fenced(self, writer: Any, place: TransactionalSinkPlace) -> None:
        try:
            writer.write([place.item(101)])
            writer.commit(_progress(place, 9), place.readers())
        except Exception:  # noqa: BLE001 - whatever it says to that
            return
        raise AssertionError("a writer could commit after somebody else had opened the sink")

    def _require_there(self, place: TransactionalSinkPlace, items: int, number: int, when: str) -> None:
        wanted = [place.item(each) for each in range(items)]
        found = self._found(place, wanted)
        _require(found == wanted, f"{found!r} is visible, not {wanted!r}, {when}")
        progress = place.sink().progress()
        expected = _progress(place, number) if number else Progress(0, {})
        _require(progress == expected, f"its progress is {progress!r}, not {expected!r}, {when}")

    def _found(self, place: TransactionalSinkPlace, wanted: Sequence[Any]) -> list[Any]:
        """Return what is visible; while that is only the beginning of what is wanted, look again."""
        began = time.monotonic()
        while True:
            found = list(place.written())
            is_on_its_way = len(found) < len(wanted) and found == wanted[: len(found)]
            if not is_on_its_way or time.monotonic() - began >= self.patience:
                return found
            time.sleep(_LOOK_SECONDS)


def _progress(place: TransactionalSinkPlace, number: int) -> Progress:
    keeps_states = getattr(place.sink(), "keeps_states", True)
    states = {"window": bytes(range(256)) * number} if keeps_states else {}
    return Progress(number, {"source": {"all": number * 7, "a/ä": f"{number}@é"}}, states)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
