"""What becomes of items for which there is no room before a stage while others of its workers are idle.

First a key that has most of a line is given one of its own. Where that is full, its items are put aside if
this is allowed, pickled, in memory or on disk; else the stream waits. Nothing is put aside while all workers
are busy: then waiting costs nobody anything.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pickle import dumps, loads
from typing import Any, NamedTuple

from sidestage.errors import DataError
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, GivenUp, failed
from sidestage.stream.guarding.limiting import part_of
from sidestage.stream.keys.hot_keys import Alarm, HotKey, hottest
from sidestage.stream.keys.lines import Line, Lines
from sidestage.stream.keys.outlets import Numbers
from sidestage.stream.keys.spill import Place, Store

_HOT_SHARE = 0.5
"""What share of a line a key must have to be given one of its own."""

_LOOK_SECONDS = 0.1
_DIVIDE_SECONDS = 1.0
"""How long a line that was not divided is left alone."""


class Aside(NamedTuple):
    """Where the items of a stage are put aside, and where those are brought that cannot be."""

    store: Store
    desk: Desk
    stage: str


class Frame:
    """A chunk that has been put aside."""

    __slots__ = ("_aside", "_born", "_place", "_tickets", "_trail", "count", "load")

    def __init__(self, chunk: Chunk, place: Place, aside: Aside) -> None:
        self.load = chunk.load
        self.count = len(chunk.items)
        self._tickets = chunk.tickets
        self._born = chunk.born
        self._trail = chunk.trail
        self._place = place
        self._aside = aside

    def unread(self) -> Chunk:
        """Return a chunk of as many items, which are not read, with the tickets; its room is free again."""
        with suppress(OSError):
            self._aside.store.take(self._place)
        return Chunk([None] * self.count, self._tickets, self._born)

    def read(self) -> Chunk | None:
        """Return the chunk, or None if no item of it could be read. Raises DataError."""
        try:
            data = memoryview(self._aside.store.take(self._place))
        except OSError as error:
            raise DataError(
                f"Items of {self._aside.stage!r} that were spilled cannot be read back: {error}",
                hint="None of them was acknowledged: run the stream again, with a folder that works.",
            ) from error
        at = 8 + int.from_bytes(data[:8], "little")
        lengths, origins = loads(data[8:at])  # noqa: S301 - our own
        chunk = Chunk([None] * len(lengths), self._tickets, self._born, origins and list(origins))
        chunk.trail = self._trail
        items: list[Any] = []
        gone: list[int] = []
        for index, length in enumerate(lengths):
            body, at = data[at : at + length], at + length
            try:
                items.append(loads(body))  # noqa: S301 - our own
            except Exception as error:  # noqa: BLE001 - of the item's own code
                lost = TypeError(f"it was spilled, and cannot be read back: {error}")
                _decide(self._aside, chunk, index, bytes(body), lost)
                gone.append(index)
        chunk.become(items, gone)
        if items:
            return chunk
        chunk.settle()
        return None


def packed(chunk: Chunk, aside: Aside) -> bytes:
    """Return a chunk as bytes. Items that cannot be pickled leave it, as errors of their own."""
    bodies: list[bytes] = []
    items: list[Any] = []
    gone: list[int] = []
    for index, item in enumerate(chunk.items):
        try:
            bodies.append(dumps(item, 5))
            items.append(item)
        except Exception as error:  # noqa: BLE001 - of the item's own code
            lost = TypeError(f"it cannot be pickled, so it cannot be spilled: {error}")
            _decide(aside, chunk, index, item, lost)
            gone.append(index)
    if gone:
        chunk.become(items, gone)
    origins = None if chunk.origins is None else array("q", chunk.origins)
    head = dumps((array("Q", map(len, bodies)), origins), 5)
    return b"".join((len(head).to_bytes(8, "little"), head, *bodies))


def _decide(aside: Aside, chunk: Chunk, index: int, item: Any, error: Exception) -> None:
    """Have an item's error decided about. A default key does not help here: the stream ends then."""
    if not aside.desk.decide(chunk, index, item, GivenUp(error, 1)).gone:
        raise failed(aside.stage, item, error, chunk, index) from error


