"""Sources and sinks that remember what was asked of them."""

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sidestage.stream.contract import Batch, Position, Refused


class Parts:
    """A source of several parts, which are read in turn by batches of given sizes, and resumed by position."""

    name = "parts"

    def __init__(self, parts: Mapping[str, Sequence[Any]], sizes: Sequence[int] = (7,)) -> None:
        self.parts = parts
        self.sizes = sizes
        self.commits: list[dict[str, Position]] = []
        self.closed = 0

    def open(self, resume: Mapping[str, Position]) -> "PartsReader":
        return PartsReader(self, {part: int(resume.get(part, 0)) for part in self.parts})

    def committing(self) -> None:
        """Hear that something is being committed."""

    @property
    def committed(self) -> dict[str, Position]:
        """What was committed at last."""
        last: dict[str, Position] = {}
        for each in self.commits:
            last.update(each)
        return last


class PartsReader:
    def __init__(self, source: Parts, at: dict[str, int]) -> None:
        self._source = source
        self._at = at
        self._turn = 0
        self._stopped = False

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        left = [part for part, items in self._source.parts.items() if self._at[part] < len(items)]
        if not left or self._stopped:
            return None
        part = left[self._turn % len(left)]
        size = min(self._source.sizes[self._turn % len(self._source.sizes)], limit)
        self._turn += 1
        first = self._at[part]
        items = list(self._source.parts[part][first : first + size])
        self._at[part] = first + len(items)
        return (Batch(part, first, items, self._at[part]),)

    def stop(self) -> None:
        self._stopped = True

    def commit(self, positions: Mapping[str, Position]) -> None:
        self._source.commits.append(dict(positions))
        self._source.committing()

    def lost(self) -> Collection[str]:
        return ()

    def close(self) -> None:
        self._source.closed += 1


class Kept:
    """A sink that keeps what it is given. Items in ``refuse`` are refused; calls in ``fail`` raise."""

    name = "kept"

    def __init__(self, refuse: Collection[Any] = (), fail: Collection[int] = ()) -> None:
        self.items: list[Any] = []
        self.chunks: list[int] = []
        self.refuse = refuse
        self.fail = fail
        self.calls = 0
        self.opened = self.closed = 0
        self.written = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> "Kept":
        self.opened += 1
        return self

    def write(self, items: Sequence[Any]) -> None:
        with self._lock:
            self.calls += 1
            if self.calls in self.fail:
                raise ConnectionError(f"call {self.calls} is lost")
            errors: dict[int, Exception] = {
                index: ValueError(f"{item} is not wanted")
                for index, item in enumerate(items)
                if item in self.refuse
            }
            self.items += [item for index, item in enumerate(items) if index not in errors]
            self.chunks.append(len(items))
            self.written.set()
            if errors:
                raise Refused(errors)

    def close(self) -> None:
        self.closed += 1
