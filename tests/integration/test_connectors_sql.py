"""Pages of SQL rows by key, and SQL tables as sinks, on a real PostgreSQL and on SQLite."""

import itertools
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.servers.postgresql import Server

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.keyset import KeyRange, KeysetPages
from sidestage.connectors.sql_table import SqlTable
from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.policy.retry import Retry
from sidestage.stream import Checkpoint, Collected, Stream
from sidestage.stream.contract import Batch, Refused

SECONDS = 180.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        made = Server(Path(folder), ("fsync=off",))
        made.start()
        yield made
        made.stop()


class Database:
    """A database that a test puts things into and looks at."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_postgresql = url.startswith("postgresql")

    def __call__(self, *statements: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for statement in statements:
            if self.is_postgresql:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    cursor = connection.execute(statement)
                    found = cursor.fetchall() if cursor.description else []
            else:
                with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file, file:
                    found = file.execute(statement).fetchall()
        return found


@pytest.fixture
def postgres(server: Server) -> Database:
    made = Database(server.url)
    made("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return made


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres")
    (tmp_path / "things.db").touch()
    return Database(f"sqlite:///{tmp_path / 'things.db'}")


def batches_of(source: KeysetPages, resume: dict[str, Any] | None = None, limit: int = 7) -> list[Batch]:
    with closing(source.open(resume or {})) as reader:
        found: list[Batch] = []
        while (read := reader.read(limit, 0.1)) is not None:
            found += read
        return found


def items_of(batches: Sequence[Batch]) -> list[Any]:
    return [item for each in batches for item in each.items]


KEYS = {
    "int": ("id bigint", "n * 3 - 1000"),
    "text": ("id text", "'it''s % :x ' || chr(64 + n % 50) || n"),
    "char": ("id char(9)", "'c' || n"),
    "uuid": ("id uuid", "md5(n::text)::uuid"),
    "timestamptz": ("id timestamptz", "timestamptz '2026-10-25 00:00:00.000001Z' + n * interval '7 min'"),
    "date": ("id date", "date '2026-01-01' + n"),
    "numeric": ("id numeric", "n::numeric / 7 + 1e20"),
    "double": ("id double precision", "n::float8 / 7"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_read_in_order_and_again_from_any_position(postgres, kind):
    column, value = KEYS[kind]
    postgres(
        f"CREATE TABLE things ({column} PRIMARY KEY, n int)",
        f"INSERT INTO things SELECT {value}, n FROM generate_series(1, 100) n",
    )
    source = KeysetPages(url=postgres.url, table="things", key=("id",), page=11)
    batches = batches_of(source)
    rows = [(item["id"], item["n"]) for item in items_of(batches)]
    assert rows == postgres("SELECT id, n FROM things ORDER BY id")
    for index, each in enumerate(batches):
        assert items_of(batches_of(source, {"all": each.next})) == items_of(batches[index + 1 :])
    assert batches[0].first == ""
    assert all(a.next == b.first for a, b in itertools.pairwise(batches))


def test_a_key_of_several_columns(database):
    database("CREATE TABLE things (a text NOT NULL, b int NOT NULL, c text, PRIMARY KEY (a, b))")
    pairs = [(f"{a}'%", b) for a in "xyz" for b in range(30)]
    for a, b in pairs:
        database(f"INSERT INTO things VALUES ('{a.replace(chr(39), chr(39) * 2)}', {b}, NULL)")
    source = KeysetPages(url=database.url, table="things", key=("a", "b"), page=7)
    batches = batches_of(source, limit=4)
    assert [(item["a"], item["b"]) for item in items_of(batches)] == pairs
    assert items_of(batches_of(source, {"all": batches[3].next})) == items_of(batches[4:])
    assert batches[0].next == '["x\'%",3]'


def numbers(database: Database, count: int, name: str = "things") -> None:
    database(
        f"CREATE TABLE {name} (id integer PRIMARY KEY, word text)",
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        f" INSERT INTO {name} SELECT i, 'w' || i FROM n",
    )


def test_ranges_share_a_table(database):
    numbers(database, 100)
    ranges = (KeyRange(up_to=(30,)), KeyRange(after=(30,), up_to=(31,)), KeyRange(after=(31,)))
    source = KeysetPages(url=database.url, table="things", key=("id",), page=5, ranges=ranges)
    batches = batches_of(source)
    parts: dict[str, list[int]] = {}
    for each in batches:
        parts.setdefault(each.part, []).extend(item["id"] for item in each.items)
    assert parts == {
        "up to 30": list(range(1, 31)),
        "after 30 up to 31": [31],
        "after 31": list(range(32, 101)),
    }
    left = batches_of(source, {"up to 30": "[30]", "after 31": "[90]"})
    assert sorted(item["id"] for item in items_of(left)) == [31, *range(91, 101)]
    with pytest.raises(DefinitionError, match="its ranges are others"):
        source.open({"all": "[3]"})
    for position in (3, "x", "[1,2]", '{"a":1}', "[null]"):
        with pytest.raises(DefinitionError, match="cannot go on"):
            source.open({"after 31": position})


def test_columns_and_schemas(postgres):
    postgres('CREATE SCHEMA "My"', 'CREATE TABLE "My"."Some" ("Id" int PRIMARY KEY, a int, "b c" int)')
    postgres('INSERT INTO "My"."Some" VALUES (1, 2, 3)')
    source = KeysetPages(url=postgres.url, table="My.Some", key=("Id",), columns=("Id", "b c"))
    assert items_of(batches_of(source)) == [{"Id": 1, "b c": 3}]


@pytest.mark.parametrize(
    ("definition", "key", "said"),
    [
        ("id int", ("id",), "not unique"),
        ("id int UNIQUE", ("id",), "may be null"),
        ("id int PRIMARY KEY, a int NOT NULL", ("a",), "not unique"),
        ("id int NOT NULL, a int NOT NULL, PRIMARY KEY (id, a)", ("id",), "not unique"),
        ("id int PRIMARY KEY, a int", ("id", "a"), "may be null"),
        ("id int PRIMARY KEY", ("no",), "not unique"),
    ],
)
def test_a_key_that_is_none_is_refused(database, definition, key, said):
    database(f"CREATE TABLE things ({definition})")
    with pytest.raises(DefinitionError, match=said):
        KeysetPages(url=database.url, table="things", key=key).open({})


def test_a_unique_index_will_do_but_not_one_of_some_rows(database):
    database("CREATE TABLE things (id int NOT NULL, a int NOT NULL)")
    database("CREATE UNIQUE INDEX partly ON things (id) WHERE a > 3")
    source = KeysetPages(url=database.url, table="things", key=("id",))
    with pytest.raises(DefinitionError, match="not unique"):
        source.open({})
    database("CREATE UNIQUE INDEX all_of_it ON things (id)")
    source.open({}).close()


def test_text_as_key_of_sqlite_may_be_null(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    Database(f"sqlite:///{path}")("CREATE TABLE things (id text PRIMARY KEY)")
    with pytest.raises(DefinitionError, match="may be null"):
        KeysetPages(url=f"sqlite:///{path}", table="things", key=("id",)).open({})


def test_a_query_is_read_and_its_key_watched(database):
    numbers(database, 20)
    query = "SELECT id, word, ':x' AS c FROM things WHERE word LIKE 'w%';"
    source = KeysetPages(url=database.url, query=query, key=("id",), page=6)
    assert [item["id"] for item in items_of(batches_of(source))] == list(range(1, 21))
    assert items_of(batches_of(source))[0] == {"id": 1, "word": "w1", "c": ":x"}
    for page in (3, 4, 5, 6, 100):
        twice = "SELECT CASE WHEN id = 5 THEN 4 ELSE id END AS id FROM things"
        with pytest.raises(DefinitionError, match="has the key 4 twice"):
            batches_of(KeysetPages(url=database.url, query=twice, key=("id",), page=page))
    empty = "SELECT CASE WHEN id = 5 THEN NULL ELSE id END AS id FROM things"
    with pytest.raises(DefinitionError, match="is nothing"):
        batches_of(KeysetPages(url=database.url, query=empty, key=("id",), page=100))


def test_a_type_that_is_no_key_is_refused(postgres):
    postgres("CREATE TABLE things (id bytea PRIMARY KEY)", "INSERT INTO things VALUES ('x')")
    with pytest.raises(DefinitionError, match="of type bytes"):
        batches_of(KeysetPages(url=postgres.url, table="things", key=("id",)))


def test_between_two_pages_nothing_is_held_and_nothing_can_be_written(postgres):
    numbers(postgres, 50)
    with closing(KeysetPages(url=postgres.url, table="things", key=("id",), page=10).open({})) as reader:
        assert next_items(reader, 10) == list(range(1, 11))
        assert next_items(reader, 20) == list(range(11, 31))
        for _ in range(20):
            assert ("idle in transaction",) not in postgres("SELECT state FROM pg_stat_activity")
    postgres("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM things RETURNING id'")
    with pytest.raises(ConnectorError, match="read-only"):
        batches_of(KeysetPages(url=postgres.url, query="SELECT f() AS id", key=("id",)))
    assert postgres("SELECT count(*) FROM things") == [(50,)]


def test_a_statement_that_takes_too_long_is_ended(postgres):
    source = KeysetPages(
        url=postgres.url,
        query="SELECT 1 AS id FROM pg_sleep(60) WHERE true",
        key=("id",),
        timeout=0.2,
    )
    with pytest.raises(ConnectorError, match="timeout") as raised:
        batches_of(source)
    assert raised.value.failure_class == "transient"


def test_whoever_reads_is_not_held_up_by_a_slow_statement(postgres):
    numbers(postgres, 5)
    query = "SELECT id FROM things, pg_sleep(600)"
    reader = KeysetPages(url=postgres.url, query=query, key=("id",)).open({})
    begun = time.monotonic()
    for _ in range(3):
        assert reader.read(10, 0.02) == ()
    reader.close()
    assert time.monotonic() - begun < 300
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + SECONDS
    while postgres(f"{running} AND state = 'active'"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_reading_goes_on_after_a_restart_of_the_server(postgres, server):
    numbers(postgres, 100)
    reader = KeysetPages(url=postgres.url, table="things", key=("id",), page=10, patience=SECONDS).open({})
    with closing(reader):
        found = items_of(reader.read(10, SECONDS) or ())
        server.stop(immediately=True)
        for _ in range(5):  # at most the page that was fetched already comes
            found += items_of(reader.read(10, 0.05) or ())
        assert len(found) <= 20
        server.start()
        while (read := reader.read(10, 0.1)) is not None:
            found += items_of(read)
    assert [item["id"] for item in found] == list(range(1, 101))


def test_a_server_that_stays_away_is_said(postgres, server):
    numbers(postgres, 100)
    reader = KeysetPages(url=postgres.url, table="things", key=("id",), page=10, patience=0.3).open({})
    with closing(reader):
        reader.read(10, 0.1)
        server.stop()
        try:
            with pytest.raises(ConnectorError) as raised:
                list(iter(lambda: reader.read(10, 0.05), None))
        finally:
            server.start()
    assert raised.value.failure_class == "transient"


def next_items(reader: Any, count: int) -> list[int]:
    found: list[int] = []
    deadline = time.monotonic() + SECONDS
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += [item["id"] for item in items_of(reader.read(100, 0.05) or ())]
    return found


def test_new_rows_are_followed(database):
    numbers(database, 3)
    source = KeysetPages(
        url=database.url, table="things", key=("id",), page=2, follow=True, every=0.02, settle=0
    )
    with closing(source.open({})) as reader:
        assert next_items(reader, 3) == [1, 2, 3]
        assert reader.read(100, 0.01) == ()
        database("INSERT INTO things (id) VALUES (10), (11), (12)")
        assert next_items(reader, 3) == [10, 11, 12]
        reader.stop()
        assert reader.read(100, 0.01) is None


def test_a_row_that_is_committed_after_a_higher_one_is_not_missed(postgres):
    numbers(postgres, 3)
    source = KeysetPages(url=postgres.url, table="things", key=("id",), follow=True, every=0.02, settle=0)
    with closing(source.open({})) as reader:
        assert next_items(reader, 3) == [1, 2, 3]
        with psycopg.connect(postgres.url) as slow:
            slow.execute("INSERT INTO things (id) VALUES (4)")
            postgres("INSERT INTO things (id) VALUES (5)")
            for _ in range(20):
                assert items_of(reader.read(100, 0.02)) == []
            slow.commit()
        assert next_items(reader, 2) == [4, 5]


def test_on_sqlite_rows_must_have_been_there_for_a_while(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    database = Database(f"sqlite:///{path}")
    numbers(database, 3)
    source = KeysetPages(url=database.url, table="things", key=("id",), follow=True, every=0.01, settle=0.3)
    with closing(source.open({})) as reader:
        begun = time.monotonic()
        assert next_items(reader, 3) == [1, 2, 3]
        assert time.monotonic() - begun >= 0.3


def test_a_stream_goes_on_where_its_checkpoint_says(database, tmp_path):
    numbers(database, 50)
    source = KeysetPages(url=database.url, table="things", key=("id",), page=10)
    for more in (50, 20, 0):
        kept: Collected[int] = Collected()
        Stream(source).map(lambda row: row["id"]).to(kept).run(checkpoint=Checkpoint(tmp_path / "point"))
        assert len(kept.items) == more
        if more == 50:
            for new in range(51, 71):
                database(f"INSERT INTO things (id) VALUES ({new})")
    assert kept.items == []


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("mysql://x/y", ConfigurationError),
        ("nonsense", ConfigurationError),
        ("sqlite:////no/such", ConnectorError),
    ],
)
def test_what_is_no_database_is_said(url, kind):
    with pytest.raises(kind):
        KeysetPages(url=url, table="things", key=("id",)).open({})
    with pytest.raises(kind):
        SqlTable(url=url, table="things").open()


def test_a_password_is_not_shown(postgres):
    url = postgres.url.replace("postgres@", "nobody:secret@")
    for described in (KeysetPages(url=url, table="things", key=("id",)), SqlTable(url=url, table="things")):
        assert "secret" not in repr(described)
        with pytest.raises(ConnectorError) as raised:
            described.open({}) if isinstance(described, KeysetPages) else described.open()
        assert "secret" not in str(raised.value)
        assert raised.value.failure_class in ("authentication", "bug")


def write(sink: SqlTable, *chunks: Sequence[Any]) -> None:
    with closing(sink.open()) as writer:
        for chunk in chunks:
            writer.write(chunk)


def test_rows_replace_those_with_their_key(database):
    database("CREATE TABLE things (id integer PRIMARY KEY, word text, other text DEFAULT 'kept')")
    sink = SqlTable(url=database.url, table="things", key=("id",), columns=("id", "word"))
    write(sink, [{"id": 1, "word": "a"}, {"id": 2, "word": "b"}, {"id": 1, "word": "c", "more": 3}])
    write(sink, [(2, "d"), [3, None]], [])
    assert database("SELECT * FROM things ORDER BY id") == [
        (1, "c", "kept"),
        (2, "d", "kept"),
        (3, None, "kept"),
    ]


def test_rows_without_a_key_are_added(database):
    database("CREATE TABLE things (id integer, word text)")
    sink = SqlTable(url=database.url, table="things")
    write(sink, [(1, "a")], [(1, "a")])
    assert database("SELECT * FROM things") == [(1, "a"), (1, "a")]


def test_a_table_that_is_all_key(database):
    database("CREATE TABLE things (a integer NOT NULL, b text NOT NULL, PRIMARY KEY (a, b))")
    write(
        SqlTable(url=database.url, table="things", key=("b", "a")), [(1, "x"), (1, "x"), (2, "x")], [(1, "x")]
    )
    assert database("SELECT * FROM things ORDER BY a") == [(1, "x"), (2, "x")]


def test_values_arrive_as_they_were(postgres):
    postgres(
        'CREATE TABLE things (id uuid PRIMARY KEY, j json, b jsonb, l int[], n numeric, y bytea, "T s" timestamptz)'
    )
    row = {
        "id": postgres("SELECT gen_random_uuid()")[0][0],
        "j": [1, {"a": None}],
        "b": {"t": "\t\\N"},
        "l": [1, None],
        "n": Decimal("1.10"),
        "y": b"\0\\",
        "T s": postgres("SELECT now()")[0][0],
    }
    write(SqlTable(url=postgres.url, table="things", key=("id",)), [row, row])
    assert postgres("SELECT * FROM things") == [tuple(row.values())]


GENERATED = {
    "postgresql": "id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED",
    "sqlite": "id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED",
}


def test_generated_columns_are_not_written(database):
    kind = "postgresql" if database.is_postgresql else "sqlite"
    database(f"CREATE TABLE things ({GENERATED[kind]})")
    write(SqlTable(url=database.url, table="things", key=("id",)), [{"id": 4}])
    assert database("SELECT id, twice FROM things") == [(4, 8)]


def test_bad_rows_are_named_and_the_others_written(database):
    database("CREATE TABLE things (id integer PRIMARY KEY, word text NOT NULL CHECK (word <> 'bad'))")
    rows: list[Any] = [{"id": n, "word": f"w{n}"} for n in range(1000)]
    rows[10] = {"id": 10, "word": None}
    rows[11] = {"id": 11}
    rows[500] = {"id": 500, "word": "bad"}
    rows[501] = {"id": 501, "word": object()}
    rows[502] = {"id": 502, "word": "x", "more": 1}
    rows[503] = 7
    rows[504] = {"id": 504, "word": "\ud800"}
    rows[999] = (1 << 70, "large")
    bad = [10, 11, 500, 501, 502, 503, 504, 999]
    with pytest.raises(Refused) as refused:
        write(SqlTable(url=database.url, table="things", key=("id",)), rows)
    assert sorted(refused.value.errors) == bad
    assert {error.failure_class for error in refused.value.errors.values()} == {"validation"}
    expected = [(n,) for n in range(1000) if n not in bad]
    assert database("SELECT id FROM things ORDER BY id") == expected


def test_what_a_table_demands_only_at_the_end_is_demanded_of_each_row(postgres):
    postgres(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE things (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO parent VALUES (1)",
    )
    with pytest.raises(Refused) as refused:
        write(SqlTable(url=postgres.url, table="things", key=("id",)), [(1, 1), (2, 2), (3, 1)])
    assert list(refused.value.errors) == [1]
    assert postgres("SELECT id FROM things ORDER BY id") == [(1,), (3,)]


def test_a_sink_that_does_not_fit_is_refused(database):
    database("CREATE TABLE things (id integer, word text)")
    with pytest.raises(ConnectorError, match="no table other"):
        SqlTable(url=database.url, table="other").open()
    with pytest.raises(DefinitionError, match="no column no"):
        SqlTable(url=database.url, table="things", columns=("no",)).open()
    with pytest.raises(DefinitionError, match="no unique constraint on id"):
        SqlTable(url=database.url, table="things", key=("id",)).open()
    with pytest.raises(DefinitionError, match="do not have its key"):
        SqlTable(url=database.url, table="things", key=("id",), columns=("word",))


def end_others(postgres: Database) -> None:
    postgres("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def test_a_writer_whose_connection_is_cut_says_so_and_goes_on(postgres):
    postgres("CREATE TABLE things (id integer PRIMARY KEY)")
    with closing(SqlTable(url=postgres.url, table="things", key=("id",)).open()) as writer:
        writer.write([(1,)])
        end_others(postgres)
        with pytest.raises(ConnectorError) as raised:
            writer.write([(2,)])
        assert raised.value.failure_class == "transient"
        writer.write([(2,)])
    assert postgres("SELECT id FROM things ORDER BY id") == [(1,), (2,)]


def test_a_stream_goes_on_writing_after_a_restart_of_the_server(postgres, server):
    postgres("CREATE TABLE things (id integer PRIMARY KEY)")
    reached = threading.Event()

    def rows() -> Iterator[dict[str, int]]:
        for number in range(2000):
            if number == 1000:
                reached.set()
            time.sleep(0.001)
            yield {"id": number}

    sink = SqlTable(url=postgres.url, table="things", key=("id",))
    engine = Stream(rows()).to(sink, retry=Retry(times=20, delay=0.1, longest=1.0)).engine()
    engine.start()
    assert reached.wait(SECONDS)
    server.stop(immediately=True)
    server.start()
    assert engine.join().complete
    assert postgres("SELECT count(*) FROM things") == [(2000,)]


def test_two_writers_that_meet_write_all(postgres):
    postgres("CREATE TABLE things (id integer PRIMARY KEY, word text)")
    sink = SqlTable(url=postgres.url, table="things", key=("id",))
    failed: list[BaseException] = []

    def work(word: str) -> None:
        try:
            ids = list(range(300))
            for turn in range(20):
                ids = ids[turn:] + ids[:turn]
                write(sink, [(id_, word) for id_ in ids])
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(word,)) for word in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert postgres("SELECT count(*) FROM things") == [(300,)]
