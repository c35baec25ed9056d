"""Write to a topic in transactions, which may carry how far a source has been read: exactly once."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Producer

from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink, Message
from sidestage.connectors.kafka_faults import LOGGER, error_of, explain
from sidestage.connectors.kafka_reader import KafkaReader, place_of
from sidestage.connectors.kafka_writer import KafkaWriter
from sidestage.stream.contract import Positions, Refused

STEP_SECONDS = 10.0
HANGING_SECONDS = 1.0


class KafkaTransactionalWriter(KafkaWriter):
    """A producer whose writes are transactions: readers of committed messages see all of one, or nothing.

    After a ConnectorError of class "stale" that is not PartsLost this writer is of no use any more: another
    one has its identity, or the broker was lost while it was to commit. Open the sink anew then, and read on
    from what is committed.
    """

    def __init__(self, sink: KafkaTransactionalSink) -> None:
        self._identity = sink.identity
        self._ready = False
        super().__init__(sink)
        try:
            self._be_ready()
        except BaseException:
            self.close()
            raise

    def write(self, items: Sequence[Message | bytes]) -> None:
        """Write items in one transaction of their own.

        Raises Refused if the broker does not take some items: then the others are written. After a
        ConnectorError none is, unless the broker was lost at the very end.
        """
        try:
            self._transact(items, _nothing)
        except Refused as refused:
            others = [item for index, item in enumerate(items) if index not in refused.errors]
            self._transact(others, _nothing)
            raise

    def write_with(
        self, items: Sequence[Message | bytes], positions: Positions, reader: KafkaReader[Any]
    ) -> None:
        """Write items, and commit the positions up to which ``reader`` was read to make them, in one.

        Raises Refused if the broker does not take some items: then *nothing* was written or committed; set
        those aside and call this again with the rest. Raises PartsLost if a part is not the reader's any
        more: nothing was written, forget what came of it. Raises ConnectorError of class "transient" if the
        transaction was undone: make it again as it was, never leave it out, for reading goes on behind it.
        """

        def require_parts() -> None:
            if not reader.holds(positions):
                parts = ", ".join(sorted(positions))
                raise PartsLost(
                    f"{self._doing} failed: of the parts {parts} some were taken away meanwhile.",
                    hint="Whoever has them now reads them again.",
                    failure_class="stale",
                )

        def commit_positions(seconds: float) -> None:
            # The broker refuses an old membership, and so a part that is lost after this has been asked for.
            membership = reader.membership()
            require_parts()
            places = [place_of(part, int(position)) for part, position in positions.items()]
            send = self._producer.send_offsets_to_transaction
            _in_time(partial(send, places, membership, seconds), seconds)

        require_parts()
        self._transact(items, commit_positions)
        reader.note_committed(positions)

    def close(self) -> None:
        """Drop what was not acknowledged, of which ``write`` has told, and disconnect."""
        # Its own closing would undo a transaction, again, and complain that a fenced producer cannot.
        self._producer.purge()
        del self._producer

    def _settings(self, largest: int | None) -> dict[str, Any]:
        lasting = int(self._sink.patience * 1000)
        return {
            **super()._settings(largest),
            "transactional.id": self._identity,
            "transaction.timeout.ms": lasting,
        }

    def _transact(self, items: Sequence[Message | bytes], also: Callable[[float], None]) -> None:
        try:
            self._be_ready()
            self._producer.begin_transaction()
        except KafkaException as error:
            raise explain(error, self._doing) from error
        try:
            failed = self._send(items)
            if failed:
                self._tell(failed, of=len(items))
            self._step(also)
            self._commit()
        except _Stuck as error:
            # A new client of the same identity undoes what the one that hangs had begun.
            self._producer, self._ready = Producer(self._given, logger=LOGGER), False
            raise ConnectorError(
                f"{self._doing} failed: no answer in time.", failure_class="transient"
            ) from error
        except BaseException:
            self._abort()
            raise

    def _be_ready(self) -> None:
        if not self._ready:
            self._step(self._producer.init_transactions)
            self._ready = True

    def _commit(self) -> None:
        try:
            self._step(self._producer.commit_transaction)
        except ConnectorError as error:
            cause = error.__cause__
            said = error_of(cause) if isinstance(cause, KafkaException) else None
            if said is not None and said.txn_requires_abort():
                raise
            raise ConnectorError(
                f"{self._doing}: nobody knows if a transaction was committed. {error.message}",
                hint="Open the sink anew, and read on from what is committed.",
                failure_class="stale",
            ) from error

    def _abort(self) -> None:
        """Undo the transaction. If even that fails, the broker does, when its time is up or we begin anew."""
        try:
            self._step(self._producer.abort_transaction)
        except ConnectorError as error:
            LOGGER.warning("Undoing a transaction: %s", error)

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


def _in_time(do: Callable[[], None], seconds: float) -> None:
    """Do something in a thread of its own. Raises what it raises, and _Stuck if it does not end.

    If the broker that looks after the group was restarted, the client may wait forever for it to come back,
    whatever time it is given (librdkafka, issues 5456 and 5511).
    """
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=work, name="kafka transaction", daemon=True)
    thread.start()
    thread.join(seconds + HANGING_SECONDS)
    if not ended:
        raise _Stuck
    if ended[0] is not None:
        raise ended[0]


def _nothing(_seconds: float) -> None:
    pass
