"""Windows over event time: how time is cut, what is kept per window, and what comes out of one.

A window holds times from its start (included) to its end (excluded), in seconds since the epoch. Whatever is
described here is a frozen value; ``windowing.WindowState`` runs it.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.windows.aggregate import Aggregate
from sidestage.stream.windows.watermarks import EventTime

Key = TypeVar("Key")
Value = TypeVar("Value")

Kind = Literal["on time", "early", "late update", "drained", "withdrawn"]
"""on time: the watermark passed the window's end. early: not complete yet. late update: it changed after its
end. drained: the stream ended before its end. withdrawn: a session that was given out is now part of a longer
one with another start; forget it."""

SHORTEST = 0.001
"""Seconds; below, the numbers of two neighbouring boundaries could be the same."""

LONGEST = 1e10
MOST_OVERLAP = 10_000
_ALMOST = 1e-9


def _seconds(what: str, given: object, *, least: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not least <= given <= LONGEST:
        raise DefinitionError(
            f"{what} is {ascii(given)[:60]}, which makes no sense.",
            hint=f"Give seconds between {least:g} and {LONGEST:g}.",
        )
    return given


def _whole(seconds: float) -> float:
    """Return whole numbers as int, with which boundaries are computed without rounding."""
    return int(seconds) if seconds == math.floor(seconds) else seconds


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


class Tumbling(msgspec.Struct, frozen=True):
    """Windows of ``size`` seconds that follow one another without gaps; one begins at ``offset``."""

    size: float
    offset: float = 0


class Sliding(msgspec.Struct, frozen=True):
    """Windows of ``size`` seconds, one of which begins every ``every`` seconds; an item lies in several."""

    size: float
    every: float


class Session(msgspec.Struct, frozen=True):
    """Windows of a key that end when it was quiet for ``gap`` seconds, counted from its last item."""

    gap: float


Windows = Tumbling | Sliding | Session


def tumbling(size: float, offset: float = 0) -> Tumbling:
    """Return windows of ``size`` seconds without gaps or overlap; one of them begins at ``offset``.

    Raises DefinitionError for a size that is no number of seconds, or an offset beyond it.
    """
    checked = _seconds("tumbling(size)", size, least=SHORTEST)
    shift = _seconds("tumbling(offset)", offset, least=-LONGEST)
    if abs(shift) >= checked:
        raise DefinitionError(
            f"tumbling(offset={offset!r}) is not shorter than the window of {size!r} seconds.",
            hint="Give the offset of a boundary from the epoch, between zero and the size.",
        )
    return Tumbling(_whole(checked), _whole(shift))


def sliding(size: float, every: float) -> Sliding:
    """Return windows of ``size`` seconds, of which one begins every ``every`` seconds.

    Raises DefinitionError if one is no number of seconds, if windows would leave gaps (``every`` above
    ``size``), or if an item would lie in more than 10,000 of them.
    """
    long = _seconds("sliding(size)", size, least=SHORTEST)
    step = _seconds("sliding(every)", every, least=SHORTEST)
    if step > long:
        raise DefinitionError(
            f"sliding(size={size!r}, every={every!r}) leaves gaps, in which items would be lost.",
            hint="Let every be at most size.",
        )
    if long / step > MOST_OVERLAP:
        raise DefinitionError(
            f"sliding(size={size!r}, every={every!r}) puts each item into {long / step:,.0f} windows.",
            hint=f"Let every be at least size / {MOST_OVERLAP:,}.",
        )
    return Sliding(_whole(long), _whole(step))


def session(gap: float) -> Session:
    """Return windows that end when a key was quiet for ``gap`` seconds.

    Raises DefinitionError if it is no number of seconds.
    """
    return Session(_whole(_seconds("session(gap)", gap, least=SHORTEST)))


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be open at once: ``cells`` (pairs of key and window), and ``bytes``, as estimated.

    An item that would need more is refused with WindowsFull; what is open goes on. Raises DefinitionError for
    numbers below one.
    """

    cells: int = 1_000_000
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("cells", self.cells), ("bytes", self.bytes)):
            if number is not None and not _is_count(number):
                raise DefinitionError(
                    f"Budget({name}={number!r}) makes no sense.", hint="Give a whole number above zero."
                )


