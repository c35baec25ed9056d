"""Write to a topic in transactions, which carry how far sources have been read: exactly once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from sidestage.connectors.aside import Aside
from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink, Message
from sidestage.connectors.kafka_faults import FAILURES, LOGGER, error_of, explain
from sidestage.connectors.kafka_reader import KafkaReader, place_of
from sidestage.connectors.kafka_writer import KafkaWriter
from sidestage.stream.contract import Position, Positions, Progress, Reader, Refused, TransactionLost

STEP_SECONDS = 10.0
ABORT_SECONDS = 2.0
HANGING_SECONDS = 1.0


class KafkaTransactionalWriter(KafkaWriter):
    """A producer whose writes are transactions: readers of committed messages see all of one, or nothing.

    After a TransactionLost this writer is of no use any more: open the sink anew, and read on from what is
    committed.
    """

    def __init__(self, sink: KafkaTransactionalSink) -> None:
        self._identity = sink.identity
        self._begun = False
        self._spoilt: KafkaError | None = None
        self._committed: dict[str, dict[str, Position]] = {}
        super().__init__(sink)
        try:
            self._step(self._producer.init_transactions)
        except BaseException:
            self.close()
            raise

    def write(self, items: Sequence[Message | bytes]) -> None:
        """Have items written as a part of the transaction that is under way, or of a new one.

        Returns when the client has them; ``commit`` waits until all replicas do. Raises Refused for items
        that the client knows the broker does not take: the others belong to the transaction. Raises
        TransactionLost if the broker did not take one that was sent.
        """
        refused = self._failed = {}
        try:
            self._begin()
            self._produce(items)
            self._producer.poll(0)
        except (ConnectorError, *FAILURES) as error:
            raise self._lost(error) from error
        self._require_sent()
        if refused:
            raise Refused({index: explain(error, self._doing) for index, error in sorted(refused.items())})

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        """Commit what was written, with the positions that Kafka sources have reached, in one.

        Raises TransactionLost; ConnectorError for a source whose positions Kafka cannot keep.
        """
        reached = {
            name: (self._kafka_reader(name, readers), positions)
            for name in progress.positions
            if (positions := self._news(name, progress.positions[name]))
        }
        if not (reached or self._begun):
            return
        try:
            self._begin()
            self._flush()
            self._require_sent()
            for reader, positions in reached.values():
                self._send_positions(reader, positions)
            self._step(self._producer.commit_transaction)
        except (ConnectorError, *FAILURES, _Stuck) as error:
            raise self._lost(error) from error
        self._begun = False
        for name, (reader, positions) in reached.items():
            reader.note_committed(positions)
            self._committed[name] = dict(progress.positions[name])

    def close(self) -> None:
        """Undo what was not committed, and disconnect."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._begun:
            try:
                self._producer.abort_transaction(ABORT_SECONDS)
            except KafkaException as error:
                # The broker does, when its time is up or the sink is opened anew.
                LOGGER.warning("Undoing a transaction: %s", explain(error, self._doing))
        # Its own closing would undo a transaction, again, and complain that a fenced producer cannot.
        self._producer.purge()
        del self._producer

    def _begin(self) -> None:
        if not self._begun:
            self._producer.begin_transaction()
            self._begun = True

    def _lost(self, error: Exception) -> TransactionLost:
        return TransactionLost(f"{self._doing} failed: {error}")

    def _note(self, _place: int, error: KafkaError | None, _message: object) -> None:
        if error is not None and self._spoilt is None:
            self._spoilt = error

    def _require_sent(self) -> None:
        """Raise TransactionLost if the broker did not take an item: it takes no such transaction."""
        if self._spoilt is not None:
            refusal = explain(self._spoilt, self._doing)
            raise self._lost(refusal) from refusal

    def _news(self, source: str, positions: Positions) -> dict[str, Position]:
        known = self._committed.get(source, {})
        return {part: position for part, position in positions.items() if known.get(part) != position}

    def _kafka_reader(self, name: str, readers: Mapping[str, Reader[Any]]) -> KafkaReader[Any]:
        reader = readers.get(name)
        if isinstance(reader, KafkaReader):
            return reader
        raise ConnectorError(
            f"{self._doing}: Kafka cannot keep how far {name!r} has been read.",
            hint="Write in transactions only what comes from topics of the same cluster.",
            failure_class="bug",
        )

    def _send_positions(self, reader: KafkaReader[Any], positions: Positions) -> None:
        # The broker refuses an old membership, and so a part that is lost after this has been asked for.
        membership = reader.membership()
        if not reader.holds(positions):
            parts = ", ".join(sorted(positions))
            raise PartsLost(
                f"{self._doing} failed: of the parts {parts} some were taken away meanwhile.",
                hint="Whoever has them now reads them again.",
                failure_class="stale",
            )
        places = [place_of(part, int(position)) for part, position in positions.items()]
        send = self._producer.send_offsets_to_transaction
        self._step(lambda seconds: _in_time(partial(send, places, membership, seconds), seconds))

    def _settings(self, largest: int | None) -> dict[str, Any]:
        lasting = int(self._sink.patience * 1000)
        return {
            **super()._settings(largest),
            "transactional.id": self._identity,
            "transaction.timeout.ms": lasting,
        }

    def _step(self, do: Callable[[float], None]) -> None:
        """Do one step of a transaction, again and again while the broker may still come to it."""
        for left in reversed(range(max(1, int(self._sink.patience / STEP_SECONDS)))):
            try:
                do(STEP_SECONDS)
            except KafkaException as error:
                said = error_of(error)
                if left and said is not None and said.retriable() and not said.txn_requires_abort():
                    continue
                raise explain(error, self._doing) from error
            else:
                return


class _Stuck(Exception):
    """The client does not come back from a call."""

    def __init__(self) -> None:
        super().__init__("no answer in time")


def _in_time(do: Callable[[], None], seconds: float) -> None:
    """Do something in a thread of its own. Raises what it raises, and _Stuck if it does not end.

    If the broker that looks after the group was restarted, the client may wait forever for it to come back,
    whatever time it is given (librdkafka, issues 5456 and 5511).
    """
    call: Aside[None] = Aside("kafka transaction")
    call.begin(do)
    if not call.is_done(seconds + HANGING_SECONDS):
        raise _Stuck
    call.take()
