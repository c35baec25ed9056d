"""Rows and the progress of a stream in one transaction: each item once, whatever is killed or cut."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from tests.servers.postgresql import Server
from tests.servers.proxy import Fault, Proxy

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.keyset import KeysetPages
from sidestage.connectors.sql_progress import TABLE
from sidestage.connectors.sql_table import SqlTable, SqlTransactionalTable
from sidestage.errors import DataError, DefinitionError
from sidestage.stream import Settings, Stream
from sidestage.stream.contract import Progress, Refused, TransactionLost

SECONDS = 180.0
SEED = 1812
KILLS = 6
ROWS = 3000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        made = Server(Path(folder), ("fsync=off",))
        made.start()
        yield made
        made.stop()


@pytest.fixture
def url(server: Server) -> str:
    ask(server.url, "DROP SCHEMA public CASCADE")
    ask(server.url, "CREATE SCHEMA public")
    ask(server.url, "CREATE TABLE things (id int PRIMARY KEY, word text NOT NULL)")
    return server.url


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    port = make_url(url).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    proxy.close()


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def ids(url: str, table: str = "things") -> list[int]:
    return [row[0] for row in ask(url, f"SELECT id FROM {table} ORDER BY id")]


def sink(url: str, **more: Any) -> SqlTransactionalTable:
    return SqlTransactionalTable(**{"url": url, "table": "things", "key": ("id",), "stream": "s", **more})


def reached(number: int) -> Progress:
    return Progress(number, {"source": {"all": number, "other": "[1]"}}, {"w": bytes(range(256))})


def test_rows_and_progress_become_visible_together(url):
    target = sink(url)
    assert target.progress() == Progress(0, {})
    with closing(target.open()) as writer:
        assert target.progress() == Progress(0, {})
        writer.write([(1, "a"), (2, "b")])
        writer.write([(1, "c")])
        assert ids(url) == []
        writer.commit(reached(1), {})
        assert ids(url) == [1, 2]
        assert target.progress() == reached(1)
        writer.commit(reached(2), {})
        writer.write([(3, "d")])
    assert ids(url) == [1, 2]
    assert target.progress() == reached(2)
    assert sink(url, stream="another").progress() == Progress(0, {})


def test_refused_rows_leave_the_transaction_whole(url):
    with closing(sink(url).open()) as writer:
        writer.write([(1, "a")])
        with pytest.raises(Refused) as refused:
            writer.write([(2, "b"), (3, None), (4, "d"), (5, object())])
        assert sorted(refused.value.errors) == [1, 3]
        writer.write([(6, "f")])
        writer.commit(reached(1), {})
    assert ids(url) == [1, 2, 4, 6]


def test_sqlite_keeps_progress_as_well(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    url = f"sqlite:///{path}"
    rows = [{"id": n, "word": str(n)} for n in range(3000)]
    plain = SqlTable(url=url, table="things", key=("id",))
    import sqlite3

    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE things (id integer PRIMARY KEY, word text NOT NULL)")
    Stream(rows).to(sink(url)).run(settings=Settings(commit_every=0.01))
    assert sink(url).progress().positions == {"list": {"all": 3000}}
    with closing(plain.open()) as writer:
        writer.write(rows)
    with closing(sink(url).open()) as first, closing(sink(url).open()) as second:
        with pytest.raises(TransactionLost, match="taken over"):
            first.commit(reached(1), {})
        second.write([(-1, "x")])
        second.commit(reached(9), {})
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM things").fetchall() == [(3001,)]


def test_whoever_opens_later_ends_the_one_before(url):
    first = sink(url).open()
    first.write([(1, "first"), (2, "first")])
    with closing(sink(url).open()) as second:
        second.write([(1, "second")])  # would wait for the other's transaction
        with pytest.raises(TransactionLost):
            first.write([(3, "first")])
        with pytest.raises(TransactionLost):
            first.commit(reached(1), {})
        first.close()
        second.commit(reached(2), {})
    assert ask(url, "SELECT * FROM things") == [(1, "second")]
    assert sink(url).progress() == reached(2)


def test_a_writer_that_was_not_ended_is_fenced_off_at_its_commit(url):
    with closing(sink(url).open()) as first:
        first.write([(1, "first")])
        ask(url, f"UPDATE {TABLE} SET fence = fence + 1")  # as somebody without the right to end it would
        with pytest.raises(TransactionLost, match="taken over"):
            first.commit(reached(1), {})
    assert ids(url) == []
    assert sink(url).progress() == Progress(0, {})


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "half open"])
def test_after_a_commit_that_was_cut_the_database_says_what_became_of_it(url, proxy, fault: Fault):
    port = make_url(url).port
    through = url.replace(f":{port}/", f":{proxy.port}/")
    first = sink(through).open()
    first.write([(1, "a")])
    first.commit(reached(1), {})
    first.write([(2, "b")])
    proxy.break_next(fault)
    with pytest.raises(TransactionLost, match="Nobody knows"):
        first.commit(reached(2), {})
    assert proxy.broken == 1
    with closing(sink(through).open()) as second:
        number = sink(through).progress().number
        assert number == (2 if fault == "answer lost" else 1)
        assert ids(url) == ([1, 2] if number == 2 else [1])
        second.write([(2, "again")])
        second.commit(reached(3), {})
    assert ids(url) == [1, 2]


@pytest.mark.parametrize("there", [(), ("another",), ("another", "s")])
def test_an_opening_that_was_cut_at_its_commit_keeps_nobody_out(url, proxy, there):
    """The server hears nothing of it for hours, and holds its locks so long."""
    through = url.replace(f":{make_url(url).port}/", f":{proxy.port}/")
    for stream in there:
        sink(url, stream=stream).open().close()
    proxy.break_next("none", "half open")  # the first one is of the session's settings
    with pytest.raises(ConnectorError):
        sink(through).open()
    assert proxy.broken == 1
    with closing(sink(through, stream="beside").open()) as beside, closing(sink(through).open()) as writer:
        writer.write([(1, "a")])
        writer.commit(reached(1), {})
        beside.commit(reached(1), {})
    assert ids(url) == [1]


def test_a_stream_whose_connection_is_cut_writes_each_item_once(url, proxy):
    ask(url, "CREATE TABLE plain (id int)")
    through = url.replace(f":{make_url(url).port}/", f":{proxy.port}/")
    faults: list[Fault] = ["answer lost", "half open", "request lost", "answer lost"]

    def cut() -> None:
        for fault in faults:
            time.sleep(0.3)
            proxy.break_next(fault)

    cutting = threading.Thread(target=cut)
    cutting.start()
    flow = Stream(range(2000)).map(slowly).to(sink(through, table="plain", key=()))
    ended = flow.run(settings=Settings(commit_every=0.05, chunk=50))
    cutting.join()
    assert ended.complete
    assert proxy.broken >= 3
    assert ids(url, "plain") == list(range(2000))


def slowly(number: int) -> tuple[int]:
    time.sleep(0.001)
    return (number,)


def test_the_server_may_be_restarted_meanwhile(url, server):
    ask(url, "CREATE TABLE plain (id int)")
    engine_started = threading.Event()

    def marked(number: int) -> tuple[int]:
        engine_started.set()
        return slowly(number)

    def restart() -> None:
        engine_started.wait(SECONDS)
        time.sleep(0.5)
        server.stop(immediately=True)
        server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        flow = Stream(range(2000)).map(marked).to(sink(url, table="plain", key=()))
        assert flow.run(settings=Settings(commit_every=0.05, chunk=50)).complete
    finally:
        restarting.join()
    assert ids(url, "plain") == list(range(2000))


def test_the_table_of_progress_may_be_made_by_somebody_else(url):
    sink(url).open().close()
    for statement in (
        "DROP OWNED BY writer",
        "DROP ROLE writer",
    ):
        if ask(url, "SELECT 1 FROM pg_roles WHERE rolname = 'writer'"):
            ask(url, statement)
    ask(url, "CREATE ROLE writer LOGIN")
    ask(url, "GRANT USAGE ON SCHEMA public TO writer")
    ask(url, f"GRANT SELECT, INSERT, UPDATE ON things, {TABLE} TO writer")
    held = sink(url).open()  # a session of the owner, which the writer may not end
    with closing(held), closing(sink(url.replace("postgres@", "writer@")).open()) as writer:
        writer.write([(1, "a")])
        writer.commit(reached(1), {})
        with pytest.raises(TransactionLost, match="taken over"):
            held.commit(reached(2), {})
    assert ids(url) == [1]


def test_what_cannot_be_read_as_progress_is_said(url):
    with pytest.raises(DefinitionError, match="needs the name"):
        sink(url, stream="")
    sink(url).open().close()
    ask(url, f"UPDATE {TABLE} SET progress = 'x'")
    with pytest.raises(DataError, match="cannot be read"):
        sink(url).progress()


PROGRAM = """
import sys, time
from pathlib import Path
from sidestage.connectors.keyset import KeyRange, KeysetPages
from sidestage.connectors.sql_table import SqlTransactionalTable
from sidestage.stream import EventTime, Settings, Stream, WindowPlan, count, tumbling

