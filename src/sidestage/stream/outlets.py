"""Where a segment's chunks go: to sinks, to workers that share keys, or, in order, to whoever is next."""

import threading
from time import perf_counter
from typing import Any, NamedTuple

from sidestage.stream.chunk import Chunk
from sidestage.stream.contract import Refused, Writer
from sidestage.stream.failing import Desk, Halt, Stopped
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import End, Step

_LOOK_SECONDS = 0.1
_AHEAD_PER_WORKER = 4
_MOST_KEPT = 8
"""How many chunks made of one wait for their turn at most."""


class WriteStep(End):
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
            self._refused(chunk, refused)
        except BaseException as error:  # noqa: BLE001 - whatever the sink raises
            try:
                self._desk.meet_all(chunk, error, self._writer.write)
            except Refused as refused:
                self._refused(chunk, refused)
        self._meter.took(len(chunk.items), perf_counter() - began)
        chunk.settle()

    def _refused(self, chunk: Chunk, refused: Refused) -> None:
        unknown = sorted(refused.errors.keys() - range(len(chunk.items)))
        if unknown:
            raise TypeError(
                f"{type(self._writer).__name__}.write refused {unknown[0]!r} of {len(chunk.items)} items: "
                "Refused holds errors by the index of the item."
            )
        for index, error in sorted(refused.errors.items()):
            self._desk.meet(chunk, index, chunk.items[index], error, self._write_one)

    def _write_one(self, item: Any) -> None:
        try:
            self._writer.write([item])
        except Refused as refused:
            raise refused.errors[0] from None

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def finish(self) -> None:
        """Do nothing: whoever opened the writer closes it."""


class Sent(NamedTuple):
    """A chunk, and where it is to go when its turn comes."""

    chunk: Chunk
    to: Step


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

    def wait_for(self, sequence: int) -> None:
        """Return when all before the chunk with this number is sent: its worker may send it as it is made."""
        with self._changed:
            while self._next != sequence or self._sending:
                if self._halt.is_set:
                    raise Stopped
                self._changed.wait(_LOOK_SECONDS)

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


class Turn:
    """What one worker is to send of the chunk that it is at."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._sequence = 0
        self._sent: list[Sent] = []
        self._is_mine = False

    def begin(self, sequence: int) -> None:
        """Note which chunk the worker is at."""
        self._sequence = sequence
        self._is_mine = False

    def add(self, sent: Sent) -> None:
        """Keep a chunk until it is its turn; if there are many, wait for that and send. Raises Stopped."""
        self._sent.append(sent)
        if self._is_mine or len(self._sent) >= _MOST_KEPT:
            if not self._is_mine:
                self._turns.wait_for(self._sequence)
                self._is_mine = True
            kept, self._sent = self._sent, []
            for chunk, to in kept:
                to.push(chunk)

    def end(self) -> None:
        """Send what is kept as soon as it is its turn. Raises Stopped."""
        kept, self._sent = self._sent, []
        self._turns.send(self._sequence, kept)


class TurnOutlet(End):
    """Collects what one worker sends until it is its turn."""

    def __init__(self, to: Step, turn: Turn) -> None:
        self._to = to
        self._turn = turn

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self._turn.add(Sent(chunk, self._to))

    def flush(self) -> None:
        """Have whoever is next pass on what it holds."""
        self._to.flush()

    def finish(self) -> None:
        """Tell whoever is next that this worker sends no more."""
        self._to.finish()
