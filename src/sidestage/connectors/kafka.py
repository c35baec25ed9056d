"""Kafka topics as sources and sinks of a stream; opening one needs the extra ``kafka``.

A part is a partition of a topic, ``topic/3``; its positions are offsets. Several readers of one group share
the partitions of their topics, and a part may be taken from one and given to another at any moment. What is
committed is the engine's decision alone: nothing is stored or committed by the client on its own.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.stream.contract import Positions, Progress, Reader

if TYPE_CHECKING:
    import confluent_kafka

    from sidestage.connectors.kafka_transactions import KafkaTransactionalWriter
    from sidestage.connectors.kafka_writer import KafkaWriter

T = TypeVar("T")
Setting = str | int | float | bool
Header = tuple[str, str | bytes | None]

_OURS = frozenset(
    {
        *("bootstrap.servers", "group.id", "transactional.id", "enable.auto.commit", "auto.offset.reset"),
        *("enable.auto.offset.store", "partition.assignment.strategy", "enable.idempotence", "acks"),
        *("message.timeout.ms", "delivery.timeout.ms", "delivery.report.only.error", "group.protocol"),
        *(
            "metadata.broker.list",
            "request.required.acks",
            "allow.auto.create.topics",
            "enable.partition.eof",
        ),
    }
)
"""Settings of the client on which the promises of this module rest."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message: ``time`` is in milliseconds since 1970 (UTC), None where the topic keeps none."""

    value: bytes | None
    key: bytes | None = None
    time: int | None = None
    headers: tuple[Header, ...] = ()


def values(read: "Sequence[confluent_kafka.Message]") -> list[bytes | None]:
    """Make items of messages: their values only, which is cheapest. A tombstone is None."""
    return [each.value() for each in read]


def messages(read: "Sequence[confluent_kafka.Message]") -> list[Message]:
    """Make items of messages: all that they carry."""
    made = []
    for each in read:
        kind, time = each.timestamp()
        headers: Any = each.headers()
        kept = tuple(headers) if headers else ()
        made.append(Message(each.value(), each.key(), time if kind else None, kept))
    return made


class KafkaSource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Messages of topics, shared among all readers of ``group``.

    ``items`` makes items of messages, a list at a time: ``values``, ``messages``, or a function of your own,
    which must make as many and must not raise: what can fail on one item belongs into a stage.
    ``start`` is where a part begins of which the group has committed nothing. ``settings`` go to the client
    (librdkafka's names), such as those of SASL and TLS, or ``queued.max.messages.kbytes``, which bounds what
    is fetched ahead (64 MB). Raises DefinitionError for a setting on which promises rest.
    """

    servers: str
    topics: tuple[str, ...]
    group: str
    items: "Callable[[Sequence[confluent_kafka.Message]], list[T]]"
    start: Literal["earliest", "latest"] = "earliest"
    settings: Mapping[str, Setting] = {}

    def __post_init__(self) -> None:
        if not self.topics or isinstance(self.topics, str) or not self.group:
            raise DefinitionError(
                f"A Kafka source needs topics and a group, not {self.topics!r} and {self.group!r}.",
                hint='Say topics=("orders",) and group="billing".',
            )
        _check(self.settings)

    def __repr__(self) -> str:
        return f"KafkaSource({self.name!r})"  # settings may hold a password

    @property
    def name(self) -> str:
        """What people call it."""
        return f"kafka:{','.join(self.topics)}"

    def open(self, resume: Positions) -> Reader[T]:
        """Join the group. A part begins at its position in ``resume``, else at what the group committed.

        Raises ConnectorError if the broker cannot be reached, refuses us, or has no such topic.
        """
        _require_client()
        from sidestage.connectors.kafka_reader import KafkaReader  # noqa: PLC0415 - needs an extra

        return KafkaReader(self, resume)


class KafkaSink(msgspec.Struct, frozen=True, kw_only=True):
    """A topic that messages, or mere values, are written to, each once even if the client sends it again.

    ``patience`` is for how many seconds a message is tried, an outage of the broker included.
    """

    servers: str
    topic: str
    patience: float = 120.0
    settings: Mapping[str, Setting] = {}

    def __post_init__(self) -> None:
        _check(self.settings)

    def __repr__(self) -> str:
        return f"KafkaSink({self.name!r})"  # settings may hold a password

    @property
    def name(self) -> str:
        """What people call it."""
        return f"kafka:{self.topic}"

    def open(self) -> "KafkaWriter":
        """Connect. Raises ConnectorError if no broker is reached, or it refuses us or has no such topic."""
        _require_client()
        from sidestage.connectors.kafka_writer import KafkaWriter  # noqa: PLC0415 - needs an extra

        return KafkaWriter(self)


class KafkaTransactionalSink(KafkaSink, frozen=True, kw_only=True):
    """A topic written to in transactions that carry the positions of Kafka sources: exactly once.

    ``identity`` names this writer across restarts, and one process at a time: opening it ends what an
    earlier one left unfinished and fences it off. What is written can be read, by those who read committed
    messages only, once a second or as ``Settings(commit_every=)`` says. A transaction lasts for ``patience``
    at most.

    With ``state``, a folder that is there wherever this runs, it keeps the state of windows and joins, too,
    and the positions of sources that are not in Kafka: in files, each of which counts from the moment at
    which a transaction is committed that names it. One reader must have all parts of a topic then.
    """

    identity: str
    state: Path | str | None = None

    @property
    def keeps_states(self) -> bool:
        """Whether it keeps the state of windows and joins."""
        return self.state is not None

    def open(self) -> "KafkaTransactionalWriter":
        """Connect, and end what an earlier writer of this identity left.

        Raises ConnectorError; DataError if the state that is committed cannot be read.
        """
        _require_client()
        from sidestage.connectors.kafka_transactions import (  # noqa: PLC0415 - needs an extra
            KafkaTransactionalWriter,
        )

        return KafkaTransactionalWriter(self)

    def progress(self) -> Progress:
        """Return what the state holds that was committed last. Raises ConnectorError, DataError.

        Without ``state`` nothing is known: the group of the source keeps how far it has come.
        """
        if self.state is None:
            return Progress(0, {})
        _require_client()
        from sidestage.connectors.kafka_states import KafkaStates  # noqa: PLC0415 - needs an extra

        return KafkaStates(self, Path(self.state)).progress()


def part_of(topic: str, partition: int) -> str:
    """Return the name of a part; topics have no slash in their names."""
    return f"{topic}/{partition}"


def _check(settings: Mapping[str, Setting]) -> None:
    taken = sorted(_OURS & settings.keys())
    if taken:
        raise DefinitionError(
            f"Kafka's setting {taken[0]} cannot be given.", hint="What Sidestage promises rests on it."
        )


def _require_client() -> None:
    try:
        import confluent_kafka  # noqa: F401, PLC0415 - comes with an extra
    except ImportError as error:
        raise ConfigurationError(
            "Kafka needs the package confluent-kafka.", hint="pip install 'sidestage[kafka]'"
        ) from error
