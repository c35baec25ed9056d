"""Bubblewrap around a worker: the real program, the channel through it, and that nothing outlives its starter."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import psutil
import pytest

from sidestage.clock import SystemClock
from sidestage.errors import ConfigurationError
from sidestage.policy.limits import Limits
from sidestage.runtime.bubblewrap import PARENT_INSIDE, works, wrapped
from sidestage.runtime.orphans import descendants
from sidestage.runtime.watch import Watch

SOURCE = Path(__file__).parents[2] / "src"
MARK = "SIDESTAGE_TEST_BUBBLEWRAP"
DEADLINE_SECONDS = 180.0


def test_without_the_program_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="no program bwrap") as caught:
        wrapped(["true"], writable=())
    assert "Install the package bubblewrap" in caught.value.hint
    assert not works()


@pytest.fixture
def bwrap():
    """The real program, which must work here."""
    if not works():
        if os.environ.get("SIDESTAGE_REQUIRE_BWRAP") == "1":
            pytest.fail("Bubblewrap is required here, and there is none that works.")
        pytest.skip("NOT TESTED: there is no Bubblewrap here that works. Install the package bubblewrap.")
    return shutil.which("bwrap")


@pytest.fixture
def session():
    """A word in the environment of all processes of a test, none of which may be left."""
    word = uuid.uuid4().hex
    yield word
    assert eventually(lambda: not marked(word)), "processes were left running"


def marked(word: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == word and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def eventually(true) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(command, *, session="", **options):
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(SOURCE), MARK: session},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        **options,
    )


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def test_the_inner_path_decides(bwrap, tmp_path):
    for name in ("w/hidden/seen", "w/hidden/open/closed", "w/hidden/unseen"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    code = """
        import sys
        from pathlib import Path
        root = Path(sys.argv[1])
        print(sorted(path.name for path in (root / "hidden").iterdir()))
        print((root / "hidden" / "seen" / "file").read_text(), list((root / "hidden/open/closed").iterdir()))
        for name in ("new", "hidden/new", "hidden/seen/new", "hidden/open/new", "hidden/open/closed/new"):
            try:
                (root / name).write_text("x")
                print(name)
            except OSError:
                pass
    """
    root = tmp_path / "w"
    hidden = root / "hidden"
    command = wrapped(
        python(code, root),
        writable=[hidden / "open", root],
        readable=[hidden / "seen"],
        hidden=[hidden / "open" / "closed", hidden],
    )
    ended = run(command)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["['open', 'seen']", "x []", "new", "hidden/open/new"]


def test_paths_must_exist(bwrap, tmp_path):
    for which in ("writable", "readable", "hidden"):
        with pytest.raises(ConfigurationError, match="missing"):
            wrapped(["true"], **{"writable": (), which: [tmp_path / "missing"]})


def test_it_sees_only_its_own_processes(bwrap):
    code = "import os; print(os.getppid(), sum(name.isdecimal() for name in os.listdir('/proc')))"
    ended = run(wrapped(python(code), writable=()))
    assert ended.stdout == f"{PARENT_INSIDE} 2\n", ended.stderr


def test_it_has_no_powers_even_of_root(bwrap):
    code = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm'))])"
    assert run(wrapped(python(code), writable=())).stdout == f"{['0' * 16] * 2}\n"
    code = """
        from pathlib import Path
        for path in ("/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness"):
            try:
                Path(path).write_text(Path(path).read_text())
                print(path)
            except OSError:
                pass
    """
    assert run(wrapped(python(code), writable=())).stdout == ""


def test_devices(bwrap):
    code = """
        import os
        with open("/dev/null", "w") as nothing: nothing.write("x")
        print(sorted(os.listdir("/dev/shm")), len(open("/dev/urandom", "rb").read(3)))
    """
    with open("/dev/shm/sidestage-test-" + uuid.uuid4().hex, "w") as shared:  # noqa: PTH123
        try:
            assert run(wrapped(python(code), writable=())).stdout == "[] 3\n"
        finally:
            Path(shared.name).unlink()
    command = wrapped(
        python('open("/dev/fuse" if 0 else "/dev/zero", "rb").read(1)'), writable=[Path("/dev/zero")]
    )
    assert command[command.index("--dev-bind") + 1] == "/dev/zero"
    assert run(command).returncode == 0


@pytest.mark.parametrize("network", [True, False])
def test_network(bwrap, network):
    code = """
        import socket, sys
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60).close()
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = wrapped(python(code, server.getsockname()[1]), writable=(), network=network)
        assert (run(command).returncode == 0) is network


