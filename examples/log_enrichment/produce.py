"""Write log events into a topic.

Usage: python produce.py --servers localhost:9092 --topic logs --events 100000 [--first 0]
"""

import argparse

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from events import lines


def produce(servers: str, topic: str, first: int, count: int) -> None:
    """Write events ``first`` to ``first + count``; return when the broker has all of them."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 500_000,
        }
    )
    for line in lines(first, count):
        while True:
            try:
                producer.produce(topic, line)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def create(servers: str, *topics: str, partitions: int = 4) -> None:
    """Create topics that do not exist."""
    admin = AdminClient({"bootstrap.servers": servers})
    there = admin.list_topics(timeout=10).topics
    missing = [NewTopic(topic, partitions, 1) for topic in topics if topic not in there]
    for future in admin.create_topics(missing).values() if missing else ():
        future.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", default="localhost:9092")
    parser.add_argument("--topic", default="logs")
    parser.add_argument("--target", default="enriched")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    create(given.servers, given.topic, given.target)
    produce(given.servers, given.topic, given.first, given.events)
