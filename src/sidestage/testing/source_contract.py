"""What every source must keep: each item once, from wherever reading goes on, and nobody waits in vain."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sidestage.stream.contract import Batch, Position, Positions, Source
from sidestage.testing.watched import WatchedReader

_MOST_READS = 100_000


class SourcePlace(Protocol):
    """A place that a source reads from, new and empty for each check."""

    def put(self, count: int) -> Sequence[Any]:
        """Put so many items in, none equal to another of this place; return them as they are to be read.

        If there are several parts, the items of each lie in it in this order.
        """
        ...

    def source(self) -> Source[Any]:
        """Return the source, ready to be opened, at first without anything committed."""
        ...


class SourceContract:
    """Checks of a source. A subclass says what kind of source it is.

    ``ends``: it comes to its end by itself. ``grows``: what is put in while it is open is read.
    ``keeps_positions``: opened without positions it goes on from what was committed. ``takes_parts_away``:
    its parts may be given to somebody else who opens it, too. ``patience`` is for how many
    seconds an item is waited for, ``resumes`` from how many positions it is gone on.
    """

    ends = True
    grows = False
    keeps_positions = False
    takes_parts_away = False
    patience = 30.0
    resumes = 12

    def test_everything_comes_once_and_in_order(self, place: SourcePlace) -> None:
        """All items, none twice, those of a part as they lie in it."""
        items = place.put(50)
        with self._open(place) as reader:
            _same(self._read(reader, len(items), 7), items, "when it is read from the beginning")

    def test_no_more_comes_than_was_asked_for(self, place: SourcePlace) -> None:
        """The limit holds for all batches of one call together."""
        items = place.put(20)
        for limit in (1, 3):
            with self._open(place) as reader:
                left = len(items)
                while left > 0:
                    came = self._some(reader, limit)
                    count = sum(len(batch.items) for batch in came)
                    _require(count <= limit, f"read({limit}, ...) returned {count} items")
                    left -= count

    def test_what_is_there_is_not_held_back_for_more(self, place: SourcePlace) -> None:
        """A call that may wait for long returns what is there."""
        items = place.put(3)
        with self._open(place) as reader:
            began = time.monotonic()
            found = reader.read(1000, 600.0)
            while not _items(found or ()) and time.monotonic() - began < self.patience:
                found = reader.read(1000, 600.0)
            _require(bool(_items(found or ())), f"none of {len(items)} items came within {self.patience} s")

    def test_nothing_to_read_is_told_in_time(self, place: SourcePlace) -> None:
        """A source that ends returns None; any other an empty sequence, when the time is over."""
        with self._open(place) as reader:
            for wait in (0.0, 0.05):
                found = reader.read(10, wait)
                _require(not _items(found or ()), f"an empty place gave {_items(found or ())!r}")
                _require(self.ends or found is not None, "a source without an end came to its end")
            began = time.monotonic()
            while self.ends and reader.read(10, 0.05) is not None:
                late = time.monotonic() - began > self.patience
                _require(not late, f"an empty place did not end within {self.patience} s")

    def test_reading_goes_on_from_any_position(self, place: SourcePlace) -> None:
        """What was read before a position and what is read from it on are together everything, once."""
        items = place.put(50)
        with self._open(place) as reader:
            batches = self._read(reader, len(items), 7)
        step = max(1, len(batches) // self.resumes)
        for count in range(0, len(batches) + 1, step):
            done = batches[:count]
            reached = _kept({batch.part: batch.next for batch in done})
            with self._open(place, reached) as reader:
                left = self._read(reader, len(items) - len(_items(done)), 7)
            _same([*done, *left], items, f"when reading goes on from {reached}")

    def test_batches_of_a_part_follow_each_other(self, place: SourcePlace) -> None:
        """A batch begins where the one before it ended, the first one at the position given."""
        items = place.put(30)
        with self._open(place) as reader:
            batches = self._read(reader, len(items), 4)
        _require_chain(batches, {})
        reached = _kept({batch.part: batch.next for batch in batches[: len(batches) // 2]})
        with self._open(place, reached) as reader:
            left = len(items) - len(_items(batches[: len(batches) // 2]))
            _require_chain(self._read(reader, left, 4), reached)

    def test_positions_survive_json(self, place: SourcePlace) -> None:
        """A position is a number or a text, and the same after it was written and read."""
        items = place.put(10)
        with self._open(place) as reader:
            for batch in self._read(reader, len(items), 3):
                _require(isinstance(batch.part, str), f"the part {batch.part!r} is no text")
                for position in (batch.first, batch.next):
                    fits = isinstance(position, int | str) and not isinstance(position, bool)
                    _require(fits, f"the position {position!r} is neither a number nor a text")
                    _kept({batch.part: position})

    def test_stopping_brings_the_end_and_loses_nothing(self, place: SourcePlace) -> None:
        """After ``stop`` it soon returns None; what it gave and what comes later are everything."""
        items = place.put(40)
        with self._open(place) as reader:
            batches = self._read_some(reader, 10)
            reader.stop()
            began = time.monotonic()
            while (some := reader.read(5, 0.0)) is not None:
                batches += some
                late = time.monotonic() - began > self.patience
                _require(not late, f"it gave no None within {self.patience} s of stop()")
        reached = {batch.part: batch.next for batch in batches}
        with self._open(place, reached) as reader:
            batches += self._read(reader, len(items) - len(_items(batches)), 7)
        _same(batches, items, "when it is stopped, and read on from there")

    def test_it_may_be_closed_at_any_time_and_twice(self, place: SourcePlace) -> None:
        """Before anything is read, in the middle, after ``stop``; and somebody else may open it then."""
        items = place.put(20)
        for reads, stops in ((0, False), (1, False), (1, True)):
            with self._open(place) as reader:
                for _ in range(reads):
                    reader.read(3, 0.0)
                if stops:
                    reader.stop()
                reader.close()  # and again when it is left
        with self._open(place) as reader:
            _same(self._read(reader, len(items), 7), items, "after others were closed in the middle")

    def test_what_is_committed_is_heeded_or_left_to_the_checkpoint(self, place: SourcePlace) -> None:
        """A source that keeps positions goes on from those committed; any other begins at the beginning."""
        items = place.put(30)
        with self._open(place) as reader:
            batches = self._read(reader, len(items), 5)
            done = batches[: len(batches) // 2]
            reader.commit({})
            reader.commit({batch.part: batch.next for batch in done})
        before = done if self.keeps_positions else []
        with self._open(place) as reader:
            left = self._read(reader, len(items) - len(_items(before)), 7)
        _same([*before, *left], items, "when it is opened again without positions")

    def test_what_comes_later_is_read_too(self, place: SourcePlace) -> None:
        """Items that are put in while it is open, unless it ends with those that were there."""
        if not self.grows:
            return
        items = list(place.put(5))
        with self._open(place) as reader:
            batches = self._read_some(reader, 5)
            for count in (1, 7):
                items += place.put(count)
                batches += self._read_some(reader, count)
        _same(batches, items, "when items are added")

    def test_no_part_is_lost_that_nobody_took(self, place: SourcePlace) -> None:
        """``lost`` names nothing, unless somebody else has come; and each part once if somebody has."""
        items = place.put(20)
        with self._open(place) as reader:
            batches = self._read_some(reader, len(items))
            lost = list(reader.lost())
            _require(lost == [], f"it says that it lost {lost}, and nobody took it")
            if not self.takes_parts_away:
                return
            with self._open(place) as rival:
                gone: set[str] = set()
                began = time.monotonic()
                while not gone:
                    more = reader.read(10, 0.05) or ()
                    rival.read(1, 0.0)
                    gone = set(reader.lost())
                    _require(not {batch.part for batch in more} & gone, "a read gave items of a part it lost")
                    late = time.monotonic() - began > self.patience
                    _require(not late, "it never said which parts it lost to another reader")
                known = {batch.part for batch in batches}
                _require(gone <= known, f"it lost {gone - known}, which it never had")
                _require(not reader.lost(), "it says twice that it lost the same")

    def _open(self, place: SourcePlace, resume: Positions | None = None) -> WatchedReader:
        return WatchedReader(place.source(), resume or {}, self.patience)

    def _read(self, reader: WatchedReader, count: int, limit: int) -> list[Batch]:
        """Read so many items, and what comes beyond them: None, or nothing for a moment."""
        batches = self._read_some(reader, count, limit)
        beyond = reader.read(limit, 0.05)
        if self.ends:
            for _ in range(_MOST_READS):
                if beyond is None:
                    break
                batches += beyond
                beyond = reader.read(limit, 0.05)
            _require(beyond is None, f"after {count} items, which is all, it does not come to its end")
        return [*batches, *(beyond or ())]

    def _read_some(self, reader: WatchedReader, count: int, limit: int = 100) -> list[Batch]:
        batches: list[Batch] = []
        while (missing := count - len(_items(batches))) > 0:
            batches += self._some(reader, min(limit, missing), f"{missing} of {count} items never came")
        return batches

    def _some(self, reader: WatchedReader, limit: int, problem: str = "no items came") -> Sequence[Batch]:
        began = time.monotonic()
        batches: list[Batch] = []
        while time.monotonic() - began < self.patience:
            found = reader.read(limit, 0.1)
            if found is None:
                raise AssertionError(f"{problem}: it came to its end")
            batches += found  # one without items tells how far it has come
            if _items(found):
                return batches
        raise AssertionError(f"{problem} within {self.patience} s")


def _items(batches: Sequence[Batch]) -> list[Any]:
    return [item for batch in batches for item in batch.items]


def _kept(positions: Mapping[str, Position]) -> Positions:
    kept = msgspec.json.decode(msgspec.json.encode(positions), type=dict[str, int | str])
    _require(kept == positions, f"the positions {positions} are {kept} when they were kept as JSON")
    return kept


def _same(batches: Sequence[Batch], items: Sequence[Any], when: str) -> None:
    """Require that batches hold all items, each once, and those of a part in order."""
    found = _items(batches)
    left = list(items)
    places: dict[str, list[int]] = {}
    for batch in batches:
        for item in batch.items:
            known = item in items
            _require(known, f"{item!r} comes, which was never put in, {when}")
            _require(item in left, f"{item!r} comes twice {when}")
            left.remove(item)
            places.setdefault(batch.part, []).append(list(items).index(item))
    _require(not left, f"{len(left)} of {len(items)} items do not come {when}, the first is {left[:1]!r}")
    _require(len(found) == len(items), f"{len(found)} items come, not {len(items)}, {when}")
    for part, order in places.items():
        _require(order == sorted(order), f"the items of the part {part!r} are out of order {when}")


def _require_chain(batches: Sequence[Batch], reached: Positions) -> None:
    ends = dict(reached)
    for batch in batches:
        if batch.part in ends:
            end = ends[batch.part]
            _require(
                batch.first == end, f"a batch of {batch.part!r} begins at {batch.first!r}, not at {end!r}"
            )
        ends[batch.part] = batch.next


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