class Sooner(msgspec.Struct, frozen=True, kw_only=True):
    """When a window is given out before its end, if at all.

    ``every_seconds``: all windows that changed, so often by the monotonic clock. ``every_items``: a window at
    each so manieth item. Raises DefinitionError for numbers that make no sense.
    """

    every_seconds: float | None = None
    every_items: int | None = None

    def __post_init__(self) -> None:
        if self.every_seconds is not None:
            _seconds("Sooner(every_seconds)", self.every_seconds, least=SHORTEST)
        if self.every_items is not None and not _is_count(self.every_items):
            raise DefinitionError(
                f"Sooner(every_items={self.every_items!r}) makes no sense.",
                hint="Give a whole number above zero.",
            )


class WindowPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that is declared of a window stage.

    - ``windows``: tumbling, sliding or session
    - ``aggregate``: what is kept per window, such as ``count()``
    - ``key``: what a window is kept for, called with each item; None: one window for all items
    - ``time``: where event times come from, and how far the watermark lies behind them
    - ``lateness``: seconds for which a window is kept after the watermark passed its end, for late items. An
      item whose windows are all gone goes to the late ones.
    - ``updates``: a late item gives its window out again at once (``each``), or all of them together when
      the lateness is over (``once``)
    - ``sooner``: whether windows are given out before their end
    - ``on_drain``: at the end of the stream, give out what is open (``flush``), or leave it for the
      checkpoint (``keep``), which is right for a stream that goes on later
    - ``budget``: how much may be open

    Raises DefinitionError for what makes no sense.
    """

    windows: Windows
    aggregate: Aggregate
    key: Callable[[Any], Hashable] | None = None
    time: EventTime = EventTime()
    lateness: float = 0
    updates: Literal["each", "once"] = "each"
    sooner: Sooner = Sooner()
    on_drain: Literal["flush", "keep"] = "flush"
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        _seconds("WindowPlan(lateness)", self.lateness, least=0)
        for name, given, known in (
            ("updates", self.updates, ("each", "once")),
            ("on_drain", self.on_drain, ("flush", "keep")),
        ):
            if given not in known:
                raise DefinitionError(
                    f"WindowPlan({name}={given!r}) makes no sense.", hint=f"Give one of {', '.join(known)}."
                )
        if not isinstance(self.windows, Tumbling | Sliding | Session):
            raise DefinitionError(
                f"WindowPlan(windows={ascii(self.windows)[:60]}) are no windows.",
                hint="Give tumbling(60), sliding(300, every=60) or session(gap=1800).",
            )

    @property
    def shape(self) -> str:
        """What must be the same for a snapshot to fit; functions cannot be compared, so they do not count."""
        return f"{self.windows!r}, lateness {self.lateness:g}, of {self.aggregate.name}"


class Windowed(msgspec.Struct, Generic[Key, Value], frozen=True):
    """What one window of one key came to.

    ``start`` and ``end`` are seconds since the epoch, ``count`` how many items it holds. ``revision`` counts
    how often this window was given out before. A withdrawn session has count 0 and value None.
    """

    key: Key
    start: float
    end: float
    value: Value
    count: int
    kind: Kind
    revision: int


class LateItem(NamedTuple):
    """An item that came when all its windows were gone; ``start`` and ``end`` are those of the latest.

    ``place`` is its index in the chunk. ``item`` is None where the chunk came as columns.
    """

    place: int
    item: Any
    key: Any
    time: float
    start: float
    end: float


class EarlyItem(NamedTuple):
    """An item whose time lies too far ahead of the clock; it moved no watermark and is in no window."""

    place: int
    item: Any
    key: Any
    time: float
    reason: str


class Failure(NamedTuple):
    """An item that could not be used, or (``place`` None) a window whose result could not be computed.

    ``window`` is that window, without a value.
    """

    place: int | None
    error: Exception
    window: Windowed[Any, Any] | None = None


class Outcome(NamedTuple):
    """What one chunk, tick or drain led to; every item is counted in exactly one place.

    An item is in a window, or in ``late``, ``early`` or ``failures``, each of which is in the order of the
    chunk; ``emitted`` is in the order in which it happened.
    """

    emitted: list[Windowed[Any, Any]]
    late: list[LateItem]
    early: list[EarlyItem]
    failures: list[Failure]
    watermark: float | None


class WindowCounts(msgspec.Struct):
    """How many items and results there were since the state began, also over restarts."""

    items: int = 0
    late: int = 0
    early: int = 0
    failed: int = 0
    emitted: int = 0
    updates: int = 0


def steps_of(windows: Sliding) -> int | None:
    """Return the size as a number of steps, or None if it is no whole number of them."""
    steps = windows.size / windows.every
    return round(steps) if abs(steps - round(steps)) <= _ALMOST * steps else None