url, kind, last = sys.argv[1:]
here = Path(__file__).parent
source = KeysetPages(
    url=url, table="origin", key=("id",), page=97, ranges=(KeyRange(up_to=(1000,)), KeyRange(after=(1000,)))
)

def slowly(row):
    time.sleep(0.001)
    if row["id"] == int(last):  # it ends only if it may, so that it is always killed before
        (here / "held").touch()
        while not (here / "may-end").exists():
            time.sleep(0.01)
    return row

stream = Stream(source, name="origin").map(slowly)
if kind == "rows":
    ending = stream
else:
    plan = WindowPlan(
        windows=tumbling(50),
        aggregate=count(),
        key=lambda row: row["id"] % 3,
        time=EventTime(at=lambda row: float(row["id"]), disorder=1e6),
    )
    ending = stream.window(plan).map(lambda w: {"start": int(w.start), "key": w.key, "n": w.value})
sink = SqlTransactionalTable(url=url, table=kind, stream=kind)
ending.to(sink).run(settings=Settings(commit_every=0.05, chunk=20))
"""


def run_and_kill(url: str, kind: str, folder: Path, session_mark: str) -> None:
    """Kill a stream at random, again and again; then run it until it ends by itself."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    chance = random.Random(f"{SEED} {kind}")
    log = (folder / "log").open("wb")
    killed = 0
    with log:
        while True:
            environment = {**os.environ, "SIDESTAGE_TEST_SESSION": session_mark}
            process = subprocess.Popen(
                [sys.executable, program, url, kind, str(ROWS)], stdout=log, stderr=log, env=environment
            )
            try:
                if killed < KILLS:
                    before = progress_number(url, kind)
                    deadline = time.monotonic() + SECONDS
                    while progress_number(url, kind) < before + 3 and not (folder / "held").exists():
                        assert time.monotonic() < deadline
                        time.sleep(0.01)
                    time.sleep(chance.random() * 0.2)
                    process.send_signal(signal.SIGKILL)
                    assert process.wait(SECONDS) == -signal.SIGKILL, (folder / "log").read_text()
                    killed += 1
                    continue
                (folder / "may-end").touch()
                code = process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
            assert code == 0, (folder / "log").read_text()
            return


