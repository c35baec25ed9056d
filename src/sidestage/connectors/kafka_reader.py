"""Read topics as a member of a group: batches by part, parts that come and go, commits that are asked for."""

import contextlib
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as Raw

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.kafka import KafkaSource, part_of
from sidestage.connectors.kafka_connect import require_topics
from sidestage.connectors.kafka_faults import (
    FAILURES,
    LOGGER,
    class_of,
    concerns_us,
    error_of,
    explain,
    is_missing_offset,
)
from sidestage.stream.contract import Batch, Positions

T = TypeVar("T")

KEEP_SECONDS = 1.0
PAUSE_FROM = 5
ANSWER_SECONDS = 10.0
CLOSE_TRIES, CLOSE_SECONDS = 50, 0.1


class KafkaReader(Generic[T]):
    """A member of a group. One thread reads, commits and closes; ``lag`` may be called by any.

    While nobody reads, because what comes after is full, a thread of its own stays in touch with the group:
    every ``keep`` seconds it serves what the broker wants, takes at most a handful of messages, which are
    what is read next, and then pauses the parts until somebody reads again. An outage of the broker is
    waited for: nothing is read meanwhile, and commits are sent again afterwards.
    """

    def __init__(self, source: KafkaSource[T], resume: Positions, *, keep: float = KEEP_SECONDS) -> None:
        self._source = source
        self._one_topic = source.topics[0] if len(source.topics) == 1 else None
        self._resume = {part: int(position) for part, position in resume.items()}
        self._placed: set[str] = set()
        self._parts: set[str] = set()
        self._lost: set[str] = set()
        self._waiting: list[Batch] = []
        self._wanted: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._problem: ConnectorError | None = None
        self._paused = False
        self._asked = False
        self._resend = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._stopped = False
        self._is_bound = False
        self._consumer = Consumer(self._settings(), logger=LOGGER)
        try:
            require_topics(self._consumer, source.topics, f"Reading {source.name}", self._take_problem)
            self._consumer.subscribe(
                list(source.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._taken
            )
        except BaseException:
            self._consumer.close()
            raise
        self._keeper = threading.Thread(target=self._keep, args=(keep,), name=source.name, daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """Read nothing more: what is not committed comes again."""
        self._stopped = True

    def read(self, limit: int, wait: float) -> Sequence[Batch] | None:
        """Return what is there, at most ``limit`` items, or what was taken while nobody read.

        Waits up to ``wait`` seconds if nothing is there. None once it was told to stop. Batches never come
        together with the news that parts were lost: what is lost is asked for between. Raises ConnectorError.
        """
        if self._stopped:
            return None
        self._asked = True
        with self._lock:
            if not self._waiting:
                self._raise_problem()
                lost = len(self._lost)
                self._waiting = self._batches(self._messages(limit, wait))
                if len(self._lost) > lost:
                    return ()
            batches, self._waiting = self._waiting, []
            self._asked = True
        return batches

    def commit(self, positions: Positions) -> None:
        """Have the group begin at these positions next time; those of parts that were lost are dropped.

        Returns at once; a commit that the broker could not take is sent again. Raises ConnectorError if it
        refuses us. What transactions have committed is not committed again, which could come too late.
        """
        with self._lock:
            for part, position in positions.items():
                if part in self._parts and part not in self._lost and not self._is_bound:
                    self._wanted[part] = int(position)
            self._send_commits()
            self._raise_problem()

    def lost(self) -> Collection[str]:
        """Return the parts that were taken away since this was last asked: nothing of them is committed."""
        if not self._lost:
            return ()
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def lag(self, seconds: float = 2.0) -> Mapping[str, int]:
        """Return, for each part held, how many offsets lie behind what is dealt with.

        Asks the broker, up to ``seconds`` for a part; what it cannot tell is left out. A transaction's end
        takes an offset of its own, so that a topic written in transactions may never show 0.
        """
        behind = {}
        for part, done in list(self._done.items()):
            try:
                ends = self._consumer.get_watermark_offsets(place_of(part), timeout=seconds)
            except (KafkaException, RuntimeError):  # away, or closed meanwhile
                continue
            if ends is not None:
                behind[part] = max(0, ends[1] - max(done, ends[0]))
        return behind

    def close(self) -> None:
        """Send what is to be committed, for a few seconds if the broker is away, and leave the group."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._keeper.join()
        with self._lock:
            self._pause()
            for _ in range(CLOSE_TRIES):
                if not self._wanted:
                    break
                self._send_commits()
                with contextlib.suppress(*FAILURES):
                    self._consumer.consume(1, CLOSE_SECONDS)
            self._consumer.close()
            self._done.clear()

    def holds(self, parts: Iterable[str]) -> bool:
        """Whether all these parts are ours, and were since ``lost`` was last asked. Any thread may ask."""
        ours, lost = self._parts, self._lost
        return all(part in ours and part not in lost for part in parts)

    def membership(self) -> Any:
        """Return, for a transaction, what tells the broker that we are still of the group."""
        return self._consumer.consumer_group_metadata()

    def ask_group(self) -> dict[str, TopicPartition]:
        """Return what the group has committed of all parts, also those of others. Raises KafkaException."""
        ask = self._consumer.list_topics
        found = [ask(topic, ANSWER_SECONDS).topics[topic] for topic in self._source.topics]
        places = [TopicPartition(str(each.topic), number) for each in found for number in each.partitions]
        committed = self._consumer.committed(places, ANSWER_SECONDS)
        return {part_of(place.topic, place.partition): place for place in committed}

    def note_committed(self, positions: Positions) -> None:
        """Note that a transaction, perhaps of another thread, has committed these positions."""
        self._is_bound = True
        for part, position in positions.items():
            if part in self._parts:
                self._done[part] = int(position)

    def _settings(self) -> dict[str, Any]:
        return {
            # A client that has enough asks again a second later: long after a fast stream took it all.
            "fetch.queue.backoff.ms": 10,
            **self._source.settings,
            "bootstrap.servers": self._source.servers,
            "group.id": self._source.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # What a client does by itself, going to the beginning or end of the part, would hide a gap.
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "error_cb": self._heard,
            "on_commit": self._committed,
        }

    def _messages(self, limit: int, wait: float) -> list[Raw]:
        """Return what is there. The client would wait for ``limit`` messages, if it was asked in one call."""
        consumer = self._consumer
        try:
            if limit <= 0:
                self._pause()
                return consumer.consume(1, wait)
            if self._paused:
                consumer.resume([place_of(part) for part in self._parts])
                self._paused = False
            if self._resend:
                self._send_commits()
            found = consumer.consume(limit, 0)
            if not found and wait > 0:
                found = consumer.consume(1, wait)
                if found and limit > 1:
                    found += consumer.consume(limit - 1, 0)
        except FAILURES as error:
            raise explain(error, f"Reading {self._source.name}") from error
        return found

    def _batches(self, messages: list[Raw]) -> list[Batch]:
        """Return messages as batches by part. What is not a message is dealt with, or is a problem."""
        if any(each.error() is not None for each in messages):
            for each in messages:
                self._heed(each)
            messages = [each for each in messages if each.error() is None]
        if not messages:
            return []
        by_part: dict[Any, list[Raw]] = {}
        if self._one_topic is None:
            for each in messages:
                by_part.setdefault((each.topic(), each.partition()), []).append(each)
        else:
            for each in messages:
                number = each.partition()
                if number in by_part:
                    by_part[number].append(each)
                else:
                    by_part[number] = [each]
        make = self._source.items
        batches = []
        for read in by_part.values():
            part = part_of(str(read[0].topic()), read[0].partition() or 0)
            first, last = read[0].offset() or 0, read[-1].offset() or 0
            if part in self._parts:
                self._done.setdefault(part, first)
                batches.append(Batch(part, first, make(read), last + 1))
        return batches

    def _heed(self, message: Raw) -> None:
        error = message.error()
        if error is None:
            return
        if is_missing_offset(error):
            self._begin(message, error)
        elif concerns_us(error) or class_of(error) == "bug":
            self._problem = explain(error, f"Reading {self._source.name}")

    def _begin(self, message: Raw, error: KafkaError) -> None:
        """Begin a part of which nothing is committed; refuse to jump over what is gone."""
        place = TopicPartition(str(message.topic()), message.partition() or 0)
        part = part_of(place.topic, place.partition)
        doing = f"Reading {part} at offset {message.offset()}"
        try:
            committed = self._consumer.committed([place], ANSWER_SECONDS)[0].offset
            if committed >= 0 or part in self._placed:
                self._problem = ConnectorError(
                    f"{doing} failed: the topic does not hold it any more ({error.str()}).",
                    hint="What lies between is lost. Move the group's position, or read with a new group.",
                    failure_class="stale",
                )
                return
            place.offset = OFFSET_BEGINNING if self._source.start == "earliest" else OFFSET_END
            self._consumer.incremental_unassign([place])  # a part without a position cannot be moved
            self._consumer.incremental_assign([place])
        except KafkaException as failed:
            self._problem = explain(failed, doing)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            part = part_of(place.topic, place.partition)
            self._parts.add(part)
            if part in self._resume:
                place.offset = self._resume.pop(part)
                self._placed.add(part)
                self._done[part] = place.offset
        consumer.incremental_assign(places)
        if self._paused and places:
            consumer.pause(places)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        parts = {part_of(place.topic, place.partition) for place in places}
        offsets = [place_of(part, self._wanted[part]) for part in parts & self._wanted.keys()]
        if offsets and not self._closing.is_set():
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:  # who reads the part next begins earlier
                LOGGER.warning("%s", explain(error, f"Committing {self._source.name}"))
        self._lose(parts)

    def _taken(self, _consumer: Consumer, places: list[TopicPartition]) -> None:
        self._lose({part_of(place.topic, place.partition) for place in places})

    def _lose(self, parts: set[str]) -> None:
        self._parts -= parts
        self._placed -= parts
        self._lost |= parts
        self._waiting = [batch for batch in self._waiting if batch.part not in parts]
        for part in parts:
            self._wanted.pop(part, None)
            self._done.pop(part, None)

    def _send_commits(self) -> None:
        self._resend = False
        if self._sent or not self._wanted:
            return
        try:
            offsets = [place_of(part, position) for part, position in self._wanted.items()]
            self._consumer.commit(offsets=offsets, asynchronous=True)
            self._sent = dict(self._wanted)
        except KafkaException as error:
            self._commit_failed(error_of(error))

    def _committed(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self._sent = {}
        for place in places:
            part = part_of(place.topic, place.partition)
            if error is None and place.error is None:
                if self._wanted.get(part) == place.offset:
                    del self._wanted[part]
                if part in self._parts:
                    self._done[part] = place.offset
            else:
                self._commit_failed(place.error or error)

    def _commit_failed(self, error: KafkaError | None) -> None:
        """Keep what was to be committed, which the keeper has sent again, if the broker only was away."""
        if error is not None and class_of(error) in ("authentication", "bug"):
            self._problem = explain(error, f"Committing {self._source.name}")

    def _heard(self, error: KafkaError) -> None:
        if concerns_us(error):
            self._problem = explain(error, f"Reading {self._source.name}")

    def _take_problem(self) -> ConnectorError | None:
        problem, self._problem = self._problem, None
        return problem

    def _raise_problem(self) -> None:
        problem = self._take_problem()
        if problem is not None:
            raise problem

    def _keep(self, seconds: float) -> None:
        """Serve the group while nobody reads: who does not ask for long is thrown out of it."""
        while not self._closing.wait(seconds):
            self._resend = True
            if self._asked:
                self._asked = False
                continue
            with self._lock:
                if not self._asked and not self._closing.is_set():
                    self._serve()

    def _serve(self) -> None:
        try:
            if len(self._waiting) >= PAUSE_FROM:
                self._pause()
            self._send_commits()
            self._waiting += self._batches(self._consumer.consume(1, 0))
        except FAILURES as error:
            self._problem = explain(error, f"Reading {self._source.name}")
        except Exception as error:  # noqa: BLE001 - it is the reading thread's, which made the items
            self._problem = ConnectorError(
                f"Reading {self._source.name} failed: {error!r}", failure_class="bug"
            )

    def _pause(self) -> None:
        if not self._paused:
            self._consumer.pause([place_of(part) for part in self._parts])
            self._paused = True


def place_of(part: str, offset: int = OFFSET_INVALID) -> TopicPartition:
    """Return a part, and perhaps a position in it, as the client names them."""
    topic, _, number = part.rpartition("/")
    return TopicPartition(topic, int(number), offset)
