"""Connect: reach a broker that accepts us and has the topics, or say why not."""

from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is public

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.kafka_faults import explain

TRIES, SECONDS = 10, 1.0


def require_topics(
    client: Consumer | AdminClient,
    topics: Iterable[str],
    doing: str,
    problem: Callable[[], ConnectorError | None],
) -> None:
    """Return once the broker has told of all topics, trying for ten seconds.

    ``problem`` returns what the client told of in passing. Raises ConnectorError if no broker can be reached,
    refuses us, or has no such topic.
    """
    for topic in topics:
        for tried in range(1, TRIES + 1):
            try:
                found = client.list_topics(topic, timeout=SECONDS).topics[topic].error
            except KafkaException as error:
                client.poll(0)  # a client that is refused says so here, and tries on
                refused = problem()
                if refused is not None:
                    raise refused from error
                if tried == TRIES:
                    raise explain(error, doing) from error
            else:
                if found is not None:
                    raise explain(found, f"{doing}: the topic {topic}")
                break


def largest_message(client: AdminClient, topic: str) -> int | None:
    """Return how many bytes a topic accepts in one batch; None if it is not for us to know."""
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        told = client.describe_configs([asked], request_timeout=TRIES * SECONDS)[asked].result()
    except KafkaException:
        return None
    return int(told["max.message.bytes"].value)
