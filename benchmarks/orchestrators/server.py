"""A PostgreSQL server that syncs: the one of the tests does not, which would be no fair limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from tests.servers.postgresql import Server


@contextmanager
def syncing_postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a server with default durability that lives in ``folder`` and is gone afterwards."""
    server = Server(folder, ("max_connections=300",))
    server.start()
    try:
        yield server.url.removesuffix("/postgres")
    finally:
        server.stop()


def new_database(url: str, name: str) -> str:
    """Make an empty database and return its URL."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url}/{name}"


def drop_database(url: str, name: str) -> None:
    """Remove a database, whoever is still connected."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def server_version(url: str) -> str:
    """Return the version, and the settings that decide what a commit is worth."""
    with psycopg.connect(f"{url}/postgres") as connection:
        settings = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("server_version", "fsync", "synchronous_commit")
        ]
    number, fsync, commit = [setting[0] for setting in settings if setting]
    return f"{number}, fsync {fsync}, synchronous_commit {commit}"
