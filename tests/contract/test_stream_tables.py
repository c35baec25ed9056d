"""Tables of SQLite and PostgreSQL keep the contracts of streams."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.contract.conftest import postgresql_schema

from sidestage.connectors.keyset import KeyRange, KeysetPages
from sidestage.connectors.sql_table import SqlTable, SqlTransactionalTable
from sidestage.stream.contract import Reader
from sidestage.testing.streams import SinkContract, SourceContract, TransactionalSinkContract


class Table:
    """A table that is read and written."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.do("CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def do(self, statement: str) -> list[Any]:
        connect: Any = psycopg.connect if self.url.startswith("postgresql") else sqlite3.connect
        with closing(connect(self.url.removeprefix("sqlite:///"))) as connection, connection:
            done = connection.execute(statement)
            return list(done) if done.description else []

    def item(self, number: int) -> Any:
        return {"n": number, "text": f"row {number}"}

    def bad(self) -> Any:
        return {"n": 7, "text": None}

    def sink(self) -> Any:
        return SqlTable(url=self.url, table="rows", key=("n",))

    def written(self) -> list[Any]:
        return [{"n": n, "text": text} for n, text in self.do("SELECT * FROM rows ORDER BY n")]

    def readers(self) -> Mapping[str, Reader[Any]]:
        return {}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'rows.db'}"
    else:
        yield from postgresql_schema(request.getfixturevalue("postgresql_url"))


class TestSqlTable(SinkContract):
    @pytest.fixture
    def place(self, url: str) -> Table:
        return Table(url)


class TransactedTable(Table):
    def sink(self) -> Any:
        return SqlTransactionalTable(url=self.url, table="rows", key=("n",), stream="contract")


class TestSqlTransactionalTable(TransactionalSinkContract):
    @pytest.fixture
    def place(self, url: str) -> TransactedTable:
        self.is_exclusive = url.startswith("sqlite")
        return TransactedTable(url)


class Pages(Table):
    """Rows that are read in pages of two ranges of keys, or followed as they come."""

    def __init__(self, url: str, *, follow: bool) -> None:
        super().__init__(url)
        self.follow = follow
        self.count = 0

    def put(self, count: int) -> Sequence[Any]:
        rows = [self.item(number) for number in range(self.count, self.count + count)]
        self.count += count
        for row in rows:
            self.do(f"INSERT INTO rows VALUES ({row['n']}, '{row['text']}')")
        return rows

    def source(self) -> KeysetPages:
        both = (KeyRange(up_to=(17,)), KeyRange(after=(17,)))
        more: dict[str, Any] = (
            {"follow": True, "every": 0.01, "settle": 0.0} if self.follow else {"ranges": both}
        )
        return KeysetPages(url=self.url, table="rows", key=("n",), page=6, **more)


class TestKeysetPages(SourceContract):
    @pytest.fixture
    def place(self, url: str) -> Pages:
        return Pages(url, follow=False)


class TestFollowedTable(SourceContract):
    ends = False
    grows = True

    @pytest.fixture
    def place(self, url: str) -> Pages:
        return Pages(url, follow=True)
