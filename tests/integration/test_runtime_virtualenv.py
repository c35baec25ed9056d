"""Environments for lock files: made once, whole or not at all, by one of several processes.

The packages are made here and lie in a folder; that uv can install what Sidestage itself needs is tested once,
with the index that this host is set up for.
"""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import sidestage
from sidestage.errors import ConfigurationError
from sidestage.runtime.unused import remove_environments, unused_environments
from sidestage.runtime.virtualenv import Environments

SOURCE = Path(__file__).parents[2] / "src"
DEADLINE_SECONDS = 180.0


def wheel(folder: Path, name: str, version: str, code: str) -> str:
    """Make a package of one module; return the line of a lock file that means it."""
    files = {
        f"{name}.py": code,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_digest(text.encode())},{len(text)}\n" for path, text in files.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
        archive.writestr(
            f"{name}-{version}.dist-info/RECORD", f"{record}{name}-{version}.dist-info/RECORD,,\n"
        )
    return f"{name} @ {path.as_uri()} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"sha256={digest}"


@pytest.fixture
def lock(tmp_path):
    """The text of a lock file that brings a stand-in for Sidestage, so that nothing comes from an index."""
    ours = wheel(tmp_path, "sidestage", "9", f"__version__ = {sidestage.__version__!r}")
    return f"{ours}\n{wheel(tmp_path, 'small', '1', 'answer = 42')}\n"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "environments"


def said(python: Path, code: str) -> str:
    asked = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.strip()


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_an_environment_has_what_the_lock_says_and_is_made_once(cache, lock, tmp_path):
    environments = Environments(cache)
    python = environments.interpreter(lock)
    assert said(python, "import small; print(small.answer)") == "42"
    made = python.parent.stat().st_mtime_ns
    file = tmp_path / "requirements.lock"
    file.write_text(lock)
    assert environments.interpreter(file) == python
    assert Environments(cache, uv=("false",)).interpreter(lock) == python
    assert python.parent.stat().st_mtime_ns == made
    assert left(cache) == [python.parents[1].name]


def test_other_text_is_another_environment(cache, lock):
    environments = Environments(cache)
    first, second = environments.interpreter(lock), environments.interpreter(lock.splitlines()[0])
    assert first != second
    assert said(second, "import importlib.util as u; print(u.find_spec('small'))") == "None"


def test_what_pythonpath_adds_is_not_in_it(cache, lock):
    spec = "import importlib.util as u; print(u.find_spec('pyarrow'))"
    assert said(Environments(cache).interpreter(lock), spec) == "None"


def test_a_wrong_hash_is_refused_and_leaves_nothing(cache, lock):
    wrong = lock.replace("--hash=sha256:", "--hash=sha256:0")[:-2] + "\n"
    with pytest.raises(ConfigurationError, match=r"uv could not make the environment") as caught:
        Environments(cache).interpreter(wrong)
    assert "hash" in caught.value.message.lower()
    assert caught.value.hint
    assert left(cache) == []


def test_a_line_without_a_hash_among_others_is_refused(cache, lock):
    first, second = lock.splitlines()
    with pytest.raises(ConfigurationError, match="hash"):
        Environments(cache).interpreter(f"{first}\n{second.partition(' --hash')[0]}\n")
    assert left(cache) == []


@pytest.mark.parametrize(
    "line",
    ["-r other.txt", "--requirement=other.txt", "-c pins.txt", "-e .", "--editable ./x", " -rother.txt"],
)
def test_text_that_stands_for_more_is_refused(cache, line):
    with pytest.raises(ConfigurationError, match="Line 2 of a lock file refers to something outside"):
        Environments(cache).interpreter(f"# comment\n{line}\n")
    assert not cache.exists()


def test_a_lock_file_that_is_not_there(cache, tmp_path):
    with pytest.raises(ConfigurationError, match=r"missing\.lock cannot be read"):
        Environments(cache).interpreter(tmp_path / "missing.lock")


def test_another_version_of_sidestage_is_refused(cache, tmp_path):
    other = wheel(tmp_path, "sidestage", "9", "__version__ = '0.0.7'")
    with pytest.raises(ConfigurationError, match=r"brings Sidestage 0\.0\.7, and .* is running"):
        Environments(cache).interpreter(other)
    assert left(cache) == []


