"""PostgreSQL goes away: before a commit, in the middle of one, for long. Every change is made exactly once."""

import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url
from tests.servers.postgresql import Server
from tests.servers.proxy import Fault, Proxy

from sidestage.errors import StoreError
from sidestage.store.records import Demand, Environment, Failure, NewRun, NewStep
from sidestage.store.sql import open_store
from sidestage.store.sql_database import Database

SEED = 1905
NOW = datetime(2013, 1, 1, tzinfo=UTC)
STOPS = 6
THREADS = 3
COUNT = "SELECT count(*) FROM event WHERE body = %s"


@pytest.fixture(scope="module")
def made() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder:
        server = Server(Path(folder), ("fsync=off",))
        yield server
        server.stop()


@pytest.fixture
def server(made: Server) -> Iterator[Server]:
    """A server that runs, and holds nothing."""
    made.stop()
    made.start()
    database = Database(made.url)
    database.write(lambda c: c.exec_driver_sql("TRUNCATE event"))
    database.close()
    yield made
    made.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(port_of(server))
    yield proxy
    proxy.close()


@contextlib.contextmanager
def opened(port: int, patience: float = 60.0) -> Iterator[Database]:
    database = Database(f"postgresql://postgres@127.0.0.1:{port}/postgres", patience=patience)
    try:
        yield database
    finally:
        database.close()


def port_of(server: Server) -> int:
    port = make_url(server.url).port
    assert port is not None
    return port


def insert(connection: Connection, body: str) -> str:
    connection.exec_driver_sql("INSERT INTO event (at, kind, body) VALUES (0, 'test', %s)", (body,))
    return f"result of {body}"


def bodies(database: Database) -> list[str]:
    return database.read(lambda c: list(c.exec_driver_sql("SELECT body FROM event ORDER BY id").scalars()))


@pytest.mark.parametrize(
    ("fault", "calls"), [("answer lost", 1), ("request lost", 2), ("half open", 2)], ids=lambda value: value
)
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_commit_whose_answer_is_lost_is_made_exactly_once(
    server: Server, proxy: Proxy, fault: Fault, calls: int, earlier: int
) -> None:
    with opened(proxy.port) as database:
        for number in range(earlier):
            database.write(lambda c, n=number: insert(c, f"earlier {n}"))
        called: list[str] = []

        def work(connection: Connection) -> str:
            called.append("work")
            return insert(connection, "this")

        proxy.break_next(fault)
        assert database.write(work) == "result of this"
        assert proxy.broken == 1
        assert len(called) == calls
        assert bodies(database) == [*(f"earlier {n}" for n in range(earlier)), "this"]


def test_commits_that_are_lost_again_and_again(server: Server, proxy: Proxy) -> None:
    chance = random.Random(SEED)
    kinds: list[Fault] = ["answer lost", "request lost"]
    faults = [chance.choice(kinds) for _ in range(20)]
    with opened(proxy.port) as database:
        for number, fault in enumerate(faults):
            proxy.break_next(fault)
            database.write(lambda c, n=number: insert(c, str(n)))
        assert bodies(database) == [str(n) for n in range(20)]
    assert proxy.broken >= 20


