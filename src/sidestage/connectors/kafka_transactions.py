"""Write to a topic in transactions, which carry how far sources have been read: exactly once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sidestage.connectors.aside import Aside
from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink, Message
from sidestage.connectors.kafka_faults import FAILURES, LOGGER, error_of, explain
from sidestage.connectors.kafka_reader import KafkaReader, place_of
from sidestage.connectors.kafka_states import KafkaStates
from sidestage.connectors.kafka_versions import Version
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
        self._states = None if sink.state is None else KafkaStates(sink, Path(sink.state))
        self._committed: dict[str, dict[str, Position]] = {}
        super().__init__(sink)
        try:
            self._step(self._producer.init_transactions)
            if self._states is not None:
                self._committed = self._states.begin().positions
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

        Raises TransactionLost; ConnectorError for a source whose positions Kafka cannot keep; if states are
        kept, OSError if they cannot be, and DataError for a source that they are not of.
        """
        states = self._states
        reached = {
            name: (reader, positions)
            for name in progress.positions
            if (positions := self._news(name, progress.positions[name]))
            and (reader := self._kafka_reader(name, readers)) is not None
        }
        if not (reached or self._begun or states):
            return
        try:
            self._begin()
            self._flush()
            self._require_sent()
            for name, (reader, positions) in reached.items():
                self._send_positions(name, reader, positions)
            version = None if states is None else self._send_states(states, progress)
            self._step(self._producer.commit_transaction)
        except (ConnectorError, *FAILURES, _Stuck) as error:
            raise self._lost(error) from error
        self._begun = False
        for reader, positions in reached.values():
            reader.note_committed(positions)
        self._committed = {name: dict(positions) for name, positions in progress.positions.items()}
        if states is not None and version is not None:
            states.note_committed(version)

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

    def _kafka_reader(self, name: str, readers: Mapping[str, Reader[Any]]) -> KafkaReader[Any] | None:
        """Return the reader of a source, None if its positions are kept with the state and nowhere else."""
        reader = readers.get(name)
        if isinstance(reader, KafkaReader):
            return reader
        if self._states is not None:
            return None
        raise ConnectorError(
            f"{self._doing}: Kafka cannot keep how far {name!r} has been read.",
            hint="Say state=FOLDER, or write only what comes from topics of the same cluster.",
            failure_class="bug",
        )

    def _send_positions(self, name: str, reader: KafkaReader[Any], positions: Positions) -> None:
        # The broker refuses an old membership, and so a part that is lost after this has been asked for.
        membership = reader.membership()
        if not reader.holds(positions):
            parts = ", ".join(sorted(positions))
            raise PartsLost(
                f"{self._doing} failed: of the parts {parts} some were taken away meanwhile.",
                hint="Whoever has them now reads them again.",
                failure_class="stale",
            )
        if self._states is None:
            places = [place_of(part, int(position)) for part, position in positions.items()]
        else:
            self._states.require_whole(name, reader, membership, self._committed.get(name, {}))
            places = self._states.marked(positions)
        self._send_offsets(places, membership)

    def _send_states(self, states: KafkaStates, progress: Progress) -> Version:
        """Write the states of windows, and have the transaction name them."""
        version = states.write(progress)
        self._send_offsets([states.place_of(version)], states.membership)
        return version

    def _send_offsets(self, places: list[TopicPartition], membership: Any) -> None:
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
