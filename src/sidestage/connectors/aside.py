"""Does what takes long in a thread of its own, so that a reader can come back in time."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """One call at a time. Whoever began it asks for what came of it, and waits for as long as it likes.

    A call that nobody asks for any more ends by itself, and does not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._job: _Job[T] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is a call whose result nobody has taken yet."""
        return self._job is not None

    def begin(self, call: Callable[[], T]) -> None:
        """Begin a call; the one before must have been taken."""
        assert self._job is None, "one call at a time"
        self._job = _Job(call)
        threading.Thread(target=self._job.work, name=self._name, daemon=True).start()

    def is_done(self, wait: float) -> bool:
        """Wait up to ``wait`` seconds; return whether the result is there."""
        return self._job is not None and self._job.over.wait(wait)

    def take(self) -> T:
        """Return what the call returned, or raise what it raised."""
        job, self._job = self._job, None
        assert job is not None, "there is nothing to take"
        job.over.wait()
        if job.error is not None:
            raise job.error
        return job.results[0]


class _Job(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.over = threading.Event()
        self.results: list[T] = []
        self.error: BaseException | None = None

    def work(self) -> None:
        try:
            self.results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised where it is taken
            self.error = error
        finally:
            self.over.set()
