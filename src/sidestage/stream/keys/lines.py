"""Where chunks wait for the workers that share keys: in lines, of which one worker takes at a time.

A line is worked on by one worker at most, so items of one key stay in order; which worker that is does not
matter. A key that keeps its worker busy holds up its own line: the others go through the other workers. A key
that fills its line is given one of its own until that has been dealt with.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.mailbox import WaitingRoom
from sidestage.stream.operators import End

_LOOK_SECONDS = 0.1
"""How often those who wait ask whether everything is to stop, should nobody have woken them."""


class Stored(Protocol):
    """A chunk that lies elsewhere; ``load`` is how much room it would take."""

    load: int

    def read(self) -> Chunk | None:
        """Return the chunk, or None if nothing of it is left to be done."""
        ...

    def unread(self) -> Chunk:
        """Return a chunk that has its tickets, without reading its items: nobody wants them any more."""
        ...


class Line:
    """Chunks of the keys that share it, oldest first; ``stored`` are newer than all in ``waiting``."""

    __slots__ = (
        "awaited",
        "blocks",
        "dividing",
        "home",
        "load",
        "number",
        "ready",
        "stored",
        "taken",
        "waiting",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[Chunk] = deque()
        self.stored: deque[Stored] = deque()
        self.load = 0
        """How much of it lies in ``waiting``."""
        self.ready = self.taken = self.dividing = False
        self.awaited = 0
        """How many wait for room in it."""
        self.blocks: list[Line] = []
        """Those that may begin only when what a worker has taken from this one is done."""
        self.home: tuple[Line, int] | None = None
        """Whose key it is that has this line for its own, and that key's number."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in it."""
        return not self.waiting and not self.stored


class Taken(NamedTuple):
    """A chunk, and the line that nobody else works on until it is given back."""

    line: Line
    chunk: Chunk


Parted = Callable[[Chunk], tuple[Chunk | None, Chunk | None]]
"""Takes a chunk apart: what is of a key, and what is not."""


