"""One writer at a time: processes queue for the SQLite file, and none of them ever meets a locked database."""

import contextlib
import errno
import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.test_store_processes import Process, wait_for

from sidestage.store import sqlite_file
from sidestage.store.sql_database import Database
from sidestage.store.turn import FileLock, Turn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")

SEED = 20130310
WRITERS = 8
WRITES = 60
READERS = 2
LOOKS = 40
KILLS = 25


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Children that do not outlive the test."""
    started: list[Process] = []
    yield started
    for each in started:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def insert(database: Database, body: str, *, lazily: bool = False) -> None:
    database.write(
        lambda c: c.exec_driver_sql("INSERT INTO event (at, kind, body) VALUES (0, 'test', ?)", (body,)),
        lazily=lazily,
    )


def bodies(database: Database) -> list[str]:
    return database.read(lambda c: list(c.exec_driver_sql("SELECT body FROM event ORDER BY id").scalars()))


def writer(path: Path, name: str, writes: int | None) -> Callable[[int], None]:
    """Write, and say each row after it was acknowledged; open the store anew now and then.

    Without a number it writes until it is killed.
    """

    def work(pipe: int) -> None:
        chance = random.Random(name)
        done = 0
        while writes is None or done < writes:
            database = Database(f"sqlite:///{path}")
            for _ in range(chance.randrange(1, 20)):
                insert(database, f"{name}-{done}", lazily=chance.random() < 0.5)
                os.write(pipe, f"{name}-{done}\n".encode())
                done += 1
            if chance.random() < 0.7:
                database.close()

    return work


def reader(path: Path) -> Callable[[int], None]:
    def work(pipe: int) -> None:
        seen = 0
        for _ in range(LOOKS):
            database = Database(f"sqlite:///{path}")
            for _ in range(3):
                before, seen = seen, len(bodies(database))
                assert seen >= before
            database.close()
        os.write(pipe, b"read\n")

    return work


def test_no_process_ever_meets_a_locked_database(
    path: Path, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself waits for nobody here, so any lock that is met but not queued for is an error."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.0)
    chance = random.Random(SEED)
    processes += [Process(writer(path, f"w{n}", WRITES)) for n in range(WRITERS)]
    processes += [Process(reader(path)) for _ in range(READERS)]
    steady = list(processes)
    acknowledged: list[str] = []
    for kill in range(KILLS):
        victim = Process(writer(path, f"v{kill}", None))
        processes.append(victim)
        time.sleep(chance.uniform(0.01, 0.15))
        victim.signal(signal.SIGKILL)
        code, said = victim.wait()
        assert code == -signal.SIGKILL, "the victim met an error before it was killed"
        acknowledged += said
    for each in steady:
        code, said = each.wait()
        assert code == 0, "a process met an error"
        acknowledged += said
    database = Database(f"sqlite:///{path}")
    found = bodies(database)
    assert len(set(found)) == len(found)
    assert {each for each in acknowledged if each != "read"} <= set(found)
    assert database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    database.close()


def test_a_long_transaction_keeps_others_waiting_but_not_reading(
    path: Path, processes: list[Process]
) -> None:
    database = Database(f"sqlite:///{path}")
    insert(database, "before")
    reading, writing = os.pipe()

    def long(pipe: int) -> None:
        own = Database(f"sqlite:///{path}")

        def hold(connection: object) -> None:
            os.write(pipe, b"begun\n")
            os.read(reading, 1)

        own.write(hold)

    processes.append(Process(long))
    assert os.read(processes[0].reading, 6) == b"begun\n"
    waiting = threading.Thread(target=insert, args=(database, "after"))
    waiting.start()
    wait_for(lambda: is_held(Path(f"{path}-next")))
    another = Database(f"sqlite:///{path}")
    assert bodies(another) == bodies(database) == ["before"]
    another.close()
    os.write(writing, b"x")
    waiting.join()
    assert processes[0].wait() == (0, [])
    assert bodies(database) == ["before", "after"]
    database.close()
    for end in (reading, writing):
        os.close(end)


def is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_who_just_had_the_turn_stands_behind_those_who_wait(path: Path) -> None:
    mine, yours = Turn(str(path)), Turn(str(path))
    order: list[str] = []

    def wait() -> None:
        with yours:
            order.append("you")

    waiting = threading.Thread(target=wait)
    with mine:
        waiting.start()
        wait_for(lambda: is_held(Path(f"{path}-next")))
        order.append("I")
    with mine:
        order.append("I again")
    waiting.join()
    assert order == ["I", "you", "I again"]
    for each in (mine, yours):
        each.close()


def test_a_lock_dies_with_its_process_even_if_a_forked_child_lives(
    path: Path, processes: list[Process]
) -> None:
    def work(pipe: int) -> None:
        with FileLock(str(path)):
            child = os.fork()
            if child == 0:
                signal.pause()
            os.write(pipe, f"{child}\n".encode())
            signal.pause()

    processes.append(Process(work))
    child = int(os.read(processes[0].reading, 20))
    try:
        assert is_held(path)
        processes[0].signal(signal.SIGKILL)
        os.waitpid(processes[0].pid, 0)
        wait_for(lambda: not is_held(path))
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(processes[0].reading)


def test_an_interrupt_ends_the_waiting(path: Path, processes: list[Process]) -> None:
    def work(pipe: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        lock = Turn(str(path))
        try:
            with lock:
                os.write(pipe, b"had it\n")
        except KeyboardInterrupt:
            os.write(pipe, b"interrupted\n")
            with lock:
                os.write(pipe, b"and had it then\n")

    with Turn(str(path)):
        processes.append(Process(work))
        wait_for(lambda: Path(f"{path}-next").exists() and is_held(Path(f"{path}-next")))
        processes[0].signal(signal.SIGINT)
        assert os.read(processes[0].reading, 12) == b"interrupted\n"
    assert processes[0].wait() == (0, ["and had it then"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_files_cannot_be_locked_sqlite_waits_by_itself(
    path: Path, processes: list[Process], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    check_a_few_processes(path, processes)


def test_where_no_lock_file_can_be_made_sqlite_waits_by_itself(path: Path, processes: list[Process]) -> None:
    for name in ("turn", "next", "door"):
        Path(f"{path}-{name}").symlink_to(path.parent / "none" / "such")
    check_a_few_processes(path, processes)


def check_a_few_processes(path: Path, processes: list[Process]) -> None:
    Database(f"sqlite:///{path}").close()
    processes += [Process(writer(path, f"w{n}", 20)) for n in range(3)]
    said = [each.wait() for each in processes]
    assert [code for code, _ in said] == [0, 0, 0]
    database = Database(f"sqlite:///{path}")
    assert sorted(bodies(database)) == sorted(line for _, lines in said for line in lines)
    database.close()


def test_opening_a_store_twice_in_a_process_takes_no_lock_from_it(path: Path) -> None:
    """Whoever closes a file loses the locks that his process has on it: others would think it is not in use."""
    first, second = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    insert(first, "one")
    second.close()
    look = (
        "from sidestage.store.sql_database import Database\n"
        f"Database('sqlite:///{path}').close()\n"  # the last one to close would take the log away
    )
    subprocess.run([sys.executable, "-c", look], check=True)
    insert(first, "two")
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT body FROM event ORDER BY id").fetchall() == [("one",), ("two",)]
    first.close()


def test_a_copy_that_lost_its_mode_gets_it_back(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    insert(database, "one")
    database.close()
    copy = path.with_name("copy")
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database = Database(f"sqlite:///{copy}")
    assert bodies(database) == ["one"]
    with contextlib.closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_a_store_has_one_queue_whatever_links_lead_to_it(path: Path) -> None:
    Database(f"sqlite:///{path}").close()
    link = path.with_name("link")
    link.symlink_to(path)
    database = Database(f"sqlite:///{link}")
    database.write(lambda _: wait_for(lambda: is_held(Path(f"{path}-turn"))))
    database.close()
    assert not Path(f"{link}-turn").exists()
