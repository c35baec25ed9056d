"""What every sink must keep: what was written is there, and what was refused is named."""

from collections.abc import Sequence
from typing import Any, Protocol

from sidestage.stream.contract import Refused, Sink, Writer


class SinkPlace(Protocol):
    """A place that a sink writes to, new and empty for each check."""

    def item(self, number: int) -> Any:
        """Return an item that can be written, another one for each number."""
        ...

    def bad(self) -> Any:
        """Return an item that is refused. Raises Unsuitable if there is none."""
        ...

    def sink(self) -> Sink[Any]:
        """Return the sink, ready to be opened."""
        ...

    def written(self) -> Sequence[Any]:
        """Return the items that lie there, oldest first, as somebody else finds them now."""
        ...


class Unsuitable(Exception):
    """A place cannot have what a check is about."""


class SinkContract:
    """Checks of a sink. A subclass says what kind of sink it is.

    ``has_order``: items are found in the order in which one writer wrote them. ``many_writers``: several may
    be open at the same time. ``stays``: what one writer wrote is there after another one was opened.
    """

    has_order = True
    many_writers = True
    stays = True

    def test_what_is_written_is_there_at_once(self, place: SinkPlace) -> None:
        """Somebody else finds it when ``write`` has returned, whatever happens to the writer."""
        writer = place.sink().open()
        try:
            for end in (1, 6, 20):
                writer.write(_items(place, len(place.written()), end))
                self._require_written(place, _items(place, 0, end), f"after the write up to item {end}")
        finally:
            writer.close()

    def test_closing_undoes_nothing_and_may_happen_twice(self, place: SinkPlace) -> None:
        """What was written stays; a writer that wrote nothing can be closed, too."""
        place.sink().open().close()
        writer = place.sink().open()
        writer.write(_items(place, 0, 5))
        writer.close()
        writer.close()
        self._require_written(place, _items(place, 0, 5), "after it was closed")

    def test_nothing_to_write_writes_nothing(self, place: SinkPlace) -> None:
        """An empty list is written without an error, and leaves no trace."""
        writer = place.sink().open()
        try:
            writer.write([])
            self._require_written(place, [], "after nothing was written")
            writer.write(_items(place, 0, 2))
            writer.write([])
            self._require_written(place, _items(place, 0, 2), "after nothing was written behind two items")
        finally:
            writer.close()

    def test_what_is_refused_is_named_and_all_others_are_written(self, place: SinkPlace) -> None:
        """``Refused`` has the index of each bad item, and of no other."""
        try:
            bad = place.bad()
        except Unsuitable:
            return
        good = _items(place, 0, 4)
        writer = place.sink().open()
        try:
            self._require_refused(writer, [good[0], bad, good[1], good[2], bad], {1, 4})
            self._require_written(place, good[:3], "after others were refused")
            self._require_refused(writer, [bad], {0})
            writer.write([good[3]])
            self._require_written(place, good, "after a refusal")
        finally:
            writer.close()

    def test_the_list_given_is_only_read(self, place: SinkPlace) -> None:
        """``write`` leaves it as it is, and keeps nothing of it that the caller may change."""
        writer = place.sink().open()
        given = _items(place, 0, 3)
        try:
            writer.write(given)
            _require(given == _items(place, 0, 3), "write() changed the list that it was given")
            given.clear()
            self._require_written(place, _items(place, 0, 3), "after the caller emptied the list")
        finally:
            writer.close()

    def test_what_was_there_stays_when_it_is_opened_again(self, place: SinkPlace) -> None:
        """A second writer adds to what the first one wrote."""
        if not self.stays:
            return
        for first in (0, 3):
            writer = place.sink().open()
            writer.write(_items(place, first, first + 3))
            writer.close()
        self._require_written(place, _items(place, 0, 6), "after a second writer")

    def test_several_may_write_at_the_same_time(self, place: SinkPlace) -> None:
        """What each of them writes is there, whole."""
        if not self.many_writers:
            return
        sink = place.sink()
        writers = [sink.open(), sink.open()]
        try:
            for number in range(10):
                writers[number % 2].write(_items(place, number * 3, number * 3 + 3))
        finally:
            for writer in writers:
                writer.close()
        found, wanted = list(place.written()), _items(place, 0, 30)
        _require(_is_same(found, wanted), f"of two writers' {len(wanted)} items {len(found)} are there")

    def _require_refused(self, writer: Writer[Any], items: list[Any], bad: set[int]) -> None:
        try:
            writer.write(items)
        except Refused as refused:
            named = set(refused.errors)
            _require(named == bad, f"of the items {sorted(bad)} are bad, and it refused {sorted(named)}")
            errors = refused.errors.values()
            _require(all(isinstance(each, Exception) for each in errors), "a reason is no exception")
        else:
            raise AssertionError("a bad item was not refused")

    def _require_written(self, place: SinkPlace, items: list[Any], when: str) -> None:
        found = list(place.written())
        _require(_is_same(found, items), f"{found!r} is there, not {items!r}, {when}")
        _require(found == items or not self.has_order, f"{found!r} is there out of order {when}")


def _items(place: SinkPlace, first: int, end: int) -> list[Any]:
    return [place.item(number) for number in range(first, end)]


def _is_same(found: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether two sequences hold the same, in any order; items need be neither hashable nor sortable."""
    left = list(items)
    for item in found:
        if item not in left:
            return False
        left.remove(item)
    return not left


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
