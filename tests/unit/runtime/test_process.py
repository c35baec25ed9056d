"""Warm child processes: messages, death, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from sidestage.runtime.process import ChildProcess, died_of

SOURCE = Path(__file__).parents[3] / "src"
DEADLINE_SECONDS = 20.0

ECHO = """
import os, subprocess, sys, time
from sidestage.runtime.channel import adopt

connection = adopt(int(sys.argv[-1]))
while True:
    message = connection.receive()
    if message is None:
        break
    if message == b"words":
        connection.send(" ".join(sys.argv[1:-1]).encode())
    elif message == b"exit":
        os._exit(7)
    elif message == b"half":
        os.write(connection.fileno(), b"\\0\\0\\0\\0\\0\\0\\1\\0only")
        os._exit(0)
    elif message == b"spawn":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        connection.send(str(child.pid).encode())
    elif message == b"deaf":
        connection.send(b"deaf")
        time.sleep(600)
    else:
        connection.send(message[::-1])
"""

# Starts a child that ties its life to ours, says its number, and then sleeps until it is killed.
PARENT = """
import os, sys, time
from pathlib import Path
from sidestage.runtime.process import ChildProcess

command = [sys.executable, "-m", "tied", str(os.getpid())]
child = ChildProcess(command, directory=Path.cwd(), environment=os.environ)
assert child.channel.receive() == b"ready"
print(child.pid, flush=True)
time.sleep(600)
"""
TIED = """
import sys, time
from sidestage.runtime.channel import adopt
from sidestage.runtime.lifeline import end_with_parent

end_with_parent(int(sys.argv[1]))
adopt(int(sys.argv[2])).send(b"ready")
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually_gone(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not gone(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def folder(tmp_path):
    for name, text in {"echo": ECHO, "parent": PARENT, "tied": TIED}.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def start(folder):
    children: list[ChildProcess] = []

    def make(*arguments: str) -> ChildProcess:
        environment = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}"}
        command = [sys.executable, "-m", "echo", *arguments]
        child = ChildProcess(command, directory=folder, environment=environment)
        children.append(child)
        return child

    yield make
    for child in children:
        child.end()


def test_messages_arrive_whole_and_in_order(start):
    child = start("two", "words")
    messages = [b"", b"ab", bytes(range(256)) * 2_000]
    for message in messages:
        child.send(message)
        assert child.channel.receive() == message[::-1]
    child.send(b"words")
    assert child.channel.receive() == b"two words"


def test_a_child_that_exits_is_noticed(start):
    child = start()
    child.send(b"exit")
    assert child.channel.receive() is None
    child.send(b"nobody hears this")
    assert child.channel.receive() is None
    assert died_of(child.ended()) == "exited with status 7"


def test_a_killed_child_is_noticed(start):
    child = start()
    child.send(b"deaf")
    assert child.channel.receive() == b"deaf"
    os.kill(child.pid, signal.SIGKILL)
    assert child.channel.receive() is None
    assert died_of(child.ended()) == "killed by SIGKILL"


def test_half_a_message_is_none(start):
    child = start()
    child.send(b"half")
    assert child.channel.receive() is None


def test_what_a_child_prints_goes_where_it_was_told(folder, tmp_path):
    with (tmp_path / "printed").open("wb") as file:
        command = [sys.executable, "-m", "no_such_module"]
        child = ChildProcess(command, directory=folder, environment=os.environ, output=file.fileno())
        assert child.channel.receive() is None
        assert child.ended() == 1
    assert "no_such_module" in (tmp_path / "printed").read_text()


@pytest.mark.parametrize("state", ["waiting", "deaf", "exited"])
def test_nothing_that_a_child_started_outlives_it(start, state):
    child = start()
    child.send(b"spawn")
    grandchild = int(child.channel.receive() or b"")
    assert not gone(grandchild)
    if state == "deaf":
        child.send(b"deaf")
        assert child.channel.receive() == b"deaf"
    if state == "exited":
        child.send(b"exit")
        assert child.channel.receive() is None
        assert child.ended() == 7
    else:
        assert child.end() == -signal.SIGKILL
    assert gone(child.pid)
    assert eventually_gone(grandchild)


def test_ending_twice_kills_nobody_else(start, monkeypatch):
    child = start()
    status = child.end()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("the number may be another's by now"))
    assert child.end() == status
    assert child.ended() == status


def test_a_child_sees_that_the_channel_was_closed(start):
    child = start()
    child.channel.close()
    assert child.ended() == 0


def test_what_came_is_returned_without_waiting(start):
    child = start()
    assert child.channel.receive_ready() == []
    for message in (b"ab", b"cd"):
        child.send(message)
    found: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(found) < 2:
        assert time.monotonic() < deadline
        found += child.channel.receive_ready() or []
    assert found == [b"ba", b"dc"]
    child.send(b"exit")
    while child.channel.receive_ready() is not None:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with status 0"), (-15, "killed by SIGTERM"), (-64 - 60, "killed by signal 124")],
)
def test_how_a_process_ended(status, words):
    assert died_of(status) == words


def test_a_child_ends_when_its_parent_is_killed(folder):
    with subprocess.Popen(
        [sys.executable, "parent.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
        parent.wait()
        assert eventually_gone(child)


def test_a_child_whose_parent_is_gone_already_does_not_start(folder):
    code = "from sidestage.runtime.lifeline import end_with_parent; end_with_parent(1234567890); print('still here')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
