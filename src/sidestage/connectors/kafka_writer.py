"""Write to a topic: each item acknowledged by all replicas, and written once however often it is sent."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.kafka import KafkaSink, Message
from sidestage.connectors.kafka_connect import largest_message, require_topics
from sidestage.connectors.kafka_faults import (
    FAILURES,
    LOGGER,
    class_of,
    concerns_us,
    error_of,
    explain,
    is_too_large,
)
from sidestage.stream.contract import Refused

FLUSH_SECONDS = 0.5
GRACE_SECONDS = 10.0

Report = Callable[[KafkaError | None, Any], None]


class KafkaWriter:
    """A producer, used by one thread. Keys decide the partition; order is kept within one.

    The topic is asked how large a batch may be, for the broker refuses one as a whole. Only where we have no
    right to ask are the items of such a batch sent again one by one, after those that came later.
    """

    def __init__(self, sink: KafkaSink) -> None:
        self._sink = sink
        self._doing = f"Writing {sink.name}"
        self._failed: dict[int, KafkaError] = {}
        self._reports: list[Report] = []
        self._problem: ConnectorError | None = None
        self._is_closed = False
        reach: dict[str, Any] = {**sink.settings, "bootstrap.servers": sink.servers, "error_cb": self._heard}
        admin = AdminClient(reach, logger=LOGGER)
        require_topics(admin, (sink.topic,), self._doing, self._take_problem)
        self._given = self._settings(largest_message(admin, sink.topic))
        self._producer = Producer(self._given, logger=LOGGER)

    def write(self, items: Sequence[Message | bytes]) -> None:
        """Write items; return when all replicas in sync have them.

        Raises Refused if the broker does not take some items; ConnectorError if it takes none, or is away for
        longer than the sink's patience. An item that is not known to be written may have been.
        """
        failed = self._send(items)
        for index in [index for index, error in failed.items() if is_too_large(error) and len(items) > 1]:
            # The broker refuses a batch as a whole; only one item of it may be too large.
            failed.pop(index)
            failed.update((index, error) for error in self._send(items[index : index + 1]).values())
        if failed:
            self._tell(failed, of=len(items))

    def close(self) -> None:
        """Drop what was not acknowledged, of which ``write`` has told, and disconnect."""
        if not self._is_closed:
            self._is_closed = True
            self._producer.purge()
            self._producer.close()

    def _settings(self, largest: int | None) -> dict[str, Any]:
        given = self._sink.settings
        # The client never sends what the topic refuses: the broker refuses a batch as a whole.
        limits = (largest, given.get("message.max.bytes"))
        least = min((int(limit) for limit in limits if limit), default=None)
        return {
            **given,
            **({"message.max.bytes": least} if least else {}),
            "bootstrap.servers": self._sink.servers,
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": int(self._sink.patience * 1000),
            "delivery.report.only.error": True,
            "allow.auto.create.topics": False,
            "error_cb": self._heard,
        }

    def _send(self, items: Sequence[Message | bytes]) -> dict[int, KafkaError]:
        """Send items and wait; return what became of those that failed."""
        failed = self._failed = {}
        self._produce(items)
        self._flush()
        return failed

    def _produce(self, items: Sequence[Message | bytes]) -> None:
        """Give items to the client, which sends them by itself; note those that it does not take."""
        topic, produce = self._sink.topic, self._producer.produce
        # One object for each place, made once: making them costs as much as sending.
        self._reports += [partial(self._note, place) for place in range(len(self._reports), len(items))]
        for place, item in enumerate(items):
            report = self._reports[place]
            while True:
                try:
                    if isinstance(item, Message):
                        time, headers = item.time or 0, list(item.headers) or None
                        produce(topic, item.value, item.key, -1, report, None, time, headers)
                    else:
                        produce(topic, item, None, -1, report)
                except BufferError:
                    self._make_room()
                except KafkaException as error:
                    self._failed[place] = self._refusal(error)
                    break
                else:
                    break

    def _make_room(self) -> None:
        try:
            self._producer.poll(FLUSH_SECONDS)
        except FAILURES as error:
            raise explain(error, self._doing) from error

    def _note(self, place: int, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed[place] = error

    def _refusal(self, error: KafkaException) -> KafkaError:
        """Return what the client does not like about an item; raise what has nothing to do with it."""
        said = error_of(error)
        if said is None or class_of(said) != "validation":
            self._drop()
            raise explain(error, self._doing) from error
        return said

    def _tell(self, failed: Mapping[int, KafkaError], of: int) -> None:
        errors = {index: explain(error, self._doing) for index, error in sorted(failed.items())}
        if len(errors) == of and all(error.failure_class != "validation" for error in errors.values()):
            raise next(iter(errors.values()))
        raise Refused(errors)

    def _flush(self) -> None:
        """Wait until each message has been acknowledged or has failed, which the client decides in time."""
        for _ in range(int((self._sink.patience + GRACE_SECONDS) / FLUSH_SECONDS)):
            try:
                left = self._producer.flush(FLUSH_SECONDS)
            except FAILURES as error:
                raise explain(error, self._doing) from error
            problem = self._take_problem()
            if problem is not None:
                self._drop()
                raise problem
            if not left:
                return
        self._drop()
        raise ConnectorError(f"{self._doing} failed: no answer in time.", failure_class="transient")

    def _drop(self) -> None:
        self._producer.purge()
        with contextlib.suppress(*FAILURES):
            self._producer.flush(FLUSH_SECONDS)

    def _heard(self, error: KafkaError) -> None:
        if concerns_us(error):
            self._problem = explain(error, self._doing)

    def _take_problem(self) -> ConnectorError | None:
        problem, self._problem = self._problem, None
        return problem
