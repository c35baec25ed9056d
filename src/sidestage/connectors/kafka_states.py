"""The state of windows and joins beside Kafka's transactions: files, one of which is committed.

A transaction may carry offsets of several groups, and each offset a text of its own. A group that nobody is a
member of, ``IDENTITY.state``, holds the name of the file to which the transaction belongs.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink
from sidestage.connectors.kafka_connect import SECONDS, require_topics
from sidestage.connectors.kafka_faults import LOGGER, class_of, concerns_us, error_of, explain
from sidestage.connectors.kafka_reader import KafkaReader, place_of
from sidestage.connectors.kafka_versions import ANEW, Version, Versions
from sidestage.errors import DataError
from sidestage.stream.contract import Position, Positions, Progress

_AGAIN_SECONDS = 0.2


class _Mark(msgspec.Struct, frozen=True):
    """What is kept with the offsets of a source: whose state counts what lies before them."""

    identity: str


class KafkaStates:
    """Those of one writer. Used by one thread at a time."""

    def __init__(self, sink: KafkaTransactionalSink, folder: Path) -> None:
        self._sink = sink
        self._group = f"{sink.identity}.state"
        self._doing = f"Asking for {self._group}, the state of what is written to {sink.name},"
        self._mark = msgspec.json.encode(_Mark(sink.identity)).decode()
        self._versions = Versions(folder, sink.identity)
        self._problem: ConnectorError | None = None
        self._checked: dict[str, Any] = {}
        self.membership: Any = None
        """What the broker is told of the group of states."""

    def begin(self) -> Progress:
        """Return how far the stream has come, when nobody else can commit.

        Raises DataError, ConnectorError.
        """
        return self._versions.begin(self._committed())

    def progress(self) -> Progress:
        """Return the same while somebody may commit. Raises DataError, ConnectorError."""
        committed = self._committed()
        while True:
            try:
                return self._versions.load(committed)
            except DataError:
                before, committed = committed, self._committed()
                if before == committed:  # else it was removed, for there is a later one
                    raise

    def write(self, progress: Progress) -> Version:
        """Write a version that is to be committed. Raises OSError."""
        return self._versions.write(progress)

    def place_of(self, version: Version) -> TopicPartition:
        """Return the offset that says, once it is committed, which version counts."""
        return TopicPartition(self._sink.topic, 0, version.count, msgspec.json.encode(version).decode())

    def note_committed(self, version: Version) -> None:
        """Go on from a version that was committed."""
        self._versions.note_committed(version)

    def marked(self, positions: Positions) -> list[TopicPartition]:
        """Return positions as offsets that say whose state counts what lies before them."""
        places = [place_of(part, int(position)) for part, position in positions.items()]
        return [TopicPartition(at.topic, at.partition, at.offset, self._mark) for at in places]

    def require_whole(
        self, source: str, reader: KafkaReader[Any], membership: Any, known: Mapping[str, Position]
    ) -> None:
        """See that a reader has all parts, where our state left them; the group is asked if it has changed.

        ``membership`` is the reader's, ``known`` where the state says that parts stand. Raises PartsLost if
        others read some of them, ConnectorError, and DataError if the state is not that of the parts.
        """
        if self._checked.get(source) == membership:
            return
        try:
            stands = reader.ask_group()
        except KafkaException as error:
            raise explain(error, self._doing) from error
        if not reader.holds(stands):
            raise PartsLost(
                f"Not all of the parts {', '.join(sorted(stands))} are read here: others of the group do.",
                hint="A state belongs to all parts, so with state= a group has one member that reads.",
                failure_class="stale",
            )
        for part, place in stands.items():
            self._require_ours(source, part, place, known.get(part))
        self._checked[source] = membership

    def _require_ours(self, source: str, part: str, place: TopicPartition, known: Position | None) -> None:
        owner, ours = _owner(place), self._sink.identity
        offset = f"offset {place.offset}" if place.offset >= 0 else "no offset"
        stands = f"the group has committed {offset} of {part}"
        if owner is not None and owner != ours:
            problem = f"{stands}, up to which {owner!r} has counted"
        elif known is None and owner is not None:
            problem = f"{stands}, but the state holds nothing of it: it is lost, or the source was renamed"
        elif known is not None and place.offset != known:
            problem = f"{stands}, but the state holds what lies before {known}: the group was moved"
        else:
            return
        raise DataError(f"The state of {ours!r} is not that of what {source!r} reads: {problem}.", hint=ANEW)

    def _committed(self) -> Version | None:
        """Return the version that is committed. Waits for the broker as long as the sink would."""
        until = time.monotonic() + self._sink.patience
        given = {
            **self._sink.settings,
            "bootstrap.servers": self._sink.servers,
            "group.id": self._group,
            "isolation.level": "read_committed",  # wait for what is being committed
            "error_cb": self._heard,
            "log_level": 0,  # settings of producers, which a consumer would complain of
        }
        with closing(Consumer(given, logger=LOGGER)) as asker:
            require_topics(asker, (self._sink.topic,), self._doing, self._take_problem)
            self.membership = asker.consumer_group_metadata()
            while True:
                try:
                    return self._version(_committed(asker, TopicPartition(self._sink.topic, 0)))
                except KafkaException as error:
                    said = error_of(error)
                    asker.poll(_AGAIN_SECONDS)
                    is_away = said is None or class_of(said) == "transient"
                    if self._problem is not None or not is_away or time.monotonic() > until:
                        raise self._take_problem() or explain(error, self._doing) from error

    def _version(self, place: TopicPartition) -> Version | None:
        if place.offset < 0:
            return None
        try:
            return msgspec.json.decode(place.metadata or "", type=Version)
        except msgspec.DecodeError as error:
            raise DataError(
                f"The group {self._group} holds {place.metadata!r}, which names no state.",
                hint=f"Somebody has moved its offsets, which nobody should. {ANEW}",
            ) from error

    def _heard(self, error: Any) -> None:
        if concerns_us(error):
            self._problem = explain(error, self._doing)

    def _take_problem(self) -> ConnectorError | None:
        problem, self._problem = self._problem, None
        return problem


def _committed(asker: Consumer, place: TopicPartition) -> TopicPartition:
    """Return what is committed of a part. Raises KafkaException."""
    found = asker.committed([place], SECONDS)[0]
    if found.error is not None:
        raise KafkaException(found.error)
    return found


def _owner(place: TopicPartition) -> str | None:
    """Return whose state counts what lies before an offset, if anybody's does."""
    try:
        return msgspec.json.decode(place.metadata or "", type=_Mark).identity
    except msgspec.DecodeError:  # of a client that keeps something else there, or nothing
        return None
