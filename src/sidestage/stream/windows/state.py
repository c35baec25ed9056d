"""Windows at work: a state that takes in chunks of items and gives out windows.

Nothing here reads a clock, starts a thread or waits. Each call is given the moment, and returns all that it
led to. How items are cut into chunks makes no difference: late items, results and their order are the same.
"""

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.windows.event_times import Readings, read
from sidestage.stream.windows.grid_windows import GridWindows
from sidestage.stream.windows.plan import Outcome, Session, WindowCounts, WindowPlan
from sidestage.stream.windows.sessions import SessionWindows
from sidestage.stream.windows.snapshots import seal, unseal
from sidestage.stream.windows.watermarks import Moment, Watermarks

if TYPE_CHECKING:
    from sidestage.stream.windows.columns import Column

_PARTITION_BYTES = 300


class WindowState:
    """The windows of one stage, or of one share of its keys. Not for several threads at once."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._marks = Watermarks(plan.time)
        self._windows: GridWindows | SessionWindows
        match plan.windows:
            case Session() as windows:
                self._windows = SessionWindows(plan, windows)
            case windows:
                self._windows = GridWindows(plan, windows)
        self._ledger = self._windows.ledger
        self._early_at: float | None = None
        self._latest = Moment(0.0, 0.0)

    def add(self, items: Sequence[Any], now: Moment, partition: Hashable = 0) -> Outcome:
        """Take in a chunk of items of one source partition.

        An item that cannot be used (a function raised, its time is none, its key cannot be hashed, the budget
        is spent) is in ``failures`` with its place; the others are not touched by it.
        """
        if not items:
            return self.tick(now)
        self._begin(partition, now)
        marks = self._marks
        rows = read(self.plan, items, marks.stamp, values=not self._ledger.counting)
        return self._fold(rows, len(items))

    def add_columns(
        self,
        times: "Column | None",
        keys: "Column | None",
        values: "Column | None",
        now: Moment,
        partition: Hashable = 0,
    ) -> Outcome:
        """Take in a chunk as columns: NumPy arrays, Arrow arrays or sequences of the same length.

        ``times`` are numbers of seconds, or timestamps (those without a time zone are taken as UTC); None if
        items get the clock's time. ``keys`` None: one window for all. ``values`` are what is kept; its ``of``
        and the plan's ``at`` and ``key`` are not called. The same items give the same results as through
        ``add``; late and early items are named by their place, without an item. Raises DefinitionError for
        columns that are missing, of different lengths, or times where the plan wants the clock's.
        """
        from sidestage.stream.windows.columns import Columns  # noqa: PLC0415 - slow to load

        if (times is None) != (self.plan.time.at is None):
            raise DefinitionError(
                "A chunk of columns and its plan do not agree on where times come from.",
                hint="Give times if EventTime has at; give None if items get the clock's time.",
            )
        if values is None and not self._ledger.counting:
            raise DefinitionError(
                f"A chunk of columns has no values, but {self.plan.aggregate.name} needs some.",
                hint="Give the column that the aggregate is of.",
            )
        columns = Columns.of(times, keys, None if self._ledger.counting else values)
        if not columns.length:
            return self.tick(now)
        self._begin(partition, now)
        marks, windows = self._marks, self._windows
        if isinstance(windows, GridWindows) and windows.on_arrays:
            ready = columns.ready(self.plan.time, marks.stamp, total=windows.totalling)
            if ready is not None:
                ready.fold(windows, marks)
                marks.finish()
                self._ledger.counts.items += columns.length
                return self._ledger.close(marks.watermark, ready.early, ready.failures)
        rows = columns.rows(self.plan.time, marks.stamp)
        return self._fold(rows, columns.length)

    def tick(self, now: Moment) -> Outcome:
        """Let time pass without items: partitions become idle, windows are given out early if so declared."""
        self._latest = now
        self._windows.advance(self._marks.tick(now))
        self._emit_early(now)
        return self._ledger.close(self._marks.watermark, [], [])

    def drain(self, now: Moment) -> Outcome:
        """End the stream: give out what is open (``flush``), or leave all as it is (``keep``)."""
        self._latest = now
        if self.plan.on_drain == "flush":
            self._windows.flush()
        return self._ledger.close(self._marks.watermark, [], [])

    def allow(self, size: int) -> None:
        """Let the state take so many bytes at most from now on, if its own budget does not say less."""
        self._ledger.allowed = size

    def watch(self, partition: Hashable, now: Moment) -> None:
        """Let a partition hold the watermark back from now on, though nothing came from it yet."""
        self._marks.watch(partition, now)

    @property
    def partitions(self) -> frozenset[Hashable]:
        """The partitions that the watermark knows of."""
        return frozenset(self._marks.tops())

    def forget(self, partition: Hashable) -> None:
        """Leave a partition out: it ended, or is read elsewhere. The next call goes on without it."""
        self._marks.forget(partition)

    def snapshot(self) -> bytes:
        """Return all that is needed to go on elsewhere.

        Raises OutputError if a key or a state cannot be pickled.
        """
        state = (
            msgspec.structs.astuple(self._ledger.counts),
            self._early_at,
            (self._latest.wall, self._latest.monotonic),
            self._marks.record(),
            self._windows.record(),
        )
        return seal(self.plan.shape, state)

    def restore(self, snapshot: bytes, now: Moment) -> None:
        """Go on from a snapshot; the time since then counts as no time. Whatever was here before is gone.

        Give only bytes that this program wrote: reading them can run code. Raises DataError, and changes
        nothing, if they are damaged or of another declaration.
        """
        counts, early_at, latest, marks, windows = unseal(self.plan.shape, snapshot)
        self._ledger.counts = WindowCounts(*counts)
        self._early_at = None if early_at is None else early_at + (now.monotonic - latest[1])
        self._latest = now
        self._marks.resume(marks, now)
        self._windows.resume(windows)

    @property
    def watermark(self) -> float | None:
        """No items before this time are expected any more, in seconds since the epoch; None: unknown."""
        known = self._marks.watermark
        return None if known == -math.inf else known

    @property
    def counts(self) -> WindowCounts:
        """How many items and results there were, also before a restore."""
        return msgspec.structs.replace(self._ledger.counts)

    @property
    def open_windows(self) -> int:
        """How many pairs of key and window are kept."""
        return self._ledger.cells

    @property
    def estimated_bytes(self) -> int:
        """About how much memory the state takes."""
        return self._ledger.bytes + _PARTITION_BYTES * len(self._marks.tops())

    @property
    def idle_partitions(self) -> frozenset[Hashable]:
        """The partitions that do not hold the watermark back, because they were quiet for too long."""
        return self._marks.idle

    def _begin(self, partition: Hashable, now: Moment) -> None:
        self._latest = now
        self._windows.advance(self._marks.begin(partition, now))
        self._emit_early(now)

    def _fold(self, rows: Readings, length: int) -> Outcome:
        self._windows.fold(rows, self._marks)
        self._marks.finish()
        self._ledger.counts.items += length
        return self._ledger.close(self._marks.watermark, rows.early, rows.failures)

    def _emit_early(self, now: Moment) -> None:
        """Give out what is open and changed, if it is time."""
        every = self.plan.sooner.every_seconds
        if every is None:
            return
        if self._early_at is None:
            self._early_at = now.monotonic
        elif now.monotonic - self._early_at >= every:
            self._early_at = now.monotonic
            self._windows.emit_early()