def test_without_uv_it_says_so(cache, lock, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uv" else find(name))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="there is no uv on this host") as caught:
        Environments(cache).interpreter(lock)
    assert caught.value.hint == "Install it: pip install uv"
    assert left(cache) == []


MAKE = """
    import json, sys
    from pathlib import Path
    from sidestage.runtime.virtualenv import Environments

    cache, lock, uv = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    print(Environments(Path(cache), uv).interpreter(lock))
"""


def start(cache: Path, lock: str, uv: list[str] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(MAKE), str(cache), lock, json.dumps(list(uv))],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def spying_uv(folder: Path, tail: str = "") -> list[str]:
    """Return a uv that writes down what it is asked for, and then does ``tail`` or what it was asked."""
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv")]
    script = folder / f"uv-{len(tail)}.sh"
    script.write_text(f'#!/bin/sh\necho "$1" >> "{folder}/asked"\n{tail}\nexec {" ".join(uv)} "$@"\n')
    script.chmod(0o755)
    return [str(script)]


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split() if (folder / "asked").exists() else []


def test_of_several_processes_one_makes_it(cache, lock, tmp_path):
    uv = spying_uv(tmp_path)
    processes = [start(cache, lock, uv) for _ in range(3)]
    pythons = {process.communicate(timeout=DEADLINE_SECONDS)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(pythons) == 1
    assert said(Path(pythons.pop()), "import small; print(small.answer)") == "42"
    assert asked(tmp_path) == ["venv", "pip"]
    assert len(left(cache)) == 1


def test_a_kill_half_way_leaves_nothing_usable_and_the_next_one_clears_up(cache, lock, tmp_path):
    killed = start(cache, lock, spying_uv(tmp_path, '[ "$1" = pip ] && exec sleep 600'))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while asked(tmp_path) != ["venv", "pip"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(left(cache)) == 1
    assert left(cache)[0].startswith("."), "what is half made has not its final name"
    python = Environments(cache).interpreter(lock)
    assert said(python, "import small; print(small.answer)") == "42"
    assert left(cache) == [python.parents[1].name]


def test_a_uv_that_outlives_its_maker_is_waited_for(cache, lock, tmp_path):
    go = tmp_path / "go"
    go.touch()
    tail = f'[ "$1" = pip ] && while [ -e "{go}" ]; do sleep 0.01; done && [ "$1" = pip ] && exit 1'
    killed = start(cache, lock, spying_uv(tmp_path, tail))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while asked(tmp_path) != ["venv", "pip"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()  # it alone
    killed.communicate()
    following = start(cache, lock)
    with pytest.raises(subprocess.TimeoutExpired):
        following.communicate(timeout=1.0)
    go.unlink()
    following.communicate(timeout=DEADLINE_SECONDS)
    assert following.returncode == 0
    assert len(left(cache)) == 1


HOLD = """
    import os, sys
    from pathlib import Path
    from sidestage.runtime.virtualenv import Environments

    Environments(Path(sys.argv[1])).hold(sys.argv[2])
    code = "import sys; print('became another program', flush=True); sys.stdin.read()"
    os.execv(sys.executable, [sys.executable, "-c", code])
"""


def test_an_environment_in_use_is_not_removed_however_long_ago_it_was_made(cache, lock):
    later = datetime.now(UTC) + timedelta(days=100)
    python = Environments(cache).interpreter(lock)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(cache), lock],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "became another program\n"
        assert unused_environments(cache, later) == ()
        assert remove_environments(cache, left(cache), later) == ()
        assert said(python, "import small; print(small.answer)") == "42"
        holder.stdin.close()
    assert remove_environments(cache, unused_environments(cache, later), later) == (python.parents[1].name,)
    assert left(cache) == []
    assert said(Environments(cache).interpreter(lock), "import small; print(small.answer)") == "42"


def test_to_ask_for_an_environment_is_to_use_it(cache, lock):
    python = Environments(cache).interpreter(lock)
    os.utime(python.parents[1], (0, 0))
    since = datetime.now(UTC) - timedelta(days=1)
    assert unused_environments(cache, since) == (python.parents[1].name,)
    Environments(cache).interpreter(lock)
    assert unused_environments(cache, since) == ()


def test_the_copy_of_sidestage_that_runs_is_added(cache, tmp_path):
    line = wheel(tmp_path, "small", "1", "answer = 42")
    python = Environments(cache).interpreter(f"{line}\n")
    code = "import sidestage.run.child, small; print(sidestage.__file__, small.answer)"
    assert said(python, code) == f"{Path(sidestage.__file__).resolve()} 42"
