"""Checkpoints of a stream: positions, open windows and transactions are kept together, or not at all.

Now and then all sources pause until nothing is under way: what was read by then is counted in windows,
written, or set aside. That moment is what a checkpoint keeps. Whoever goes on from it has counted every item
exactly once. In one process it passes in milliseconds, which is why nothing cleverer is done than to wait
(Chandy and Lamport's snapshots, 1985, are for systems that cannot).
"""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from sidestage.stream.contract import Position, Positions, Progress
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.windows.stage import Windows

_LOOK_SECONDS = 0.1
_ROUND_SECONDS = 0.002
_RENEW_SECONDS = 3600.0
"""For how long nothing is kept while nothing changes: Kafka forgets what is not committed for a week."""


class Keeper(Protocol):
    """Where the progress of a stream is kept: a file, or the transactions of a sink."""

    @property
    def progress(self) -> Progress:
        """What was kept last."""
        ...

    def save_all(self, reached: Mapping[str, Positions], states: Mapping[str, bytes]) -> None:
        """Keep new positions of sources, and the states that belong to them."""
        ...


class Pausing(Protocol):
    """A source that is being read, as a barrier sees it."""

    name: str

    @property
    def unsettled(self) -> int:
        """How many of its batches are under way."""
        ...

    def take_reached(self) -> dict[str, Position]:
        """Return, once, the positions that parts have reached since this was last asked."""
        ...

    def flush(self) -> None:
        """Have all stages pass on what they hold. Called by the thread that reads."""
        ...

    def tell(self, reached: dict[str, Position]) -> None:
        """Tell the source what was kept. Called by the thread that reads."""
        ...


class Barrier:
    """Takes checkpoints of one run, every ``seconds``. ``sync`` makes dead letters safe."""

    def __init__(
        self,
        keeper: Keeper,
        windows: Windows,
        sources: int,
        halt: Halt,
        sync: Callable[[], None],
        seconds: float,
    ) -> None:
        self._keeper = keeper
        self._windows = windows
        self._sources = sources
        self._halt = halt
        self._sync = sync
        self._seconds = max(seconds, _ROUND_SECONDS)
        self._asked = threading.Event()
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._paused: set[Pausing] = set()
        self._left: set[Pausing] = set()
        self._kept: dict[Pausing, dict[str, Position]] = {}
        self._unchanged = 0.0

    def pass_by(self, feed: Pausing) -> None:
        """Pause if a checkpoint is being taken. Called by each source after each read. Raises Stopped."""
        if not self._asked.is_set():
            return
        while self._asked.is_set():
            feed.flush()
            self._pause(feed)
            if self._halt.wait(_ROUND_SECONDS):
                raise Stopped
        self._tell(feed)

    def leave(self, feed: Pausing) -> None:
        """Note that a source is over, and wait for the last checkpoint. Raises Stopped."""
        with self._changed:
            self._left.add(feed)
            self._changed.notify()
        while not self._over.wait(_LOOK_SECONDS):
            if self._halt.is_set:
                raise Stopped
            self._tell(feed)
        self._tell(feed)

    def watch(self, drained: threading.Event) -> None:
        """Take checkpoints until everything is over, and the last one then. Raises OSError, OutputError."""
        while not self._is_over_within(drained):
            if self._halt.is_set:
                return
            self._unchanged += self._seconds
            self._asked.set()
            try:
                while not (self._all_paused() and self._keep()):
                    if self._halt.is_set or drained.wait(_ROUND_SECONDS):
                        break
            finally:
                self._release()
        while len(self._left) < self._sources:
            if self._halt.wait(_ROUND_SECONDS):
                return
        if not self._keep(last=True):
            raise RuntimeError("Something was never settled, so the last checkpoint could not be taken.")
        self._over.set()

    def _pause(self, feed: Pausing) -> None:
        """Note that a source waits, unless the round ended while it was at the end of its work."""
        with self._changed:
            if self._asked.is_set():
                self._paused.add(feed)
                self._changed.notify()

    def _release(self) -> None:
        """Let all sources go on; each pauses again in the next round."""
        with self._changed:
            self._paused.clear()
            self._asked.clear()

    def _is_over_within(self, drained: threading.Event) -> bool:
        """Wait until the next checkpoint is due; return whether everything was over before."""
        left = self._seconds
        while left > 0 and not self._halt.is_set:
            if drained.wait(min(left, _LOOK_SECONDS)):
                return True
            left -= _LOOK_SECONDS
        return drained.is_set()

    def _all_paused(self) -> bool:
        with self._changed:
            if len(self._paused | self._left) < self._sources:
                self._changed.wait(_ROUND_SECONDS)
            return len(self._paused | self._left) == self._sources

    def _keep(self, *, last: bool = False) -> bool:
        """Take a checkpoint if nothing is under way; return whether nothing was."""
        with self._changed:
            feeds = self._paused | self._left

        def is_quiet() -> bool:
            return not any(feed.unsettled for feed in feeds)

        def save(states: dict[str, bytes]) -> None:
            reached = {feed: feed.take_reached() for feed in feeds}
            is_due = last or self._unchanged >= _RENEW_SECONDS
            if is_due or any(reached.values()) or states != self._keeper.progress.states:
                self._sync()
                self._keeper.save_all({feed.name: parts for feed, parts in reached.items()}, states)
                self._unchanged = 0.0
                with self._changed:
                    for feed, parts in reached.items():
                        self._kept[feed] = {**self._kept.get(feed, {}), **parts}

        return self._windows.keep_if_quiet(is_quiet, save)

    def _tell(self, feed: Pausing) -> None:
        with self._changed:
            kept = self._kept.pop(feed, None)
        if kept:
            feed.tell(kept)