def progress_number(url: str, stream: str) -> int:
    if not ask(url, f"SELECT 1 FROM pg_tables WHERE tablename = '{TABLE}'"):
        return 0
    found = ask(url, f"SELECT number FROM {TABLE} WHERE stream = '{stream}'")
    return found[0][0] if found else 0


@pytest.mark.parametrize("kind", ["rows", "windows"])
def test_a_stream_that_is_killed_again_and_again_has_each_item_once(url, kind, tmp_path, session_mark):
    ask(url, "CREATE TABLE origin (id int PRIMARY KEY)")
    ask(url, f"INSERT INTO origin SELECT generate_series(1, {ROWS})")
    ask(url, "CREATE TABLE rows (id int)")
    ask(url, "CREATE TABLE windows (start int, key int, n int)")
    run_and_kill(url, kind, tmp_path, session_mark)
    if kind == "rows":
        assert ids(url, "rows") == list(range(1, ROWS + 1))
        return
    found = ask(url, "SELECT start, key, n FROM windows ORDER BY 1, 2")
    expected = ask(url, "SELECT id / 50 * 50, id % 3, count(*) FROM origin GROUP BY 1, 2 ORDER BY 1, 2")
    assert found == expected


def test_the_source_goes_on_from_what_the_sink_has(url):
    ask(url, "INSERT INTO things SELECT n, 'w' FROM generate_series(1, 100) n")
    ask(url, "CREATE TABLE copied (id int, word text)")
    source = KeysetPages(url=url, table="things", key=("id",), page=10)
    flow = Stream(source).to(sink(url, table="copied", key=()))
    for more in (100, 150, 150):
        flow.run()
        assert len(ids(url, "copied")) == more
        if more == 100:
            ask(url, "INSERT INTO things SELECT n, 'w' FROM generate_series(101, 150) n")
    assert ids(url, "copied") == list(range(1, 151))
