"""Kafka as source and sink, on a real broker: nothing lost, nothing committed that was not asked for."""

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from tests.servers.kafka import PASSWORD, USER, Broker

from sidestage.connectors import kafka_writer
from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import (
    KafkaSink,
    KafkaSource,
    KafkaTransactionalSink,
    Message,
    messages,
    values,
)
from sidestage.connectors.kafka_reader import PAUSE_FROM, KafkaReader
from sidestage.stream.contract import Batch, Progress, Refused, TransactionLost
from sidestage.stream.stream import Stream

SECONDS = 180.0
QUICK = {"heartbeat.interval.ms": 100}
"""A member hears at once of another one that comes or goes."""


def source(broker: Broker, *topics: str, **more: Any) -> KafkaSource[bytes | None]:
    settings = {**QUICK, **more.pop("settings", {})}
    group = more.pop("group", topics[0])
    return KafkaSource(
        servers=broker.servers, topics=topics, group=group, items=values, settings=settings, **more
    )


def write(broker: Broker, topic: str, items: Sequence[Message | bytes]) -> None:
    with closing(KafkaSink(servers=broker.servers, topic=topic).open()) as writer:
        writer.write(items)


def numbers(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


def read_until(reader: KafkaReader[Any], enough: Callable[[list[Batch]], bool]) -> list[Batch]:
    batches: list[Batch] = []
    deadline = time.monotonic() + SECONDS
    while not enough(batches):
        assert time.monotonic() < deadline, f"only {sum(len(each.items) for each in batches)} items came"
        batches += reader.read(1000, 0.1)
    return batches


def read_items(reader: KafkaReader[Any], count: int) -> list[Any]:
    return items_of(read_until(reader, lambda batches: len(items_of(batches)) >= count))


def items_of(batches: Sequence[Batch]) -> list[Any]:
    return [item for each in batches for item in each.items]


def ends_of(batches: Sequence[Batch]) -> dict[str, int]:
    return {each.part: int(each.next) for each in batches}


def everything_in(broker: Broker, topic: str, count: int, *, committed_only: bool = True) -> list[Any]:
    """Read a topic with a group of its own to its end, of which ``count`` items are expected."""
    level = "read_committed" if committed_only else "read_uncommitted"
    group = f"{topic}-{level}-{time.monotonic_ns()}"
    with closing(source(broker, topic, group=group, settings={"isolation.level": level}).open({})) as reader:
        found = read_items(reader, count)
        return found + items_of(reader.read(1000, 0.5))


def test_what_is_written_is_read(broker, topic):
    sent = [
        Message(b"1", b"a", 1_700_000_000_000, (("trace", b"x"), ("none", None))),
        Message(None, b"a", 1_700_000_000_001),
        Message(b"", None, 1),
    ]
    write(broker, topic, sent)
    write(broker, topic, [b"plain"])
    with closing(
        KafkaSource(servers=broker.servers, topics=(topic,), group="g", items=messages).open({})
    ) as reader:
        batches = read_until(reader, lambda batches: len(items_of(batches)) == 4)
    assert items_of(batches)[:3] == sent
    assert items_of(batches)[3].value == b"plain"
    assert (batches[0].part, batches[0].first, batches[-1].next) == (f"{topic}/0", 0, 4)


def test_a_key_stays_in_its_part(broker, wide):
    write(broker, wide, [Message(b"%d" % (n % 7), b"%d" % (n % 7)) for n in range(700)])
    with closing(source(broker, wide).open({})) as reader:
        batches = read_until(reader, lambda batches: len(items_of(batches)) == 700)
    parts = {(item, each.part) for each in batches for item in each.items}
    assert len(parts) == 7
    assert all(each.next == each.first + len(each.items) for each in batches)


def test_reading_takes_what_is_there_and_does_not_wait_for_more(broker, topic):
    with closing(source(broker, topic).open({})) as reader:
        write(broker, topic, numbers(0, 10))
        assert read_items(reader, 10) == numbers(0, 10)
        write(broker, topic, numbers(10, 20))
        begun = time.monotonic()
        found = items_of(reader.read(1000, 2 * SECONDS))
        assert time.monotonic() - begun < SECONDS
        assert found
        assert found[0] == b"10"


def test_a_group_goes_on_where_it_was_told_to_and_nowhere_else(broker, topic):
    write(broker, topic, numbers(0, 100))
    part = f"{topic}/0"
    with closing(source(broker, topic).open({})) as reader:
        assert len(read_items(reader, 100)) == 100
    assert broker.committed(topic, topic) == [-1001]
    with closing(source(broker, topic).open({})) as reader:
        assert len(read_items(reader, 100)) == 100
        reader.commit({part: 40})
    assert broker.committed(topic, topic) == [40]
    with closing(source(broker, topic).open({})) as reader:
        assert read_items(reader, 60) == numbers(40, 100)
        assert reader.lag() == {part: 60}
        reader.commit({part: 100})
        deadline = time.monotonic() + SECONDS
        while reader.lag() != {part: 0}:
            assert time.monotonic() < deadline
            assert items_of(reader.read(10, 0.1)) == []
    with closing(source(broker, topic).open({part: 90})) as reader:
        assert read_items(reader, 10) == numbers(90, 100)


def test_a_new_group_may_begin_at_the_end(broker, topic):
    write(broker, topic, numbers(0, 10))
    with closing(source(broker, topic, start="latest").open({})) as reader:
        deadline = time.monotonic() + SECONDS
        found: list[Any] = []
        for number in itertools.count(10):
            assert time.monotonic() < deadline
            write(broker, topic, [b"%d" % number])
            found += items_of(reader.read(100, 0.1))
            if found:
                break
    assert int(found[0]) >= 10


def test_a_stream_commits_what_has_arrived(broker, topic, wide):
    write(broker, topic, numbers(0, 500))
    sink = KafkaSink(servers=broker.servers, topic=wide)
    engine = Stream(source(broker, topic)).map(lambda item: b"got " + item).to(sink).engine()
    engine.start()
    try:
        found = everything_in(broker, wide, 500)
        engine.drain()
        engine.join()
    finally:
        engine.cancel()
        engine.wait()
    assert sorted(found) == sorted(b"got " + item for item in numbers(0, 500))
    assert broker.committed(topic, topic) == [500]


def test_parts_go_to_another_reader_and_nothing_is_lost(broker, wide):
    total = 4000
    write(broker, wide, [Message(b"%d" % n, b"%d" % n) for n in range(total)])
    with closing(source(broker, wide).open({})) as first:
        mine = read_until(first, lambda batches: len(items_of(batches)) == total)
        # Half of each part is done when the other one comes.
        half = {part: end // 2 for part, end in ends_of(mine).items()}
        first.commit(half)
        with closing(source(broker, wide).open({})) as second:
            lost: set[str] = set()
            theirs: list[Batch] = []
            deadline = time.monotonic() + SECONDS
            wanted = total
            while len(lost) < 2 or sum(map(len, (each.items for each in theirs))) < wanted:
                assert time.monotonic() < deadline
                assert items_of(first.read(1000, 0.05)) == []
                lost |= set(first.lost())
                theirs += second.read(1000, 0.05)
                wanted = sum(ends_of(mine)[part] - half[part] for part in lost)
            assert len(lost) == 2
            # What comes of a part that was lost is not committed, even if it was dealt with.
            first.commit(ends_of(mine))
            first.read(10, 0.5)
        kept = ends_of(mine).keys() - lost
        assert first.holds(kept)
    assert {each.part for each in theirs} == lost
    again = Counter((each.part, int(each.first) + n) for each in theirs for n in range(len(each.items)))
    assert set(again.values()) == {1}
    assert again.keys() == {(part, n) for part in lost for n in range(half[part], ends_of(mine)[part])}
    places = dict(zip([f"{wide}/{n}" for n in range(4)], broker.committed(wide, wide, 4), strict=True))
    assert places == {part: ends_of(mine)[part] if part in kept else half[part] for part in places}


def test_who_cannot_take_more_stays_in_the_group_and_shares(broker, wide):
    total = 2000
    write(broker, wide, [Message(b"%d" % n, b"%d" % n) for n in range(total)])
    eager = {"session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
    with closing(KafkaReader(source(broker, wide, settings=eager), {}, keep=0.1)) as full:
        mine = read_until(full, lambda batches: len(items_of(batches)) >= 1)
        with closing(source(broker, wide).open({})) as other:
            theirs: list[Batch] = []
            end = time.monotonic() + 9.0  # longer than the group waits for one that does not ask
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < end or len({each.part for each in theirs}) < 2:
                assert time.monotonic() < deadline
                theirs += other.read(1000, 0.1)  # "full" does not read
            assert other.lost() == ()
            lost = set(full.lost())
            assert len(lost) == 2
            taken = full.read(1000, 0.1)
            assert len(items_of(taken)) <= PAUSE_FROM
            mine += taken
            known = set(items_of(mine + theirs))
            while len(known) < total:
                assert time.monotonic() < deadline
                new = list(full.read(1000, 0.05))
                assert not {each.part for each in new} & lost
                mine += new
                theirs += other.read(1000, 0.05)
                known = set(items_of(mine + theirs))
            assert full.lost() == ()
    once = Counter(item for each in mine if each.part not in lost for item in each.items)
    assert set(once.values()) == {1}, "after a pause reading goes on exactly where it was"


def test_who_was_away_for_too_long_begins_again_at_what_is_committed(broker, topic):
    write(broker, topic, numbers(0, 100))
    eager = {"session.timeout.ms": 4000, "max.poll.interval.ms": 4000}
    with closing(KafkaReader(source(broker, topic, settings=eager), {}, keep=3600)) as frozen:
        assert len(read_items(frozen, 100)) == 100
        frozen.commit({f"{topic}/0": 30})
        deadline = time.monotonic() + SECONDS
        while broker.committed(topic, topic) != [30]:
            assert time.monotonic() < deadline
        with closing(source(broker, topic).open({})) as other:
            assert read_items(other, 70) == numbers(30, 100), "the group has given its part to somebody"
        assert read_items(frozen, 70) == numbers(30, 100)
        assert list(frozen.lost()) == [f"{topic}/0"]


def test_the_broker_is_killed_in_the_middle(broker, topic):
    total, size = 3000, 100
    sink = KafkaSink(servers=broker.servers, topic=topic)
    failed: list[BaseException] = []
    under_way = threading.Event()

    def produce() -> None:
        try:
            with closing(sink.open()) as writer:
                for first in range(0, total, size):
                    writer.write(numbers(first, first + size))
                    if first >= total // 3:
                        under_way.set()
        except BaseException as error:
            failed.append(error)
            raise

    producing = threading.Thread(target=produce)
    with closing(source(broker, topic).open({})) as reader:
        producing.start()
        assert under_way.wait(SECONDS)
        found = read_items(reader, 10)
        broker.kill()
        reader.commit({f"{topic}/0": 5})  # is sent again when the broker is back
        found += items_of(reader.read(10_000, 0.5))
        broker.start()
        found += read_items(reader, total - len(found))
        producing.join(SECONDS)
        assert found == numbers(0, total), "each once, and in order"
    assert failed == []
    assert broker.committed(topic, topic) == [5]


def test_without_a_broker_it_fails_after_a_while_and_closes_at_once(broker, topic):
    writer = KafkaSink(servers=broker.servers, topic=topic, patience=1.0).open()
    reader = source(broker, topic).open({})
    broker.kill()
    try:
        with closing(writer), pytest.raises(ConnectorError) as caught:
            writer.write([b"1", b"2"])
        assert caught.value.failure_class == "transient"
        begun = time.monotonic()
        reader.close()
        assert time.monotonic() - begun < SECONDS
    finally:
        broker.start()


@pytest.mark.parametrize("kind", ["source", "sink", "transactions"])
def test_an_unknown_topic_is_named(broker, kind):
    places = {
        "source": source(broker, "nowhere"),
        "sink": KafkaSink(servers=broker.servers, topic="nowhere"),
        "transactions": KafkaTransactionalSink(servers=broker.servers, topic="nowhere", identity="x"),
    }
    opened: Any = places[kind]
    with pytest.raises(ConnectorError, match=r"nowhere.*Unknown topic") as caught:
        opened.open({}) if kind == "source" else opened.open()
    assert caught.value.failure_class == "bug"
    assert not caught.value.transient
    assert "create it" in caught.value.hint


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_who_is_refused_is_told_so(broker, topic, password):
    login = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": password,
    }
    sink = KafkaSink(servers=broker.guarded, topic=topic, settings=login)
    origin = KafkaSource(
        servers=broker.guarded, topics=(topic,), group=topic, items=values, settings={**QUICK, **login}
    )
    if password == PASSWORD:
        with closing(sink.open()) as writer, closing(origin.open({})) as reader:
            writer.write([b"1"])
            assert read_items(reader, 1) == [b"1"]
        return
    for opening in (sink.open, lambda: origin.open({})):
        with pytest.raises(ConnectorError, match="uthentication") as caught:
            opening()
        assert caught.value.failure_class == "authentication"


@pytest.mark.parametrize("asked", [True, False])
def test_one_item_that_is_too_large_is_refused_alone(broker, request, monkeypatch, asked):
    topic = broker.create_topic(f"large-{asked}", max_message_bytes="20000")
    if not asked:  # as where we have no right to ask for the limit
        monkeypatch.setattr(kafka_writer, "largest_message", lambda *_: None)
    items = [b"%02d" % n + b"x" * (30000 if n in (3, 11) else 3000) for n in range(20)]
    with closing(KafkaSink(servers=broker.servers, topic=topic).open()) as writer:
        with pytest.raises(Refused) as caught:
            writer.write(items)
        writer.write([b"next"])
    assert sorted(caught.value.errors) == [3, 11]
    assert {error.failure_class for error in caught.value.errors.values()} == {"validation"}
    found = everything_in(broker, topic, 19)
    wanted = [item for n, item in enumerate(items) if n not in (3, 11)] + [b"next"]
    assert (found if asked else sorted(found)) == wanted


def test_what_the_topic_does_not_hold_any_more_is_not_jumped_over(broker, topic):
    write(broker, topic, numbers(0, 100))
    with closing(source(broker, topic).open({})) as reader:
        read_items(reader, 100)
        reader.commit({f"{topic}/0": 10})
    admin = AdminClient({"bootstrap.servers": broker.servers})
    for gone in admin.delete_records([TopicPartition(topic, 0, 50)]).values():
        gone.result(SECONDS)
    with (
        closing(source(broker, topic).open({})) as reader,
        pytest.raises(ConnectorError, match="offset 10 failed: the topic does not hold it") as caught,
    ):
        read_items(reader, 1)
    assert caught.value.failure_class == "stale"
    assert everything_in(broker, topic, 50) == numbers(50, 100)


def moved_to(part, position, name="source"):
    return Progress(1, {name: {part: position}})


def write_and_commit(writer, items, progress, readers):
    writer.write(items)
    writer.commit(progress, readers)


def test_a_transaction_is_seen_whole_or_not_at_all(broker, topic, wide, monkeypatch):
    write(broker, topic, numbers(0, 30))
    sink = KafkaTransactionalSink(servers=broker.servers, topic=wide, identity=topic)
    part = f"{topic}/0"
    with closing(sink.open()) as writer, closing(source(broker, topic).open({})) as reader:
        readers = {"source": reader}
        read = read_items(reader, 30)
        writer.write(read[:5])
        writer.write(read[5:10])
        assert everything_in(broker, wide, 10, committed_only=False)
        writer.commit(moved_to(part, 10), readers)
        assert broker.committed(topic, topic) == [10]
        with pytest.raises(Refused) as caught:
            writer.write([b"c", b"x" * 2_000_000, b"d"])
        assert list(caught.value.errors) == [1]
        assert broker.committed(topic, topic) == [10]
        writer.commit(moved_to(part, 20), readers)
        writer.commit(moved_to(part, 30), readers)  # also if nothing was written
        assert broker.committed(topic, topic) == [30]
        with pytest.raises(ConnectorError, match="cannot keep how far 'list'"):
            writer.commit(moved_to("0", 3, "list"), {"list": object()})
        with closing(sink.open()), pytest.raises(TransactionLost):
            write_and_commit(writer, [b"f"], moved_to(part, 31), readers)
    assert sorted(everything_in(broker, wide, 12)) == sorted([*numbers(0, 10), b"c", b"d"])


def test_a_transaction_whose_part_is_taken_away_is_lost(broker, topic, wide, monkeypatch):
    write(broker, topic, numbers(0, 10))
    sink = KafkaTransactionalSink(servers=broker.servers, topic=wide, identity=topic)
    with closing(sink.open()) as writer, closing(source(broker, topic).open({})) as reader:
        writer.write(read_items(reader, 10))
        monkeypatch.setattr(reader, "holds", lambda _parts: False)
        with pytest.raises(TransactionLost, match="taken away") as gone:
            writer.commit(moved_to(f"{topic}/0", 10), {"source": reader})
        assert isinstance(gone.value.__cause__, PartsLost)
    with closing(sink.open()) as writer:
        writer.write([b"after"])
        writer.commit(Progress(0, {}), {})
    assert everything_in(broker, wide, 1) == [b"after"]


UNTIL_LAST = """
class UntilLast(KafkaSource, frozen=True):
    def open(self, resume):
        reader = super().open(resume)
        read = reader.read
        reads = 0

        def until(limit, wait):
            nonlocal reads
            if reads > transactions:  # as many batches as transactions
                time.sleep(0.002)
                return ()
            batches = read(min(limit, 50), wait)
            reads += bool(batches)
            if batches and batches[-1].items[-1] == last.encode():
                reader.stop()
            return batches

        reader.read = until
        return reader
"""
"""Of a program: a source that ends with an item ``last``, read in as many batches as ``transactions``."""

MOVER = (
    """
import sys
import time
from sidestage.connectors import kafka_transactions
from sidestage.connectors.kafka import KafkaSource, KafkaTransactionalSink, values
from sidestage.connectors.kafka_reader import KafkaReader
from sidestage.policy.restart import Restart
from sidestage.stream import Settings, Stream

servers, origin, target, last, stop_at = sys.argv[1:]
stop_at = int(stop_at)
kafka_transactions.STEP_SECONDS = 2.0
transactions = 0
ask = KafkaReader.membership


def membership(self):
    # The items of the transaction have been written; neither they nor the positions are committed.
    global transactions
    transactions += 1
    if transactions == stop_at:
        print("in the middle", flush=True)
        sys.stdin.readline()
    return ask(self)

"""
    + UNTIL_LAST
    + """

KafkaReader.membership = membership
settings = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 100}
described = UntilLast(servers=servers, topics=(origin,), group=target, items=values, settings=settings)
sink = KafkaTransactionalSink(servers=servers, topic=target, identity=target)
often = Settings(commit_every=0.01, restart=Restart(times=30, delay=0.1, longest=1.0))
Stream(described).map(lambda item: b"moved " + item, workers=1).to(sink).run(settings=often)
print("done", flush=True)
"""
)


@contextlib.contextmanager
def mover(broker: Broker, origin: str, target: str, last: bytes, stop_at: int) -> Iterator[Any]:
    """A process that moves all items, and stops in the middle of a transaction (0: never)."""
    words = (broker.servers, origin, target, last.decode(), str(stop_at))
    with subprocess.Popen(
        [sys.executable, "-c", MOVER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(2 * SECONDS, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == ("in the middle\n" if stop_at else "done\n")
            yield process
        finally:
            late.cancel()
            process.kill()


def test_a_mover_that_is_killed_moves_each_item_once(broker, topic, wide):
    total = 1000
    write(broker, topic, numbers(0, total))
    for stop_at in (1, 4):
        with mover(broker, topic, wide, numbers(0, total)[-1], stop_at):
            pass  # killed where it stands
    with mover(broker, topic, wide, numbers(0, total)[-1], 0) as process:
        assert process.wait(SECONDS) == 0
    found = everything_in(broker, wide, total)
    assert sorted(found) == sorted(b"moved " + item for item in numbers(0, total))
    assert len(everything_in(broker, wide, total + 100, committed_only=False)) >= total + 100


def test_a_mover_whose_broker_is_killed_moves_each_item_once(broker, topic, wide):
    total = 1000
    write(broker, topic, numbers(0, total))
    with mover(broker, topic, wide, numbers(0, total)[-1], 3) as process:
        broker.kill()
        broker.start()
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        assert process.wait(SECONDS) == 0
    found = everything_in(broker, wide, total)
    assert sorted(found) == sorted(b"moved " + item for item in numbers(0, total))