def test_how_it_ended_shows_outside(bwrap):
    assert run(wrapped(["sh", "-c", "exit 7"], writable=())).returncode == 7
    assert run(wrapped(["sh", "-c", "kill -KILL $$"], writable=())).returncode == 128 + signal.SIGKILL


ECHO = """
    import os, socket, subprocess, sys
    from sidestage.runtime.lifeline import end_with_parent

    end_with_parent(int(sys.argv[1]))
    end = socket.socket(fileno=int(sys.argv[2]))
    while message := end.recv(100):
        if message == b"spawn":
            subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)"])
        if message == b"exit":
            os._exit(3)
        end.sendall(message[::-1])
"""


@pytest.fixture
def worker(bwrap, session):
    """A wrapped worker that echoes, and our end of its channel."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_SECONDS)
    process = subprocess.Popen(
        wrapped(python(ECHO, PARENT_INSIDE, theirs.fileno()), writable=()),
        env={**os.environ, "PYTHONPATH": str(SOURCE), MARK: session},
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    yield process, ours
    ours.close()
    process.kill()
    process.wait()


def said(end: socket.socket, message: bytes) -> bytes:
    end.sendall(message)
    return end.recv(100)


def test_the_channel_goes_through(worker):
    process, end = worker
    assert said(end, b"abc") == b"cba"
    assert said(end, b"exit") == b"", "the other end is closed as soon as the worker ends"
    assert process.wait(DEADLINE_SECONDS) == 3


def test_what_is_inside_is_in_the_family_outside(worker, session):
    process, end = worker
    said(end, b"spawn")
    # A process that is just starting its program shows no environment for a moment.
    assert eventually(lambda: len(marked(session)) == 4)
    assert {process.pid, *descendants(process.pid)} == set(marked(session))


def test_a_watch_sees_inside(bwrap, session, tmp_path):
    code = """
        import os, sys, tempfile, time
        block = bytearray(60_000_000)
        block[::4096] = b"x" * len(range(0, len(block), 4096))
        file = tempfile.TemporaryFile(dir=sys.argv[1])
        file.write(os.urandom(3_000_000))
        file.flush()
        print("up", flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        wrapped(python(code, tmp_path), writable=[tmp_path]),
        env={**os.environ, MARK: session},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"up\n"
        seen = Watch(process.pid, Limits(memory="1 GB", temporary="1 GB"), tmp_path, SystemClock()).usage()
    finally:
        process.kill()
        process.communicate()
    assert 60_000_000 < seen.memory < 100_000_000
    assert seen.temporary >= 3_000_000


def test_killing_the_wrapper_ends_all_inside(worker, session):
    process, end = worker
    said(end, b"spawn")
    os.killpg(process.pid, signal.SIGKILL)
    assert eventually(lambda: not marked(session))


def test_a_worker_that_ends_takes_with_it_what_it_started(worker, session):
    process, end = worker
    said(end, b"spawn")
    end.sendall(b"exit")
    assert process.wait(DEADLINE_SECONDS) == 3
    assert eventually(lambda: not marked(session))


STARTER = """
    import subprocess, sys, time
    from sidestage.runtime.bubblewrap import wrapped
    inside = "import sys, time; from sidestage.runtime.lifeline import end_with_parent;"
    inside += "end_with_parent(1); print('up', flush=True); time.sleep(600)"
    subprocess.Popen(wrapped([sys.executable, "-c", inside], writable=()), start_new_session=True)
    time.sleep(600)
"""


def test_it_does_not_outlive_a_starter_that_was_killed(bwrap, session):
    starter = subprocess.Popen(
        python(STARTER),
        env={**os.environ, "PYTHONPATH": str(SOURCE), MARK: session},
        stdout=subprocess.PIPE,
    )
    try:
        assert starter.stdout.readline() == b"up\n"
        assert eventually(lambda: len(marked(session)) == 4), "starter, wrapper, its process 1, worker"
    finally:
        starter.kill()
        starter.communicate()
    assert eventually(lambda: not marked(session))