class Lines(WaitingRoom):
    """The lines before one stage, which share the room for ``most`` items for each of its workers.

    A chunk that is too large goes in alone.

    ``own`` are the lines of single keys, by the line that those were in and the number of the key. Only one
    sender may divide lines, and no other sends then.
    """

    def __init__(self, count: int, most: int, halt: Halt, *, senders: int, workers: int = 1) -> None:
        super().__init__(halt, senders=senders)
        self._lines = tuple(Line(number) for number in range(count))
        self._workers = workers
        self._most_items = most
        self._most = max(1, most * workers // count)
        self._ready: deque[Line] = deque()
        self.own: dict[Line, dict[int, Line]] = {}
        self.chunks = 0
        """How many chunks were put in so far."""

    @property
    def most_items(self) -> int:
        """How many items may wait for each worker; settable at any time."""
        return self._most_items

    @most_items.setter
    def most_items(self, most: int) -> None:
        with self._lock:
            self._most_items = most
            self._most = max(1, most * self._workers // len(self._lines))
            self._emptied.notify_all()

    def __getitem__(self, number: int) -> Line:
        return self._lines[number]

    def __len__(self) -> int:
        return len(self._lines)

    def offer(self, parts: Sequence[tuple[Line, Chunk]]) -> list[tuple[Line, Chunk]]:
        """Put in the chunks for which there is room; return the others."""
        left = []
        with self._lock:
            for line, chunk in parts:
                target = self._target(line)
                if self._is_full(target, chunk.load) or self._drop is not None:
                    left.append((line, chunk))
                else:
                    self._add(target, chunk)
        return left

    def put(self, line: Line, chunk: Chunk, *, until_idle: bool = False, within: float | None = None) -> bool:
        """Put a chunk in, waiting for room; return whether it is in. Raises Stopped.

        ``until_idle``: give up as soon as a worker has nothing to do. ``within``: give up if there is no room
        after so many seconds.
        """
        load = chunk.load
        with self._lock:
            while self._is_full(target := self._target(line), load):
                if self._halt.is_set:
                    raise Stopped
                if (until_idle and self._idle > len(self._ready)) or within == 0:
                    return False
                target.awaited += 1
                self._emptied.wait(_LOOK_SECONDS if within is None else within)
                target.awaited -= 1
                within = None if within is None else 0.0
            drop = self._drop
            if drop is None:
                self._add(target, chunk)
                return True
        drop(chunk)
        return True

    def store(self, line: Line, stored: Stored) -> None:
        """Have a line go on with what lies elsewhere, after all that waits in it."""
        with self._lock:
            target, drop = self._target(line), self._drop
            if drop is None:
                target.stored.append(stored)
                self.pending += stored.load
                self.came += stored.load
                self.chunks += 1
                self._make_ready(target)
                return
        _drop_all([stored], drop)

    def shut(self, drop: Callable[[Chunk], None]) -> None:
        """Have what waits, and what comes, dropped; whoever takes from it is told that nothing comes."""
        left: list[Chunk | Stored] = []
        with self._lock:
            self._drop = drop
            self._senders = 0
            for line in (*self._lines, *(own for mine in self.own.values() for own in mine.values())):
                left += _emptied(line)
            self._ready.clear()
            self.pending = 0
            self._filled.notify_all()
            self._emptied.notify_all()
        _drop_all(left, drop)

    def waiting(self, line: Line) -> list[Chunk]:
        """Return what waits in a line, oldest first."""
        with self._lock:
            return list(line.waiting)

    def own_of(self, line: Line) -> dict[int, Line]:
        """Return the lines of single keys that were in this one, by the number of the key."""
        with self._lock:
            return dict(self.own.get(line, {}))

    def depth(self, line: Line) -> tuple[int, float]:
        """Return how many items wait in a line, and which share of all that is."""
        with self._lock:
            mine = line.load + sum(stored.load for stored in line.stored)
            return mine, mine / self.pending if self.pending else 0.0

    def divide(self, line: Line, number: int, parted: Parted) -> Line | None:
        """Give a key that waits in a line one of its own, and return that; None if this cannot be.

        What a worker has taken already is done before the new line begins. Called by the only sender.
        """
        with self._lock:
            if line.home is not None or line.stored or sum(map(len, self.own.values())) >= len(self._lines):
                return None
            line.dividing = True
            if line.ready:
                self._ready.remove(line)
                line.ready = False
            waiting, line.waiting = line.waiting, deque()
        own = Line(line.number)
        own.home = (line, number)
        for chunk in waiting:
            mine, rest = parted(chunk)
            if mine is not None:
                own.waiting.append(mine)
            if rest is not None:
                line.waiting.append(rest)
        with self._lock:
            line.dividing = False
            drop = self._drop
            left = [] if drop is None else [*_emptied(line), *_emptied(own)]
            for each in (line, own):
                each.load = sum(chunk.load for chunk in each.waiting)
            self.own.setdefault(line, {})[number] = own
            if line.taken:
                own.taken = True
                line.blocks.append(own)
            else:
                self._release(own)
                self._release(line)
        if drop is not None:
            _drop_all(left, drop)
        return own

    def take(self, timeout: float | None, back: Line | None = None) -> Taken | None:
        """Return a chunk of a line that nobody works on, or None as ``Mailbox.take`` does; give one back.

        Raises Stopped, and what reading a stored chunk raises.
        """
        while True:
            found = self._claim(timeout, back)
            if found is None:
                return None
            line, what = found
            chunk = what if isinstance(what, Chunk) else what.read()
            if chunk is not None:
                return Taken(line, chunk)
            back = line

    def give_back(self, line: Line) -> None:
        """Note that what was taken from a line is done."""
        with self._lock:
            self._give_back(line)

    def _claim(self, timeout: float | None, back: Line | None) -> tuple[Line, Chunk | Stored] | None:
        with self._lock:
            if back is not None:
                self._give_back(back)
            while not self._ready:
                if self._halt.is_set:
                    raise Stopped
                if not self.pending and (self._flushing or not self._senders):
                    return None
                self._idle += 1
                self._emptied.notify_all()
                waited = self._filled.wait(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
                self._idle -= 1
                if not waited and timeout is not None:
                    timeout -= _LOOK_SECONDS
                    if timeout <= 0:
                        return None
            line = self._ready.popleft()
            line.ready, line.taken = False, True
            what: Chunk | Stored
            if line.waiting:
                what = line.waiting.popleft()
                line.load -= what.load
            else:
                what = line.stored.popleft()
            self.pending -= what.load
            if line.awaited:
                self._emptied.notify_all()
            if self.is_over:
                self._filled.notify_all()
            return line, what

    def _give_back(self, line: Line) -> None:
        line.taken = False
        self._release(line)
        for blocked in line.blocks:
            blocked.taken = False
            self._release(blocked)
        line.blocks.clear()

    def _release(self, line: Line) -> None:
        """Have a line go on if anything waits in it; one of a single key is no more if nothing does."""
        if not line.is_empty:
            self._make_ready(line)
        elif line.home is not None and not line.taken:
            home, number = line.home
            mine = self.own.get(home, {})
            if mine.get(number) is line:
                del mine[number]
                if not mine:
                    del self.own[home]

    def _add(self, line: Line, chunk: Chunk) -> None:
        load = chunk.load
        line.waiting.append(chunk)
        line.load += load
        self.pending += load
        self.came += load
        self.chunks += 1
        self._make_ready(line)

    def _make_ready(self, line: Line) -> None:
        if not (line.ready or line.taken or line.dividing):
            line.ready = True
            self._ready.append(line)
            self._filled.notify()

    def _target(self, line: Line) -> Line:
        """Return a line, or the one that its key was in before if it is no more."""
        if line.home is None:
            return line
        home, number = line.home
        return self.own.get(home, {}).get(number, home)

    def _is_full(self, line: Line, load: int) -> bool:
        return bool(line.stored) or (bool(line.waiting) and line.load + load > self._most)


def _emptied(line: Line) -> list[Chunk | Stored]:
    left: list[Chunk | Stored] = [*line.waiting, *line.stored]
    line.waiting.clear()
    line.stored.clear()
    line.load, line.ready = 0, False
    return left


def _drop_all(left: Iterable[Chunk | Stored], drop: Callable[[Chunk], None]) -> None:
    for each in left:
        drop(each if isinstance(each, Chunk) else each.unread())


class LineInlet:
    """How one worker takes from lines: with each chunk it takes, it gives back the line of the one before.

    ``sending`` is the line that it sends from.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.sending: Line | None = None

    def take(self, timeout: float | None) -> Chunk | None:
        """Return a chunk, as ``Mailbox.take`` does."""
        back, self.sending = self.sending, None
        taken = self.lines.take(timeout, back)
        if taken is None:
            return None
        self.sending = taken.line
        return taken.chunk

    def asks_to_flush(self) -> bool:
        """Return, once for all workers, whether to pass on what is held."""
        return self.lines.asks_to_flush()

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return self.lines.is_over


class LineOutlet(End):
    """Sends from one stage to the next that shares the same keys: from each line into the same one there."""

    def __init__(self, inlet: LineInlet, to: Lines) -> None:
        self._inlet = inlet
        self._to = to

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        line = self._inlet.sending
        assert line is not None
        self._to.put(self._to[line.number], chunk)

    def flush(self) -> None:
        """Have whoever is next pass on what it holds."""
        self._to.flush()

    def finish(self) -> None:
        """Tell whoever is next that this worker sends no more."""
        self._to.finish()
