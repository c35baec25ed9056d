"""Landlock: what is asked of which kernel, and what it does beyond the attempts of the sandbox's tests."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sidestage.errors import ConfigurationError
from sidestage.runtime import landlock
from sidestage.runtime.landlock import abi, restrict

SOURCE = Path(__file__).parents[3] / "src"
TRUNCATE, REFER, IOCTL = 1 << 14, 1 << 13, 1 << 15


@pytest.fixture
def version():
    """The kernel's version of Landlock."""
    found = abi()
    if not found and os.environ.get("SIDESTAGE_REQUIRE_LANDLOCK") == "1":
        pytest.fail("Landlock is required here, and this kernel has none.")
    if not found:
        pytest.skip("NOT TESTED: this kernel has no Landlock.")
    return found


def restricted(code: str, *arguments: object) -> object:
    """Run code in a process of its own; return the value that it leaves in ``said``."""
    names = """
    import json, os, sys
    from pathlib import Path
    from sidestage.runtime.landlock import restrict
    paths = [Path(word) for word in sys.argv[1:]]
    """
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{textwrap.dedent(names)}\n{textwrap.dedent(code)}\nprint(json.dumps(said))",
            *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("number", range(1, 9))
def test_only_what_the_kernel_knows_is_asked_of_it(number):
    files, network, scopes = landlock._handled(number, network=False)
    assert bool(files & REFER) is (number >= 2)
    assert bool(files & TRUNCATE) is (number >= 3)
    assert bool(network) is (number >= 4)
    assert bool(files & IOCTL) is (number >= 5)
    assert bool(scopes) is (number >= 6)
    assert files & 0x1FFF == 0x1FFF
    assert landlock._handled(number, network=True)[1] == 0
    assert landlock._attributes_size(number) == (8 if number < 4 else 16 if number < 6 else 24)


def test_rules_lead_around_what_is_hidden(tmp_path):
    for name in ("a/x", "a/hidden/inner", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a" / "hidden")
    hidden = (tmp_path / "a" / "hidden",)
    rights = landlock._READ | landlock._WRITE
    rules = {
        str(path.relative_to(tmp_path)): given for path, given in landlock._beside(tmp_path, rights, hidden)
    }
    names = landlock._READ_DIR
    assert rules == {".": names, "a": names, "a/x": rights, "a/file": rights, "b": rights}
    assert list(landlock._beside(hidden[0] / "inner", rights, hidden)) == [(hidden[0] / "inner", rights)]
    assert list(landlock._beside(tmp_path / "b", rights, hidden)) == [(tmp_path / "b", rights)]


def test_a_kernel_without_it_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    assert restrict([Path("/")], []) == 0
    (tmp_path / "made").touch()


def test_the_version_in_force_is_returned(version):
    assert restricted("said = restrict([Path('/')], [])") == version


@pytest.mark.parametrize("which", ["read", "write", "hidden"])
def test_a_path_that_does_not_exist_is_refused_and_nothing_changes(version, tmp_path, which):
    code = f"""
    from sidestage.errors import ConfigurationError
    asked = {{"read": [Path("/")], "write": [], "hidden": []}}
    asked["{which}"].append(paths[0] / "missing")
    try:
        restrict(**asked)
    except ConfigurationError as error:
        said = error.message
    (paths[0] / "made").touch()
    """
    assert str(tmp_path / "missing") in restricted(code, tmp_path)
    assert (tmp_path / "made").exists()


def test_other_threads_are_refused(version, tmp_path):
    code = """
    import threading
    from sidestage.errors import ConfigurationError
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        restrict([Path("/")], [])
    except ConfigurationError as error:
        said = error.message
    finally:
        stop.set()
        thread.join()
    (paths[0] / "made").touch()
    """
    assert "threads" in restricted(code, tmp_path)
    assert issubclass(ConfigurationError, Exception)


def test_reading_can_be_limited_to_folders(version, tmp_path):
    for name in ("seen", "unseen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = """
    restrict([paths[0] / "seen"], [])
    said = [(paths[0] / "seen" / "file").read_text()]
    for path in (paths[0] / "unseen" / "file", Path("/etc/passwd")):
        try:
            said.append(path.read_text())
        except PermissionError:
            said.append("refused")
    """
    assert restricted(code, tmp_path) == ["seen", "refused", "refused"]


def test_names_beside_what_is_hidden_can_be_listed(version, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "module.py").write_text("name = 'found'")
    code = """
    restrict([Path("/")], [], hidden=[paths[0] / "hidden"])
    sys.path.insert(0, str(paths[0]))
    import module
    said = module.name
    """
    assert restricted(code, tmp_path) == "found"


def test_a_folder_may_be_hidden_in_one_that_is_writable(version, tmp_path):
    for name in ("hidden", "other"):
        (tmp_path / name).mkdir()
    code = """
    restrict([Path("/")], [paths[0]], hidden=[paths[0] / "hidden"])
    said = []
    for name in ("other/made", "hidden/made", "made"):
        try:
            (paths[0] / name).write_text("x")
            said.append("done")
        except PermissionError:
            said.append("refused")
    """
    assert restricted(code, tmp_path) == ["done", "refused", "refused"]


def test_files_move_between_writable_folders(version, tmp_path):
    if version < 2:
        pytest.skip("NOT TESTED: this version of Landlock always refuses it.")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    code = """
    restrict([Path("/")], [paths[0] / "one", paths[0] / "two"])
    (paths[0] / "one" / "file").write_text("x")
    (paths[0] / "one" / "file").rename(paths[0] / "two" / "file")
    os.link(paths[0] / "two" / "file", paths[0] / "one" / "again")
    said = (paths[0] / "one" / "again").read_text()
    """
    assert restricted(code, tmp_path) == "x"


@pytest.mark.parametrize("network", [True, False])
def test_network(version, network):
    if version < 4:
        pytest.skip("NOT TESTED: this version of Landlock does not know of the network.")
    code = """
    import socket
    restrict([Path("/")], [], network=sys.argv[2] == "True")
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10).close()
        said = "done"
    except PermissionError:
        said = "refused"
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = restricted(code, server.getsockname()[1], network)
    assert said == ("done" if network else "refused")


def test_what_it_starts_is_restricted_and_can_be_signalled(version, tmp_path):
    code = """
    import signal, subprocess
    restrict([Path("/")], [])
    child = subprocess.Popen(["sleep", "600"])
    child.kill()
    made = subprocess.run(["touch", str(paths[0] / "made")], stderr=subprocess.DEVNULL).returncode
    said = [child.wait(), made != 0]
    """
    assert restricted(code, tmp_path) == [-9, True]
    assert not (tmp_path / "made").exists()


def test_the_usual_libraries_work_behind_it(version, tmp_path):
    code = """
    os.environ["TMPDIR"] = str(paths[0])
    restrict([Path("/")], [paths[0]])
    import duckdb, polars, pyarrow.parquet
    file = paths[0] / "rows.parquet"
    polars.DataFrame({"a": [1, 2]}).write_parquet(file)
    with duckdb.connect() as duck:
        total = duck.execute(f"SELECT sum(a)::INT FROM '{file}'").fetchall()[0][0]
    said = [total, pyarrow.parquet.read_table(file).num_rows]
    """
    assert restricted(code, tmp_path) == [3, 2]
