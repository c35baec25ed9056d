"""The transactions of a stream's sink: what was written and how far the stream has come, both or neither.

The sink is opened before the sources, which fences off whoever wrote there before, and says then how far the
stream has come. At each checkpoint nothing is under way: all that was read is in the sink's transaction, in
the state of windows, or set aside, and the sink commits it together with the positions and that state.
"""

from collections.abc import Mapping
from typing import Any

from sidestage.errors import DefinitionError
from sidestage.policy.failure import RETRYABLE, FailureClass, classify
from sidestage.stream.contract import (
    Positions,
    Progress,
    Reader,
    TransactionalSink,
    TransactionalWriter,
    TransactionLost,
)
from sidestage.stream.layout import Layout
from sidestage.stream.nodes import SinkNode, WindowNode
from sidestage.stream.shape_nodes import IntervalNode

_PASSING: frozenset[FailureClass] = RETRYABLE | {"stale"}
"""Classes of failures of a commit after which it makes sense to go on from what was committed."""


class Transactions:
    """Those of one run. A place where progress is kept, as a ``Checkpoint`` is."""

    def __init__(self, node: SinkNode, sink: TransactionalSink[Any]) -> None:
        self.node = node
        self._sink = sink
        self._writer: TransactionalWriter[Any] | None = None
        self._readers: dict[str, Reader[Any]] = {}
        self._progress = Progress(0, {})

    def open(self) -> None:
        """Begin to write, and learn how far the stream has come. Raises what the sink raises."""
        self._writer = self._sink.open()
        self._progress = self._sink.progress()

    @property
    def writer(self) -> TransactionalWriter[Any]:
        """What items are written to."""
        assert self._writer is not None
        return self._writer

    @property
    def progress(self) -> Progress:
        """What was committed last."""
        return self._progress

    def positions(self, source: str) -> Positions:
        """Return where to go on reading a source."""
        return self._progress.positions.get(source, {})

    def read_by(self, source: str, reader: Reader[Any]) -> None:
        """Note by whom a source is read."""
        self._readers[source] = reader

    def save_all(self, reached: Mapping[str, Positions], states: Mapping[str, bytes]) -> None:
        """Commit what was written, with new positions of sources and the states that belong to them.

        Raises TransactionLost if it may succeed when it is done anew, else what the sink raises.
        """
        progress = self._progress.going_on(reached, states)
        try:
            self.writer.commit(progress, self._readers)
        except TransactionLost:
            raise
        except Exception as error:
            if classify(error) not in _PASSING:
                raise
            raise TransactionLost(f"{self._sink.name} did not commit: {error}") from error
        self._progress = progress

    def close(self) -> None:
        """Undo what was not committed, and stop writing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def transactions_of(layout: Layout) -> Transactions | None:
    """Return those of a stream, if one of its sinks has such. Raises DefinitionError where they cannot be."""
    for node in layout.nodes:
        if isinstance(node, WindowNode) and isinstance(node.beside, TransactionalSink):
            raise DefinitionError(
                f"{layout.names[node]!r} would write late items to {node.beside.name}, which keeps only"
                " what is committed in transactions, and nobody would commit that.",
                hint="Give beside= a sink without transactions, or write the stream late to(...) a sink.",
            )
    found = [
        (node, node.sink)
        for node in layout.nodes
        if isinstance(node, SinkNode) and isinstance(node.sink, TransactionalSink)
    ]
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(layout.names[node] for node, _ in found)
        raise DefinitionError(
            f"{names} write in transactions of their own, which cannot be committed together.",
            hint="Let one of them be written to without, or write the second from what the first holds.",
        )
    node, sink = found[0]
    if layout.segment_of[node].threads > 1:
        raise DefinitionError(
            f"{layout.names[node]!r} writes in transactions, and so with one worker.",
            hint="Leave out workers.",
        )
    if node.breaker is not None:
        raise DefinitionError(
            f"{layout.names[node]!r} writes in transactions, which no breaker can wait out.",
            hint="Leave it out: Settings(restart=) says how often it goes on from what was committed.",
        )
    has_states = any(isinstance(each, WindowNode | IntervalNode) for each in layout.nodes)
    if has_states and not getattr(sink, "keeps_states", True):
        raise DefinitionError(
            f"{layout.names[node]!r} cannot keep the state of windows, or of joins, in its transactions.",
            hint="Give it a place for them, such as state= of Kafka's, or write without transactions.",
        )
    return Transactions(node, sink)
