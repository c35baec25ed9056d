"""A Kafka broker for all who need one: it takes longer to start than most tests with it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers.kafka import Broker


@pytest.fixture(scope="session")
def broker() -> "Iterator[Broker]":
    from tests.servers.kafka import Broker

    with tempfile.TemporaryDirectory(prefix="sidestage-kafka-") as folder:
        made = Broker(Path(folder))
        made.start()
        yield made
        made.stop()


@pytest.fixture
def topic(broker: "Broker", request: pytest.FixtureRequest) -> str:
    return broker.create_topic(request.node.name.replace("[", "-").rstrip("]"))


@pytest.fixture
def wide(broker: "Broker", request: pytest.FixtureRequest) -> str:
    """A topic with four partitions."""
    return broker.create_topic(f"{request.node.name}-wide", 4)
