import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.contract.making import NOON, Opener
from tests.servers.postgresql import postgresql

from sidestage.store.contract import Store
from sidestage.store.records import (
    Environment,
)
from sidestage.store.sql import open_store
from sidestage.testing.memory_store import open_memory_store


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real server, shared by the session; each test makes a schema of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder,
        postgresql(Path(folder)) as url,
    ):
        yield url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_same(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """A function that opens the same, at first empty, database each time."""
    if request.param == "memory":
        yield open_memory_store(time.monotonic).again
        return
    opened: list[Store] = []
    place = (
        postgresql_schema(request.getfixturevalue("postgresql_url"))
        if request.param == "postgresql"
        else None
    )
    url = next(place) if place else f"sqlite:///{tmp_path / 'store.sqlite'}"

    def opener() -> Store:
        opened.append(open_store(url))
        return opened[-1]

    yield opener
    for each in opened:
        each.close()
    if place:
        next(place, None)


def postgresql_schema(server: str) -> Iterator[str]:
    name = f"s{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"')
        yield f"{server}?options=-csearch_path%3D{name}"
        connection.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def store(open_same: Opener) -> Store:
    store = open_same()
    store.save_environment(Environment("production", None, "", "open", NOON))
    store.save_environment(Environment("fix", "production", "git:abc", "open", NOON))
    return store
