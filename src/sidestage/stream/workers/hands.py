"""The process of one worker: given items, asked what came of each, and started again when it dies."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sidestage.clock import Clock
from sidestage.policy.restart import Restarts
from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, GivenUp, Halt, Kept, Stopped, StreamDied, WorkerDied, shown
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.scopes.hands import Hand, Held
from sidestage.stream.workers.parcels import Parcel, parcel
from sidestage.stream.workers.processes import NOWHERE, Child, Death, Failed, Unreadable

_MOST_DEATHS = 2
"""An item that has ended so many processes is not tried again."""


class Hands:
    """Has one process call a function. Closed by whoever opened it."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        timeout: float | None,
        desk: Desk,
        meter: Meter,
        restarts: Restarts,
        halt: Halt,
        clock: Clock,
    ) -> None:
        meter.is_elsewhere = True
        self._meter = meter
        self._function = function
        self._timeout = timeout
        self._desk = desk
        self._restarts = restarts
        self._halt = halt
        self._clock = clock
        self.hand = Hand()
        """What says that it is at work on a chunk, and is asked to have an item of that given up."""
        self._child: Child | None = None
        self._is_revoked: Callable[[], bool] = lambda: False

    def open(self) -> None:
        """Return when the process is ready for items. Raises Stopped, StreamDied."""
        while self._desk.scope.error is None and not isinstance(self._ask(parcel([]), lambda _: None), list):
            pass

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def results(self, chunk: Chunk) -> list[Any]:
        """Return what came of each item of a chunk: a result, Failed, or GivenUp.

        Raises Stopped, StreamDied.
        """
        self._is_revoked = lambda: chunk.is_revoked
        return self._results(chunk.items)

    def kept(self, chunk: Chunk, index: int, item: Any, result: Failed | GivenUp) -> Kept:
        """Decide about an item of which that came, after trying again if that is worth it."""
        if isinstance(result, GivenUp):
            return self._desk.decide(chunk, index, item, result)
        return self._desk.meet(chunk, index, item, result.error, self.one)

    def result(self, item: Any) -> Any:
        """Return what comes of something else of the same chunk, as ``results`` does."""
        (result,) = self._results([item])
        return result

    def one(self, item: Any) -> Any:
        """Return what comes of one item of the same chunk. Raises its error."""
        result = self.result(item)
        if isinstance(result, Failed | GivenUp):
            raise result.error
        return result

    def note(self, load: int) -> None:
        """Count the processor time that so many items took."""
        self._meter.used(load, 0.0 if self._child is None else self._child.used())

    def _results(self, items: Sequence[Any]) -> list[Any]:
        """Return what came of each item: a result, Failed, or GivenUp.

        What a process that died had not answered for is done again, but not an item that ends a second one.
        """
        results: list[Any] = [None] * len(items)
        left = list(range(len(items)))
        deaths: dict[int, int] = {}
        while left:
            ended = self._ended_by()
            if ended is not None:
                for index in left:
                    results[index] = GivenUp(ended, 1)
                break
            sent, unsendable = _pickled(items, left)
            for index, error in unsendable.items():
                results[index] = GivenUp(error, 1)
            left = [index for index in left if index not in unsendable]
            if not left:
                break
            answer = self._ask(sent, partial(_look_of, items, left))
            if not isinstance(answer, Death):
                each = answer if isinstance(answer, list) else [self._alone(items[at], answer) for at in left]
                for index, result in zip(left, each, strict=True):
                    results[index] = result
                break
            culprit = left[answer.at] if answer.at < len(left) else left[0]
            deaths[culprit] = deaths.get(culprit, 0) + 1
            if deaths[culprit] >= _MOST_DEATHS or answer.is_late:
                results[culprit] = GivenUp(answer.error, deaths[culprit])
                left.remove(culprit)
        return results

    def _alone(self, item: Any, unreadable: Unreadable) -> Any:
        """Return what came of an item that is sent by itself, since one of its chunk could not be read."""
        ended = self._ended_by()
        if ended is not None:
            return GivenUp(ended, 1)
        answer = self._ask(parcel([item]), lambda _: shown(item))
        if isinstance(answer, list):
            return answer[0]
        error = answer.error if isinstance(answer, Unreadable | Death) else unreadable.error
        return GivenUp(error, 1)

    def _ended_by(self) -> Exception | None:
        """Return why a process is to be ended, or none is to be asked: somebody gave up its items."""
        asked = self.hand.asked
        if asked is not None:
            return asked.error
        return WorkerDied("its item was revoked") if self._is_revoked() else self._desk.scope.error

    def _ask(self, sent: Parcel, look_of: Callable[[int], str | None]) -> list[Any] | Unreadable | Death:
        """Return the process's answer, or how it ended instead. Raises Stopped, StreamDied.

        ``look_of`` returns what an item looks like, by its place in what is sent.
        """
        child = self._child
        if child is None:
            child = self._child = Child(self._function)
            child.ask(parcel([]), None, self._halt, lambda: None)  # it is ready, or dead: told below
        held = Held(self._meter.stage, "process", self._clock.monotonic(), None)
        with self.hand.holding(held):
            answer = child.ask(sent, self._timeout, self._halt, self._ended_by)
            asked = self.hand.asked
            if isinstance(answer, Death) and asked is not None and answer.error is asked.error:
                asked.comply(look_of(answer.at))
        if not isinstance(answer, Death):
            return answer
        child.end()
        self._child = None
        if answer.is_late and answer.at == NOWHERE:
            return Unreadable(answer.error)  # it had not come to an item: each is sent by itself now
        pause = 0.0 if answer.is_late else self._restarts.next_pause(self._clock.monotonic())
        if pause is None:
            raise StreamDied(f"Its processes keep dying: {answer.error}") from answer.error
        if self._halt.wait(pause):
            raise Stopped
        return answer


def _look_of(items: Sequence[Any], which: Sequence[int], at: int) -> str | None:
    """Return what one of some items looks like; None if it is none of them."""
    return shown(items[which[at]]) if at < len(which) else None


def _pickled(items: Sequence[Any], which: Sequence[int]) -> tuple[Parcel, dict[int, Exception]]:
    """Return some of the items pickled together, and the errors of those that cannot be."""
    unsendable: dict[int, Exception] = {}
    try:
        return parcel([items[index] for index in which]), unsendable
    except Exception:  # noqa: BLE001 - whatever the item's own code raises
        for index in which:
            try:
                parcel(items[index])
            except Exception as error:  # noqa: BLE001
                unsendable[index] = error
        return parcel([items[index] for index in which if index not in unsendable]), unsendable
