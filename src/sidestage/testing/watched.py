"""A reader in a thread of its own, as in a stream, whose calls must come back in time."""

import queue
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self, TypeVar

from sidestage.stream.contract import Batch, Positions, Reader, Source

R = TypeVar("R")


class WatchedReader:
    """Opens, reads and closes a source in one thread. Raises AssertionError if a call takes too long."""

    def __init__(self, source: Source[Any], resume: Positions, patience: float) -> None:
        self._patience = patience
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="watched reader", daemon=True).start()
        self._reader: Reader[Any] = self._do("open(...)", lambda: source.open(resume))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self.close()
        finally:
            self._calls.put(None)

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Read."""
        return self._do(f"read({limit}, {wait})", lambda: self._reader.read(limit, wait))

    def stop(self) -> None:
        """Stop."""
        self._do("stop()", self._reader.stop)

    def commit(self, positions: Positions) -> None:
        """Commit."""
        self._do("commit(...)", lambda: self._reader.commit(positions))

    def lost(self) -> Collection[str]:
        """Return what was lost."""
        return self._do("lost()", self._reader.lost)

    def close(self) -> None:
        """Close."""
        self._do("close()", self._reader.close)

    def _do(self, what: str, call: Callable[[], R]) -> R:
        returned: list[R] = []
        raised: list[BaseException] = []
        over = threading.Event()

        def work() -> None:
            try:
                returned.append(call())
            except BaseException as error:  # noqa: BLE001 - raised below
                raised.append(error)
            over.set()

        self._calls.put(work)
        if not over.wait(self._patience):
            raise AssertionError(f"{what} does not come back within {self._patience} s")
        if raised:
            raise raised[0]
        return returned[0]

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
