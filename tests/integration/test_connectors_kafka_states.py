"""State of windows that belongs to Kafka's transactions, on a real broker."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.integration.test_connectors_kafka import (
    SECONDS,
    UNTIL_LAST,
    everything_in,
    numbers,
    read_items,
    read_until,
    source,
    write,
)
from tests.servers.kafka import Broker

from sidestage.connectors.failure import PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink
from sidestage.errors import DataError
from sidestage.stream.contract import Progress, TransactionLost
from sidestage.stream.stream import Stream

COUNTER = (
    """
import os
import signal
import sys
import time
from sidestage.connectors.kafka import KafkaSource, KafkaTransactionalSink, values
from sidestage.connectors.kafka_states import KafkaStates
from sidestage.connectors.kafka_transactions import KafkaTransactionalWriter
from sidestage.connectors.kafka_versions import Versions
from sidestage.policy.restart import Restart
from sidestage.stream import EventTime, Settings, Stream, WindowPlan, count, tumbling

servers, origin, target, folder, last, moment = sys.argv[1:]
transactions = 0
write, send, note = Versions.write, KafkaTransactionalWriter._send_states, KafkaStates.note_committed


def passing(at):
    if at == moment and transactions == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def writing(self, progress):
    global transactions
    transactions += 1
    version = write(self, progress)
    passing("written")
    return version


def sending(self, states, progress):
    version = send(self, states, progress)
    passing("named")
    return version


def noting(self, version):
    passing("committed")
    note(self, version)


Versions.write, KafkaTransactionalWriter._send_states, KafkaStates.note_committed = writing, sending, noting

"""
    + UNTIL_LAST
    + """

settings = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 100}
described = UntilLast(servers=servers, topics=(origin,), group=target, items=values, settings=settings)
sink = KafkaTransactionalSink(servers=servers, topic=target, identity=target, state=folder)
often = Settings(commit_every=0.01, restart=Restart(times=30, delay=0.1, longest=1.0))
time_of = EventTime(at=float, disorder=30)
plan = WindowPlan(windows=tumbling(20), aggregate=count(), key=lambda number: number % 3, time=time_of)
windows = Stream(described).map(int).window(plan)
windows.map(lambda each: f"{each.key} {each.start:.0f} {each.value}".encode()).to(sink).run(settings=often)
print("done", flush=True)
"""
)


def test_a_counter_that_is_killed_counts_each_item_once(
    broker: Broker, topic: str, wide: str, tmp_path: Path
) -> None:
    total = 600
    write(broker, topic, numbers(0, total))
    for moment in ("written", "named", "committed", "never"):
        words = (broker.servers, topic, wide, str(tmp_path), str(total - 1), moment)
        ended = subprocess.run(
            [sys.executable, "-c", COUNTER, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=4 * SECONDS,
        )
        assert ended.returncode == (0 if moment == "never" else -signal.SIGKILL), ended.stderr
    counted = Counter((number % 3, number // 20 * 20) for number in range(total))
    expected = sorted(b"%d %d %d" % (*window, times) for window, times in counted.items())
    assert sorted(everything_in(broker, wide, len(expected))) == expected
    assert len(list(tmp_path.iterdir())) <= 2


def stands_at(part: str, position: int) -> Progress:
    return Progress(position, {"source": {part: position}}, {"window": b"%d" % position})


def move(broker: Broker, group: str, topic: str, offset: int) -> None:
    """Do as kafka-consumer-groups does with --reset-offsets."""
    with closing(Consumer({"bootstrap.servers": broker.servers, "group.id": group})) as operator:
        operator.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)


def commit(
    sink: KafkaTransactionalSink, reader: Any, progress: Progress, items: Sequence[bytes] = ()
) -> None:
    with closing(sink.open()) as writer:
        writer.write(items)
        writer.commit(progress, {"source": reader})


def test_a_state_goes_with_the_offsets_that_it_was_committed_with(
    broker: Broker, topic: str, wide: str, tmp_path: Path
) -> None:
    write(broker, topic, numbers(0, 30))
    part = f"{topic}/0"
    sink = KafkaTransactionalSink(servers=broker.servers, topic=wide, identity="first", state=tmp_path)
    with closing(source(broker, topic).open({})) as reader:
        read_items(reader, 1)
        commit(sink, reader, stands_at(part, 10), [b"a"])
        reader.commit({part: 5})  # by the stream, a moment later
    assert broker.committed(topic, topic) == [10]
    assert sink.progress() == stands_at(part, 10)

    move(broker, topic, topic, 3)
    refused = f"committed offset 3 of {part}, but the state holds what lies before 10"
    with closing(source(broker, topic).open({part: 10})) as reader:
        read_items(reader, 1)
        with pytest.raises(DataError, match=refused):
            commit(sink, reader, stands_at(part, 20), [b"never seen"])

    other = KafkaTransactionalSink(servers=broker.servers, topic=wide, identity="second", state=tmp_path)
    with closing(source(broker, topic).open({})) as reader:
        read_items(reader, 1)
        commit(other, reader, stands_at(part, 20), [b"b"])
        with pytest.raises(DataError, match="up to which 'second' has counted"):
            commit(sink, reader, stands_at(part, 30), [b"never seen"])

    for file in tmp_path.glob("second-*"):
        file.unlink()
    for do in (other.open, other.progress):
        with pytest.raises(DataError, match="it is not there"):
            do()
    assert broker.committed(topic, topic) == [20]
    assert sorted(everything_in(broker, wide, 2)) == [b"a", b"b"]


def test_a_reader_that_has_not_all_parts_keeps_no_state(broker: Broker, wide: str, tmp_path: Path) -> None:
    write(broker, wide, numbers(0, 40))
    target = broker.create_topic(f"{wide}-target")
    sink = KafkaTransactionalSink(servers=broker.servers, topic=target, identity=wide, state=tmp_path)
    with (
        closing(source(broker, wide).open({})) as reader,
        closing(source(broker, wide).open({})) as another,
        closing(sink.open()) as writer,
    ):
        lost: set[str] = set()
        while len(lost) != 2:
            read_until(reader, lambda _batches: True) or reader.read(10, 0.1)
            another.read(10, 0.1)
            lost |= set(reader.lost())
        held = next(part for part in (f"{wide}/{number}" for number in range(4)) if reader.holds([part]))
        with pytest.raises(TransactionLost, match="Not all of the parts") as told:
            writer.commit(stands_at(held, 1), {"source": reader})
        assert isinstance(told.value.__cause__, PartsLost)
    assert broker.committed(wide, wide, 4) == [-1001] * 4


def test_what_does_not_come_from_kafka_is_there_once_too(broker: Broker, topic: str, tmp_path: Path) -> None:
    sink = KafkaTransactionalSink(servers=broker.servers, topic=topic, identity=topic, state=tmp_path)
    for _ in range(2):
        Stream([b"1", b"2"], name="list").to(sink).run()
    assert everything_in(broker, topic, 2) == [b"1", b"2"]