def test_whoever_had_to_wait_for_the_store_is_given_nothing_to_begin(server: Server, proxy: Proxy) -> None:
    """It may have been told to drain while it waited."""
    with closing(open_store(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres")) as store:
        store.save_environment(Environment("production", None, "", "open", NOW))
        steps = [NewStep(name, "t", "a/b", name, None, ()) for name in ("s1", "s2")]
        run = store.begin_run(NewRun("p", "production", "tree", "ann", "", "{}"), steps, NOW)
        demand = Demand("w1", 1, lease=60.0, runs=[run])
        (claim,) = store.claim(demand, NOW)
        proxy.break_next("request lost")
        settled, claims = store.exchange([Failure(claim, "bug", "it is broken")], demand, NOW)
        assert (settled[0].result, claims) == ("failed", None)
        assert [each.step for each in store.claim(demand, NOW)] == ["s2"]


def test_a_transaction_that_changed_nothing_leaves_no_token(server: Server, proxy: Proxy) -> None:
    with opened(proxy.port) as database:
        count = "SELECT count(*) FROM transaction_token"
        before = database.read(lambda c: c.exec_driver_sql(count).scalar())
        proxy.break_next("answer lost")
        assert database.write(lambda c: c.exec_driver_sql("SELECT 7").scalar()) == 7
        assert proxy.broken == 1
        assert database.read(lambda c: c.exec_driver_sql(count).scalar()) == before


def test_tokens_of_long_ago_are_forgotten(server: Server) -> None:
    old = "INSERT INTO transaction_token VALUES ('old', 3, now() - interval '8 days')"
    writers = "SELECT writer FROM transaction_token"
    with opened(port_of(server)) as database:
        database.write(lambda c: insert(c, "first"))
        database.write(lambda c: c.exec_driver_sql(old))
        assert "old" in database.read(lambda c: list(c.exec_driver_sql(writers).scalars()))
    with opened(port_of(server)) as database:
        database.write(lambda c: insert(c, "first of another connection"))
        assert "old" not in database.read(lambda c: list(c.exec_driver_sql(writers).scalars()))


def test_everything_is_written_exactly_once_while_the_server_crashes(server: Server) -> None:
    chance = random.Random(SEED)
    over = threading.Event()
    acknowledged: list[str] = []
    errors: list[BaseException] = []

    def write(database: Database, name: int) -> None:
        number = 0
        try:
            while not over.is_set():
                body = f"{name}-{number}"
                assert database.write(lambda c, b=body: insert(c, b)) == f"result of {body}"
                acknowledged.append(body)
                assert database.read(lambda c, b=body: c.exec_driver_sql(COUNT, (b,)).scalar()) == 1
                number += 1
        except BaseException as error:
            errors.append(error)
            raise

    with opened(port_of(server)) as database:
        threads = [threading.Thread(target=write, args=(database, n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in range(STOPS):
            time.sleep(chance.uniform(0.1, 0.5))
            server.stop(immediately=True)
            time.sleep(chance.uniform(0.0, 0.3))
            server.start()
        written = len(acknowledged)
        while len(acknowledged) < written + 10 and not errors:
            time.sleep(0.01)
        over.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert Counter(bodies(database)) == Counter(acknowledged)


def test_reading_waits_too(server: Server) -> None:
    with opened(port_of(server)) as database:
        database.write(lambda c: insert(c, "before"))
        server.stop(immediately=True)
        starting = threading.Thread(target=server.start)
        starting.start()
        assert bodies(database) == ["before"]
        starting.join()


def test_a_server_that_stays_away_is_an_error_that_may_pass(server: Server) -> None:
    with opened(port_of(server), patience=0.5) as database:
        database.write(lambda c: insert(c, "before"))
        server.stop(immediately=True)
        with pytest.raises(StoreError, match=r"lost|reached") as error:
            database.write(lambda c: insert(c, "while it was away"))
        assert error.value.transient
        assert "running" in error.value.hint
        with pytest.raises(StoreError) as error:
            bodies(database)
        assert error.value.transient
        server.start()
        database._patience = 60.0  # the connections that were lost are found to be so only now
        database.write(lambda c: insert(c, "after"))
        assert bodies(database) == ["before", "after"]


def test_a_commit_that_nobody_can_ask_about_says_so(server: Server, proxy: Proxy) -> None:
    with opened(proxy.port, patience=0.5) as database:

        def stop() -> None:
            while not proxy.broken:
                time.sleep(0.001)
            server.stop(immediately=True)

        # Nobody who asks gets an answer until the server is gone.
        proxy.break_next(*["answer lost"] * 100)
        stopping = threading.Thread(target=stop)
        stopping.start()
        with pytest.raises(StoreError, match="not known which") as error:
            database.write(lambda c: insert(c, "this"))
        stopping.join()
        assert not error.value.transient
    server.start()
    with opened(port_of(server)) as database:
        assert bodies(database) == ["this"]


def test_a_user_who_is_refused_does_not_wait(server: Server) -> None:
    url = f"postgresql://nobody@127.0.0.1:{port_of(server)}/postgres"
    with pytest.raises(StoreError, match="nobody") as error:
        Database(url)
    assert not error.value.transient
    assert "URL" in error.value.hint
