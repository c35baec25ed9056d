"""Where a segment's chunks go: to sinks, to workers that share keys, or, in order, to whoever is next."""

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from sidestage.stream.chunk import Chunk
from sidestage.stream.contract import Refused, Writer
from sidestage.stream.failing import Desk, Halt, Stopped
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.metrics import Meter

_LOOK_SECONDS = 0.1
_AHEAD_PER_WORKER = 4


class WriteStep:
    """The end of the way: what is written is settled."""

    def __init__(self, writer: Writer[Any], desk: Desk, meter: Meter) -> None:
        self._writer = writer
        self._desk = desk
        self._meter = meter

    def push(self, chunk: Chunk) -> None:
        """Write a chunk, and settle it."""
        began = perf_counter()
        try:
            self._writer.write(chunk.items)
        except Refused as refused:
            for index, error in sorted(refused.errors.items()):
                self._desk.meet(chunk, index, chunk.items[index], error, self._write_one)
        except Exception as error:  # noqa: BLE001 - whatever the sink raises
            self._desk.meet_all(chunk, error, self._writer.write)
        self._meter.took(len(chunk.items), perf_counter() - began)
        chunk.settle()

    def _write_one(self, item: Any) -> None:
        try:
            self._writer.write([item])
        except Refused as refused:
            raise refused.errors[0] from None

    def due(self) -> float | None:
        """Return None: nothing is held back."""

    def tick(self, now: float) -> None:
        """Do nothing: nothing is held back."""

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def finish(self) -> None:
        """Do nothing: whoever opened the writer closes it."""


class KeyedOutlet:
    """Gives each item to the worker that has its key."""

    def __init__(
        self, key: Callable[[Any], Any], into: int, mailboxes: Sequence[Mailbox], desk: Desk, meter: Meter
    ) -> None:
        self._key = key
        self._into = into
        self._mailboxes = mailboxes
        self._desk = desk
        self._meter = meter

    def push(self, chunk: Chunk) -> None:
        """Take a chunk apart."""
        began = perf_counter()
        count = len(self._mailboxes)
        parts: list[list[Any]] = [[] for _ in range(count)]
        labels: list[list[int]] = [[] for _ in range(count)]
        origins = range(len(chunk.items)) if chunk.origins is None else chunk.origins
        key, into = self._key, self._into
        for index, item in enumerate(chunk.items):
            try:
                which = hash(key(item)) % into % count
            except Exception as error:  # noqa: BLE001
                kept = self._desk.meet(chunk, index, item, error, lambda it: hash(key(it)))
                if kept.gone:
                    continue
                which = hash(kept.value) % into % count
            parts[which].append(item)
            labels[which].append(origins[index])
        self._meter.took(len(chunk.items), perf_counter() - began)
        chunk.hold(sum(map(bool, parts)))
        single = len(chunk.tickets) == 1
        for items, label, mailbox in zip(parts, labels, self._mailboxes, strict=True):
            if items:
                mailbox.push(Chunk(items, chunk.tickets, chunk.born, label if single else None))
        chunk.settle()

    def due(self) -> float | None:
        """Return None: nothing is held back."""

    def tick(self, now: float) -> None:
        """Do nothing: nothing is held back."""

    def flush(self) -> None:
        """Have all pass on what they hold."""
        for mailbox in self._mailboxes:
            mailbox.flush()

    def finish(self) -> None:
        """Tell all that nothing more comes."""
        for mailbox in self._mailboxes:
            mailbox.finish()


class Sent(NamedTuple):
    """A chunk, and where it is to go when its turn comes."""

    chunk: Chunk
    to: "Mailbox | KeyedOutlet"


class Turns:
    """Lets the workers of a stage send in the order in which they were given their chunks."""

    def __init__(self, workers: int, halt: Halt) -> None:
        self._most_ahead = workers * _AHEAD_PER_WORKER
        self._halt = halt
        self._next = 0
        self._done: dict[int, list[Sent]] = {}
        self._changed = threading.Condition()
        self._sending = False

    def send(self, sequence: int, sent: list[Sent]) -> None:
        """Send what a worker made of the chunk with this number, as soon as all before it are sent.

        Whoever finishes the chunk that all others wait for sends theirs, too. Raises Stopped.
        """
        with self._changed:
            while sequence - self._next > self._most_ahead:
                if self._halt.is_set:
                    raise Stopped
                self._changed.wait(_LOOK_SECONDS)
            self._done[sequence] = sent
            if self._sending:
                return
            self._sending = True
        try:
            while self._send_next():
                pass
        except BaseException:
            with self._changed:
                self._sending = False
            raise

    def _send_next(self) -> bool:
        with self._changed:
            sent = self._done.pop(self._next, None)
            if sent is None:
                self._sending = False
                return False
            self._next += 1
            self._changed.notify_all()
        for chunk, to in sent:
            to.push(chunk)
        return True


class TurnOutlet:
    """Collects what one worker sends until it is its turn."""

    def __init__(self, to: "Mailbox | KeyedOutlet", sent: list[Sent]) -> None:
        self._to = to
        self._sent = sent

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self._sent.append(Sent(chunk, self._to))

    def due(self) -> float | None:
        """Return None: what is collected goes with the chunk that it was made of."""

    def tick(self, now: float) -> None:
        """Do nothing: what is collected goes with the chunk that it was made of."""

    def flush(self) -> None:
        """Have whoever is next pass on what it holds."""
        self._to.flush()

    def finish(self) -> None:
        """Tell whoever is next that this worker sends no more."""
        self._to.finish()
