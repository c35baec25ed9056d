"""A prepared statement does what SQLAlchemy itself does with it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, create_engine, select, update

from sidestage.store.dialect import insert_if_absent
from sidestage.store.prepared import Prepared
from sidestage.store.tables import environment, event, metadata

NOW = datetime(2013, 3, 10, 7, tzinfo=UTC)
INSERT = Prepared(event.insert())
BY_ID = Prepared(
    select(event.c.id, event.c.at).where(event.c.id.in_(bindparam("ids", expanding=True))), listed=["ids"]
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'store'}")
    metadata.create_all(engine)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def row(number: int) -> dict[str, object]:
    return {"at": NOW + timedelta(hours=number), "run": None, "kind": "k", "body": "{}"}


def test_values_are_kept_as_sqlalchemy_keeps_them(connection):
    assert INSERT.change(connection, [row(0), row(1)]) == 2
    connection.execute(event.insert(), [row(2)])
    assert list(connection.scalars(select(event.c.at).order_by(event.c.id))) == [
        row(n)["at"] for n in range(3)
    ]


def test_lists_of_any_length_are_found_with_one_statement(connection):
    INSERT.change(connection, [row(number) for number in range(5)])
    for ids in ([1], [2, 4], [5], [1, 2, 3, 4, 5], [9]):
        found = BY_ID.rows(connection, {"ids": ids})
        assert sorted(each[0] for each in found) == [number for number in ids if number <= 5]


def test_rows_that_did_not_change_are_not_counted(connection):
    insert = Prepared(insert_if_absent("sqlite", environment))
    made = {"name": "production", "base": None, "code": "", "state": "open", "created_at": NOW}
    assert insert.change(connection, [made, {**made, "name": "other"}, made]) == 2
    renamed = Prepared(
        update(environment)
        .where(environment.c.name == bindparam("which"), environment.c.state == "open")
        .values(state="closed", code=bindparam("new"))
        .returning(environment.c.code)
    )
    assert renamed.rows(connection, {"which": "other", "new": "c"}) == [("c",)]
    assert renamed.rows(connection, {"which": "other", "new": "d"}) == []
