"""Stages that are given whole tables or lists, and find the rows that spoil one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat
from time import perf_counter
from typing import Any

from sidestage.errors import DataError
from sidestage.policy.failure import RETRYABLE, classify
from sidestage.stream.chunk import Chunk
from sidestage.stream.columns.frames import arrow_of, first_row, is_frame, weight_of
from sidestage.stream.failing import Desk, GivenUp, Kept, WorkerDied
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step


class WrongReturn(DataError):
    """A function returned what is neither tables nor items."""


class BatchMapOperator(Onward):
    """Hands tables, or lists, to a function, and passes on what it returns: tables, or items.

    If it raises, and trying again does not help, the table is one item that failed; but a table that may be
    split is halved until it is known which rows are bad: n bad ones of m cost about 2 n log2(m / n) calls.
    """

    def __init__(
        self, function: Callable[[Any], Any], splittable: bool, desk: Desk, meter: Meter, following: Step
    ) -> None:
        super().__init__(meter, following)
        self._function = function
        self._splittable = splittable
        self._desk = desk

    def push(self, chunk: Chunk) -> None:
        """Take a chunk of tables or lists."""
        began = perf_counter()
        came = chunk.load
        made: list[Any] = []
        counts: list[int] = []
        for index, (batch, outcome) in enumerate(zip(chunk.items, self._outcomes(chunk), strict=True)):
            before = len(made)
            made += self._made(chunk, index, batch, outcome)
            counts.append(len(made) - before)
        if len(chunk.tickets) == 1:
            origins: Iterable[int] = range(len(counts)) if chunk.origins is None else chunk.origins
            chunk.origins = list(chain.from_iterable(map(repeat, origins, counts)))
        chunk.items = made
        chunk.weight = weight_of(made) if made and is_frame(made[0]) else 0
        self._hand_on(chunk, came, began)

    def _outcomes(self, chunk: Chunk) -> Iterable[Kept | GivenUp]:
        """Return what came of each batch."""
        return (self._outcome(chunk, batch) for batch in chunk.items)

    def _outcome(self, chunk: Chunk, batch: Any) -> Kept | GivenUp:
        """Return what came of a batch, after trying again if that is worth it."""
        try:
            return Kept(gone=False, value=self._call(batch))
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            return self._desk.retried(chunk, error, lambda: self._call(batch))

    def _made(self, chunk: Chunk, index: int, batch: Any, outcome: Kept | GivenUp) -> list[Any]:
        """Return what came of a batch, or comes of its good rows."""
        if isinstance(outcome, Kept):
            made: list[Any] = outcome.value
            return made
        if self._splittable and _is_about_rows(outcome.error):
            if len(batch) > 1:
                half = len(batch) // 2
                return [
                    part
                    for each in _halves(batch, half)
                    for part in self._made(chunk, index, each, self._outcome(chunk, each))
                ]
            batch = batch[0] if isinstance(batch, list) else first_row(batch)
        return self._decided(chunk, index, batch, outcome)

    def _decided(self, chunk: Chunk, index: int, item: Any, given_up: GivenUp) -> list[Any]:
        kept = self._desk.decide(chunk, index, item, given_up)
        return [] if kept.gone else outputs(kept.value)

    def _call(self, batch: Any) -> list[Any]:
        return outputs(self._function(batch))


def _is_about_rows(error: Exception) -> bool:
    """Return whether fewer rows may do better: not if the place is down, a worker died, or code is wrong."""
    return not isinstance(error, WorkerDied | WrongReturn) and classify(error) not in RETRYABLE


def _halves(batch: Any, half: int) -> tuple[Any, Any]:
    if isinstance(batch, list):
        return batch[:half], batch[half:]
    return batch.slice(0, half), batch.slice(half)


def outputs(returned: Any) -> list[Any]:
    """Return what a function returned as a list of tables that have rows, or of items. Raises WrongReturn."""
    if is_frame(returned):
        return _whole([returned])
    if isinstance(returned, list | tuple | Iterator) and not hasattr(returned, "_fields"):
        return _whole(list(returned))
    what = f"a {type(returned).__name__}" if returned is not None else "nothing (None)"
    kinds = "a mapping is one row" if isinstance(returned, Mapping) else "not a column, an array or a text"
    raise WrongReturn(
        f"The function of a stage of batches returned {what}.",
        hint="Return a pyarrow.Table, a pyarrow.RecordBatch, a collected polars.DataFrame, or a list of"
        f" tables or of items; {kinds}.",
    )


def _whole(returned: list[Any]) -> list[Any]:
    """Return tables without the empty ones, all of Arrow's of one class."""
    if not any(map(is_frame, returned)):
        return returned
    whole = [arrow_of(each) if type(each).__name__ == "RecordBatch" else each for each in returned]
    return [each for each in whole if not is_frame(each) or len(each)]
