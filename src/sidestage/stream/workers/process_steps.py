"""Stages whose workers are processes: these call the function, and all else is done here."""

from collections.abc import Callable, Iterable
from itertools import compress
from time import perf_counter
from typing import Any

from sidestage.stream.chunk import Chunk
from sidestage.stream.columns.batch_maps import BatchMapOperator, outputs
from sidestage.stream.failing import Desk, GivenUp, Kept
from sidestage.stream.nodes import FilterNode, FlatMapNode, MapNode
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Begun, FlatMapOperator, Onward, Step
from sidestage.stream.shape_nodes import BatchMapNode
from sidestage.stream.workers.hands import Hands
from sidestage.stream.workers.processes import Failed

ProcessNode = MapNode | FilterNode | FlatMapNode | BatchMapNode
"""What processes can do."""


def function_of(node: ProcessNode) -> Callable[[Any], Any]:
    """Return what a process calls for a stage: what it returns can be sent back."""
    match node:
        case MapNode():
            return node.function
        case FilterNode():
            return Truth(node.function)
        case FlatMapNode():
            return Several(node.function)
        case BatchMapNode():
            return Outputs(node.function)


def process_step(node: ProcessNode, hands: Hands, desk: Desk, meter: Meter, following: Step) -> Step:
    """Return what does a stage, with the help of a process that calls what ``function_of`` returned."""
    match node:
        case MapNode():
            return ProcessMap(hands, meter, following)
        case FilterNode():
            return ProcessFilter(hands, meter, following)
        case FlatMapNode():
            return ProcessFlatMap(hands, desk, meter, following)
        case BatchMapNode():
            return ProcessBatchMap(hands, node.splittable, desk, meter, following)


class _Sent:
    """A function that goes to a process, and what is done there with what it returns."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function


class Truth(_Sent):
    """Returns whether the function returns something true."""

    def __call__(self, item: Any) -> bool:
        """Call it."""
        return bool(self._function(item))


class Several(_Sent):
    """Returns all that the function makes of an item."""

    def __call__(self, item: Any) -> list[Any]:
        """Call it."""
        return list(self._function(item))


class Outputs(_Sent):
    """Returns the tables or items that the function makes of a batch."""

    def __call__(self, batch: Any) -> list[Any]:
        """Call it. Raises WrongReturn."""
        return outputs(self._function(batch))


class ProcessMap(Onward):
    """Has one process make one item of each."""

    def __init__(self, hands: Hands, meter: Meter, following: Step) -> None:
        super().__init__(meter, following)
        self._hands = hands

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        items = chunk.items
        made: list[Any] = []
        gone: list[int] = []
        for index, result in enumerate(self._hands.results(chunk)):
            if not isinstance(result, Failed | GivenUp):
                made.append(result)
                continue
            kept = self._hands.kept(chunk, index, items[index], result)
            if kept.gone:
                gone.append(index)
            else:
                made.append(kept.value)
        chunk.become(made, gone)
        self._hands.note(len(items))
        self._hand_on(chunk, len(items), began)


class ProcessFilter(Onward):
    """Lets items pass for which a process says so."""

    def __init__(self, hands: Hands, meter: Meter, following: Step) -> None:
        super().__init__(meter, following)
        self._hands = hands

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        items = chunk.items
        passes: list[bool] = []
        for index, result in enumerate(self._hands.results(chunk)):
            if isinstance(result, Failed | GivenUp):
                kept = self._hands.kept(chunk, index, items[index], result)
                passes.append(not kept.gone and bool(kept.value))
            else:
                passes.append(result)
        chunk.become(list(compress(items, passes)), [at for at, each in enumerate(passes) if not each])
        self._hands.note(len(items))
        self._hand_on(chunk, len(items), began)


class ProcessFlatMap(FlatMapOperator):
    """Has one process make any number of items of each. What one item makes has to fit into memory."""

    def __init__(self, hands: Hands, desk: Desk, meter: Meter, following: Step) -> None:
        super().__init__(hands.one, desk, meter, following)
        self._hands = hands
        self._results: list[Any] = []

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        came = len(chunk.items)
        super().push(chunk)
        self._hands.note(came)

    def _begun(self, chunk: Chunk, index: int, item: Any) -> Begun:
        if index == 0:
            self._results = self._hands.results(chunk)
        result, self._results[index] = self._results[index], None
        if not isinstance(result, Failed | GivenUp):
            return Begun(result, None)
        kept = self._hands.kept(chunk, index, item, result)
        return Begun(() if kept.gone else kept.value, None)


class ProcessBatchMap(BatchMapOperator):
    """Hands tables, or lists, to one process, and passes on what it returns."""

    def __init__(self, hands: Hands, splittable: bool, desk: Desk, meter: Meter, following: Step) -> None:
        super().__init__(hands.one, splittable, desk, meter, following)
        self._hands = hands

    def push(self, chunk: Chunk) -> None:
        """Take a chunk of tables or lists."""
        came = chunk.load
        super().push(chunk)
        self._hands.note(came)

    def _outcomes(self, chunk: Chunk) -> Iterable[Kept | GivenUp]:
        for batch, result in zip(chunk.items, self._hands.results(chunk), strict=True):
            yield self._after(chunk, batch, result)

    def _outcome(self, chunk: Chunk, batch: Any) -> Kept | GivenUp:
        return self._after(chunk, batch, self._hands.result(batch))

    def _after(self, chunk: Chunk, batch: Any, result: Any) -> Kept | GivenUp:
        """Return what came of a batch after trying again, if that is worth it."""
        if isinstance(result, GivenUp):
            return result
        if isinstance(result, Failed):
            return self._desk.retried(chunk, result.error, lambda: self._hands.one(batch))
        return Kept(gone=False, value=result)
