"""Log enrichment: decode, look the user's account up, write batches, each event once.

    logs -> decode -> by user into 16 -> account (cached) -> batch -> encode -> enriched

What it reads and writes is said by environment variables, so that ``sidestage stream run enrichment:flow``
needs nothing else: SERVERS, SOURCE, TARGET, GROUP; INSTANCE, a name for each process of the group; COMMIT,
the seconds between two transactions; RATE, the most events per second; DELIVERY, which may be
"at-least-once".
"""

import os
from collections.abc import Mapping, Sequence

import msgspec

from sidestage.connectors.kafka import KafkaSink, KafkaSource, KafkaTransactionalSink, values
from sidestage.stream import Cache, Flow, Found, Rate, SetAside, Settings, Stream


class Event(msgspec.Struct):
    """A log event, and what is added to it: the user's plan, and whether that may be out of date."""

    id: int
    time: int
    user: str
    service: str
    path: str
    status: int
    milliseconds: float
    plan: str = ""
    stale: bool = False


def plans(users: Sequence[str]) -> Mapping[str, str]:
    """Ask the account service for the plans of users: here a function that knows most of them."""
    return {user: "paid" if hash(user) % 2 else "free" for user in users if int(user[5:]) % 50}


def with_plan(event: Event, found: Found[str]) -> Event:
    """Put an event and what was found about its user together."""
    event.plan = found.value or "unknown"
    event.stale = found.kind == "stale"
    return event


def target(servers: str, identity: str) -> KafkaSink:
    """Return the topic that is written to: together with the positions of the source, or without."""
    topic, settings = os.environ.get("TARGET", "enriched"), {"compression.type": "lz4"}
    if os.environ.get("DELIVERY") == "at-least-once":
        return KafkaSink(servers=servers, topic=topic, settings=settings)
    return KafkaTransactionalSink(servers=servers, topic=topic, settings=settings, identity=identity)


def flow() -> Flow:
    """Return the stream."""
    servers = os.environ.get("SERVERS", "localhost:9092")
    group, instance = os.environ.get("GROUP", "enrichment"), os.environ.get("INSTANCE", "1")
    source = KafkaSource(
        servers=servers,
        topics=(os.environ.get("SOURCE", "logs"),),
        group=group,
        items=values,
        # A member that comes back under its old name gets its partitions back at once.
        settings={"group.instance.id": f"{group}-{instance}", "session.timeout.ms": 10_000},
    )
    events = Stream(source, name="logs")
    if rate := int(os.environ.get("RATE", "0")):
        events = events.limit(Rate(rate))
    return (
        events.map(msgspec.json.Decoder(Event).decode, name="decode", on_error=SetAside())
        .by_key(lambda event: event.user, into=16)
        .look_up(
            lambda event: event.user,
            plans,
            with_plan,
            cache=Cache(entries=10_000, default="unknown"),
            many=True,
            name="account",
        )
        .batch(1000, within=5.0)
        .map(msgspec.json.Encoder().encode_lines, name="encode")
        .to(target(servers, f"{group}-{instance}"), name="enriched")
        .with_settings(Settings(commit_every=float(os.environ.get("COMMIT", "1"))))
    )
