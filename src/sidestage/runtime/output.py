"""What a worker's code prints: read from a pipe as it comes, kept by attempt, never more than a bound.

The parent holds the reading end, so what was printed survives whatever becomes of the worker. A worker that
goes on with its next attempt by itself says in the pipe where one ends, so that each keeps what is its own.
"""

import contextlib
import os
import uuid
from collections import deque
from pathlib import Path

_READ_BYTES = 65_536
_NOTE_BYTES = 64
"""Kept free for saying how much was left out."""

_READS_AT_ONCE = 16
"""So that one that prints without end holds nobody up: its pipe is full then, and it waits."""

_FEW_BYTES = 4096
"""What is shorter is kept together with what came before it, or ten million lines would be as many pieces."""


class Output:
    """Keeps the first and the last of what is printed; the middle of what is too long is left out.

    The first half of ``limit`` bytes is written to the log as it comes, so that it can be followed.
    """

    def __init__(self) -> None:
        self.mark = f"\0{uuid.uuid4().hex}\0".encode()
        """What the worker prints, in one piece, when an attempt has ended."""
        self._descriptor, self.writing_end = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._log: Path | None = None
        self._half = 0
        self._before = bytearray()  # printed while nothing was being attempted
        self._is_over = False
        self._written = 0
        self._tail: deque[bytearray] = deque()
        self._tail_bytes = 0
        self._left_out = 0

    def fileno(self) -> int:
        """Return the descriptor that is readable when something was printed."""
        return self._descriptor

    def started(self) -> None:
        """Let go of the writing end, which the worker holds by now."""
        os.close(self.writing_end)
        self.writing_end = -1

    def begin(self, log: Path, limit: int) -> None:
        """From now on, what is printed belongs to an attempt whose log is ``log``."""
        self._log, self._half = log, max(0, limit - _NOTE_BYTES) // 2
        self._written = self._tail_bytes = self._left_out = 0
        self._tail.clear()
        self._is_over = False
        if self._before:
            early, self._before = bytes(self._before), bytearray()
            self._hear(early)

    def drain(self) -> bool:
        """Read what was printed, up to a bound; return False once nobody can print any more."""
        for _ in range(_READS_AT_ONCE):
            if self._is_over:  # what follows is the next one's, which is about to begin
                return True
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._hear(data)
        return True

    def end(self) -> None:
        """Finish the log of the attempt: what it printed up to now is in the pipe or has been read."""
        self.drain()
        self._is_over = False
        if self._tail:
            note = f"\n[... {self._left_out} bytes left out ...]\n" if self._left_out else ""
            self._append(b"".join((note.encode(), *self._tail)))
        self._log = None
        self._tail.clear()

    def close(self) -> None:
        """Stop reading."""
        for descriptor in (self._descriptor, self.writing_end):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self.writing_end = -1

    def early(self) -> str:
        """Return what was printed while nothing was being attempted."""
        return self._before.decode(errors="replace")

    def _hear(self, data: bytes) -> None:
        if self._log is None:
            self._before += data
            del self._before[:-_READ_BYTES]
            return
        # A pipe holds no more than is read at once, and takes a short piece whole: a mark is never split.
        own, mark, following = data.partition(self.mark)
        self._take(own)
        self._is_over = bool(mark)
        self._before += following

    def _take(self, data: bytes) -> None:
        if data and self._written < self._half:
            first, data = data[: self._half - self._written], data[self._half - self._written :]
            self._append(first)
            self._written += len(first)
        if not data:
            return
        if self._tail and len(self._tail[-1]) + len(data) <= _FEW_BYTES:
            self._tail[-1] += data
        else:
            self._tail.append(bytearray(data))
        self._tail_bytes += len(data)
        self._leave_out(self._tail_bytes - self._half)

    def _leave_out(self, size: int) -> None:
        """Drop so many of the oldest bytes of the tail, if it is any."""
        while size > 0:
            oldest = self._tail[0]
            dropped = min(size, len(oldest))
            if dropped == len(oldest):
                self._tail.popleft()
            else:
                del oldest[:dropped]
            self._tail_bytes -= dropped
            self._left_out += dropped
            size -= dropped

    def _append(self, data: bytes) -> None:
        assert self._log is not None
        with contextlib.suppress(OSError):  # a full disk must not cost the attempt, too
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(data)
