"""The places of SQL and HTTP keep what the contracts of streams say."""

import json
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.servers.postgresql import postgresql

from sidestage.connectors.http import HttpPoll
from sidestage.connectors.keyset import KeyRange, KeysetPages
from sidestage.connectors.sql_table import SqlTable, SqlTransactionalTable
from sidestage.testing.streams import SinkContract, SourceContract, TransactionalSinkContract

TABLE = "CREATE TABLE things (id integer PRIMARY KEY, word text NOT NULL)"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder, postgresql(Path(folder)) as url:
        yield url


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> "Table":
    if request.param == "sqlite":
        (tmp_path / "a.db").touch()
        return Table(f"sqlite:///{tmp_path / 'a.db'}")
    url = request.getfixturevalue("server")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return Table(url)


class Table:
    """A table in either database, as all contracts know it."""

    ranges: tuple[KeyRange, ...] = (KeyRange(),)
    more: Mapping[str, Any] = {}
    transactional = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._count = 0
        self.is_postgresql = url.startswith("postgresql")
        self._ask(TABLE)

    def put(self, count: int) -> Sequence[Any]:
        items = [self.item(number) for number in range(self._count, self._count + count)]
        self._count += count
        values = ", ".join(f"({item['id']}, '{item['word']}')" for item in items)
        self._ask(f"INSERT INTO things VALUES {values}")
        return items

    def source(self) -> KeysetPages:
        return KeysetPages(
            url=self._url, table="things", key=("id",), page=9, ranges=self.ranges, **self.more
        )

    def item(self, number: int) -> dict[str, Any]:
        return {"id": number, "word": f"w{number}"}

    def bad(self) -> dict[str, Any]:
        return {"id": 1_000_000, "word": None}

    def sink(self) -> Any:
        if self.transactional:
            return SqlTransactionalTable(url=self._url, table="things", stream="s")
        return SqlTable(url=self._url, table="things", key=("id",))

    def readers(self) -> Mapping[str, Any]:
        return {}

    def written(self) -> Sequence[Any]:
        found = self._ask("SELECT id, word FROM things ORDER BY id")
        return [{"id": id_, "word": word} for id_, word in found]

    def _ask(self, statement: str) -> list[Any]:
        if self._url.startswith("sqlite"):
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"))) as file, file:
                return file.execute(statement).fetchall()
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class TestPages(SourceContract):
    pass


class TestPagesOfRanges(SourceContract):
    @pytest.fixture
    def place(self, place: Table) -> Table:
        place.ranges = (KeyRange(up_to=(10,)), KeyRange(after=(10,)))
        return place


class TestPagesThatAreFollowed(SourceContract):
    ends = False
    grows = True

    @pytest.fixture
    def place(self, place: Table) -> Table:
        place.more = {"follow": True, "every": 0.02, "settle": 0.0}
        return place


class TestTable(SinkContract):
    pass


class TestTransactionalTable(TransactionalSinkContract):
    keeps_states = True

    @pytest.fixture
    def place(self, place: Table) -> Table:
        place.transactional = True
        return place

    def test_who_opens_it_fences_off_who_wrote_before(self, place: Table) -> None:
        """On SQLite nobody can be ended: a second writer would wait here for the first one's commit."""
        if place.is_postgresql:
            super().test_who_opens_it_fences_off_who_wrote_before(place)


class Polled:
    """A list that grows, in pages of ten, behind a server of its own."""

    def __init__(self, every: float | None) -> None:
        self._items: list[int] = []
        self._every = every
        items = self._items

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = int(self.path.removeprefix("/").removeprefix("?page=") or 0)
                some = items[page * 10 : page * 10 + 10]
                following = f"?page={page + 1}" if len(some) == 10 else None
                body = json.dumps([some, following]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name is given
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.server.daemon_threads = True

    def put(self, count: int) -> Sequence[Any]:
        new = list(range(len(self._items), len(self._items) + count))
        self._items += new
        return new

    def source(self) -> HttpPoll[Any]:
        return HttpPoll(
            url=f"http://127.0.0.1:{self.server.server_port}/",
            items=lambda body: json.loads(body)[0],
            next_page=lambda answer: json.loads(answer.body)[1],
            every=self._every,
            grows=True,
        )


def polling(every: float | None) -> Iterator[Polled]:
    made = Polled(every)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


class TestPollOnce(SourceContract):
    @pytest.fixture
    def place(self) -> Iterator[Polled]:
        yield from polling(None)


class TestPoll(SourceContract):
    ends = False
    grows = True

    @pytest.fixture
    def place(self) -> Iterator[Polled]:
        yield from polling(0.02)