class LineOutlets:
    """Sends the parts of chunks into lines; what there is no room for comes last. One worker's."""

    def __init__(self, lines: Lines, numbers: Numbers, alarm: Alarm, aside: Aside | None) -> None:
        self._lines = lines
        self._numbers = numbers
        self._alarm = alarm
        self._aside = aside
        self._leave_alone: dict[Line, float] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def send(self, parts: Sequence[tuple[int, Chunk]]) -> None:
        """Give each line its part. Raises Stopped."""
        lines = self._lines
        found = [(lines[number], chunk) for number, chunk in parts]
        if lines.own:
            found = [each for line, chunk in found for each in self._divided(line, chunk)]
        for line, chunk in lines.offer(found):
            self._insist(line, chunk)

    def flush(self) -> None:
        """Have all pass on what they hold."""
        self._lines.flush()

    def finish(self) -> None:
        """Tell all that nothing more comes."""
        self._lines.finish()

    def _divided(self, line: Line, chunk: Chunk) -> Iterator[tuple[Line, Chunk]]:
        """Yield the parts of a chunk for the keys that have lines of their own, and what is left."""
        own = self._lines.own_of(line)
        rest: Chunk | None = chunk
        for number, mine in own.items():
            if rest is not None:
                part, rest = parted(rest, number, self._numbers)
                if part is not None:
                    yield mine, part
        if rest is not None:
            yield line, rest

    def _insist(self, line: Line, chunk: Chunk) -> None:
        """Put a chunk in for which there is no room."""
        if self._lines.put(line, chunk, until_idle=True):
            return
        if self._divide(line):
            for each, part in list(self._divided(line, chunk)):
                self._put(each, part)
        else:
            self._put(line, chunk)

    def _divide(self, line: Line) -> bool:
        """Give the hottest key of a line one of its own; return whether that was done."""
        if line.home is not None or self._alarm.now() < self._leave_alone.get(line, -_DIVIDE_SECONDS):
            return False
        found = hottest(self._lines.waiting(line), self._numbers)
        if found is not None and found.share >= _HOT_SHARE:
            number = found.number
            if self._lines.divide(line, number, lambda chunk: parted(chunk, number, self._numbers)):
                return True
        self._leave_alone[line] = self._alarm.now() + _DIVIDE_SECONDS
        return False

    def _put(self, line: Line, chunk: Chunk) -> None:
        """Put a chunk in, or aside, or wait until that can be done. Raises Stopped."""
        data: bytes | None = None
        while not self._lines.put(line, chunk, until_idle=True):
            if self._aside is not None:
                data = data or packed(chunk, self._aside)
                if not chunk.items:
                    chunk.settle()
                    return
                place = self._aside.store.keep(line, data)
                if place is not None:
                    self._lines.store(line, Frame(chunk, place, self._aside))
                    if self._alarm.is_due(HotKey):
                        self._tell(line, chunk, held=False)
                    return
                self._alarm.tell_full(self._aside.store.refusal)
            since = self._alarm.now()
            is_in = self._lines.put(line, chunk, within=_LOOK_SECONDS)
            if self._alarm.has_held(since):
                self._tell(line, chunk, held=True)
            if is_in:
                return

    def _tell(self, line: Line, chunk: Chunk, *, held: bool) -> None:
        found = hottest([*self._lines.waiting(line), chunk], self._numbers)
        if found is not None:
            waiting, share = self._lines.depth(line)
            self._alarm.tell_key(found.key, waiting, share, held=held)


def parted(chunk: Chunk, number: int, numbers: Numbers) -> tuple[Chunk | None, Chunk | None]:
    """Take a chunk apart: what has the key with a number, and what has not."""
    is_it = [numbers.again(item) == number for item in chunk.items]
    mine = [index for index, found in enumerate(is_it) if found]
    if not mine:
        return None, chunk
    if len(mine) == len(is_it):
        return chunk, None
    chunk.hold()
    parts = part_of(chunk, mine), part_of(chunk, [index for index, found in enumerate(is_it) if not found])
    for part in parts:
        part.trail = chunk.trail
    return parts
