"""Kafka's source and sink keep the contracts of streams, on a real broker."""

import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from tests.servers.kafka import Broker

from sidestage.connectors.kafka import KafkaSink, KafkaSource, KafkaTransactionalSink, Message, values
from sidestage.stream.contract import Reader
from sidestage.testing.streams import SinkContract, SourceContract, TransactionalSinkContract

QUICK = {"heartbeat.interval.ms": 100}
PARTS = 2
SECONDS = 180.0


class Topic:
    """A topic of two parts, and a group that reads it."""

    numbers = itertools.count()

    def __init__(self, broker: Broker) -> None:
        self.servers = broker.servers
        self.name = broker.create_topic(f"contract-{next(self.numbers)}", PARTS)
        self.count = 0

    def put(self, count: int) -> Sequence[bytes]:
        items = [b"item %d" % number for number in range(self.count, self.count + count)]
        self.count += count
        with closing(KafkaSink(servers=self.servers, topic=self.name).open()) as writer:
            writer.write([Message(item, b"%d" % (n % 7)) for n, item in enumerate(items)])
        return items

    def source(self) -> KafkaSource[bytes | None]:
        return KafkaSource(
            servers=self.servers, topics=(self.name,), group=self.name, items=values, settings=QUICK
        )


class TestKafkaSource(SourceContract):
    ends = False
    grows = True
    keeps_positions = True
    takes_parts_away = True
    patience = SECONDS
    resumes = 3

    @pytest.fixture
    def place(self, broker: Broker) -> Topic:
        return Topic(broker)


class SinkTopic:
    """A topic of one part, in which order is kept."""

    def __init__(self, broker: Broker) -> None:
        self.servers = broker.servers
        self.name = broker.create_topic(f"contract-sink-{next(Topic.numbers)}", 1, max_message_bytes="20000")

    def item(self, number: int) -> bytes:
        return b"item %d" % number

    def bad(self) -> bytes:
        return b"x" * 30_000

    def sink(self) -> KafkaSink:
        return KafkaSink(servers=self.servers, topic=self.name)

    def written(self) -> list[Any]:
        place = TopicPartition(self.name, 0, 0)
        asker = Consumer(
            {"bootstrap.servers": self.servers, "group.id": f"{self.name}-{time.monotonic_ns()}"}
        )
        with closing(asker):
            _, end = asker.get_watermark_offsets(place, timeout=SECONDS)
            asker.assign([place])
            found: list[Any] = []
            deadline = time.monotonic() + SECONDS
            while len(found) < end:
                assert time.monotonic() < deadline
                found += [each.value() for each in asker.consume(end - len(found), 1.0)]
        return found


class TestKafkaSink(SinkContract):
    @pytest.fixture
    def place(self, broker: Broker) -> SinkTopic:
        return SinkTopic(broker)


class TransactionsTopic(SinkTopic):
    """A topic that is written to in transactions, with a folder for states."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        super().__init__(broker)
        self._folder = folder

    def sink(self) -> KafkaTransactionalSink:  # type: ignore[override]  # as another contract has it
        return KafkaTransactionalSink(
            servers=self.servers, topic=self.name, identity=self.name, state=self._folder
        )

    def readers(self) -> Mapping[str, Reader[Any]]:
        return {}

    def written(self) -> list[Any]:
        """Return what is committed: what readers of committed messages find before the end."""
        quick = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
        with closing(Consumer({"bootstrap.servers": self.servers, "group.id": self.name, **quick})) as asker:
            asker.assign([TopicPartition(self.name, 0, 0)])
            found: list[Any] = []
            deadline = time.monotonic() + 30
            while True:
                assert time.monotonic() < deadline
                each = asker.poll(1.0)
                error = None if each is None else each.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return found
                if each is not None and error is None:
                    found.append(each.value())


class TestKafkaTransactionalSink(TransactionalSinkContract):
    patience = SECONDS  # a commit returns before the broker has written everywhere that it is one

    @pytest.fixture
    def place(self, broker: Broker, tmp_path: Path) -> TransactionsTopic:
        return TransactionsTopic(broker, tmp_path)
