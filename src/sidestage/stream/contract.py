"""What the engine asks of places that items come from and go to.

A source hands over items in batches, each of which lies in a *part* (a partition of a topic, a file, a query)
between two *positions*. A position says where to go on reading. The engine hands a position back once
everything before it in that part has been dealt with: written by the sinks, or set aside as dead letters.
Positions are kept as JSON; the engine never looks into them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

Position = int | str
Positions = Mapping[str, Position]
"""By part: where to go on reading."""

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Batch(NamedTuple):
    """Items that lie one after another in a part, from ``first`` on; reading goes on at ``next``."""

    part: str
    first: Position
    items: list  # type: ignore[type-arg]  # a NamedTuple that is generic cannot be made as fast
    next: Position


class Reader(Protocol[T_co]):
    """A source that is being read, by one thread."""

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return what is there, at most ``limit`` items; wait up to ``wait`` seconds if nothing is.

        Never waits for more while it has something. Returns an empty sequence if nothing came, None when the
        source has come to its end.
        """
        ...

    def stop(self) -> None:
        """Take nothing more. Reading goes on until it returns None: what was taken already is not lost."""
        ...

    def commit(self, positions: Positions) -> None:
        """Note that reading may go on from these positions next time."""
        ...

    def lost(self) -> Collection[str]:
        """Return the parts that were taken away since this was last asked: nothing of them is committed."""
        ...

    def close(self) -> None:
        """Stop reading. Called after an error, too; a second call does nothing."""
        ...


class Source(Protocol[T_co]):
    """A place that items come from, as it is described before anything is read.

    One that reads something which is yet to be decoded has an attribute ``decode``, a function: see
    ``sidestage.stream.places.entrance``.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def open(self, resume: Positions) -> Reader[T_co]:
        """Begin to read, each part from its position in ``resume``, those not named from their beginning."""
        ...


class Refused(Exception):
    """Some items were not written; all others were. ``errors`` holds the reason for each, by its index.

    Raises TypeError for anything but exceptions, by whole numbers.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        if not all(isinstance(index, int) and isinstance(each, Exception) for index, each in errors.items()):
            raise TypeError("Refused takes the errors of items, which are exceptions, by their indexes.")
        super().__init__(f"{len(errors)} items were refused")
        self.errors = errors


class Writer(Protocol[T_contra]):
    """A sink that is being written to, by one thread."""

    def write(self, items: Sequence[T_contra]) -> None:
        """Write items; return when they are as safe as this place can make them.

        Raises Refused if some of them, and something else if none of them is known to be written.
        """
        ...

    def close(self) -> None:
        """Stop writing. Called after an error, too; a second call does nothing."""
        ...


class Sink(Protocol[T_contra]):
    """A place that items go to, as it is described before anything is written."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def open(self) -> Writer[T_contra]:
        """Begin to write."""
        ...


class Progress(msgspec.Struct, frozen=True):
    """How far each source has been dealt with, by its name and by part, and the state of windows by then.

    ``number`` counts checkpoints.
    """

    number: int
    positions: dict[str, dict[str, Position]]
    states: dict[str, bytes] = {}

    def going_on(self, reached: Mapping[str, Positions], states: Mapping[str, bytes]) -> "Progress":
        """Return what comes of it when parts have reached new positions; others stay where they are."""
        positions = dict(self.positions)
        for source, parts in reached.items():
            positions[source] = {**positions.get(source, {}), **parts}
        return Progress(self.number + 1, positions, dict(states))


class TransactionLost(Exception):
    """What was written since the last commit is gone, or nobody knows: go on from what was committed."""


class TransactionalWriter(Writer[T_contra], Protocol[T_contra]):
    """A sink whose writes become visible together with the positions of what they were made of.

    What ``write`` was given belongs to a transaction that ``commit`` ends. It raises TransactionLost if the
    transaction is lost; after any other error nothing of that call belongs to it, but all from before does.
    ``close`` undoes what was not committed. Used by one thread at a time, though not always the same.
    """

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        """Make all that was written visible, and keep with it how far the stream has come; or neither.

        ``readers`` are those of the stream's sources, by name. Called also if nothing was written. Raises
        whatever kept it from that: the stream then goes on from what was committed.
        """
        ...


@runtime_checkable
class TransactionalSink(Sink[T_contra], Protocol[T_contra]):
    """A place that keeps how far a stream has come, in the transactions that write its items.

    One that can keep positions but no state of windows says so by an attribute ``keeps_states``, which is
    False.
    """

    def open(self) -> TransactionalWriter[T_contra]:
        """Begin to write. Whoever wrote here before cannot commit any more."""
        ...

    def progress(self) -> Progress:
        """Return what was committed last; a ``Progress`` with number 0 if nothing was."""
        ...
