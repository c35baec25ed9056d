"""Which process is this, and is another one dead?"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.runtime.lifeline import is_dead, this_process

SOURCE = Path(__file__).parents[3] / "src"
DEADLINE_SECONDS = 20.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SAY_WHO = "from sidestage.runtime.lifeline import this_process; print(this_process(), flush=True); input()"


@pytest.fixture
def other():
    """Another process that has said who it is, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAY_WHO],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_a_living_process_is_not_dead(other):
    process, name = other
    host, pid, _ = name.split(":")
    assert (host.partition("~")[0], pid) == (socket.gethostname(), str(process.pid))
    assert not is_dead(name)
    assert not is_dead(this_process())
    assert this_process() == this_process() != name


def test_a_process_of_another_container_with_our_host_name_is_not_known_to_be_dead(other):
    process, name = other
    process.kill()
    process.wait()
    host, rest = name.split(":", 1)
    assert not is_dead(f"{host.partition('~')[0]}~17:{rest}")


def test_a_reaped_process_is_dead(other):
    process, name = other
    process.kill()
    process.wait()
    assert is_dead(name)


@linux
def test_a_killed_process_that_nobody_reaped_is_dead(other):
    process, name = other
    process.kill()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_dead(name):
        assert time.monotonic() < deadline, "a zombie counts as alive"
        time.sleep(0.01)


@linux
def test_another_process_with_the_same_number_is_not_taken_for_it():
    host, pid, started = this_process().rsplit(":", 2)
    assert started.isdigit()
    assert is_dead(f"{host}:{pid}:{int(started) - 1}")


def test_nothing_is_known_of_other_hosts():
    assert not is_dead(f"elsewhere-{socket.gethostname()}:1:1")
    assert not is_dead(f"elsewhere-{socket.gethostname()}:999999999:1")


@linux
def test_a_process_may_be_called_anything(tmp_path):
    strange = tmp_path / os.fsdecode(b") Z 0 \xff\n(")
    strange.symlink_to(sys.executable)
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [strange, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            stat = Path(f"/proc/{process.pid}/stat").read_bytes()
            started = stat.rpartition(b")")[2].split()[19].decode()
            assert not is_dead(f"{socket.gethostname()}:{process.pid}:{started}")
            assert is_dead(f"{socket.gethostname()}:{process.pid}:1")
        finally:
            process.kill()


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(st.text(max_size=40), st.booleans())
def test_other_text_is_never_dead_and_never_an_error(text, here):
    prefix = f"{socket.gethostname()}:" if here else ""
    assert is_dead(prefix + text) in (False, True)
    if ":" not in text:
        assert not is_dead(prefix + text)
