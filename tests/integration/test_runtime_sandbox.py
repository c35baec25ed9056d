"""The wall around code that is not trusted, tested by trying to get through."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from tests.integration.runtime_hostile import POWERS, READS, SECRET, SIGNALS, WRITES

from sidestage.runtime.sandbox import Sandbox, available

SOURCE = Path(__file__).parents[2] / "src"
HOSTILE = Path(__file__).parent / "runtime_hostile.py"
HERE = available()
WALLS = ("landlock", "strict")
NAMES = {"landlock": "landlock-", "strict": "bubblewrap"}
NEEDED = {"landlock": "SIDESTAGE_REQUIRE_LANDLOCK", "strict": "SIDESTAGE_REQUIRE_BWRAP"}


def require(level: str) -> None:
    if level in HERE:
        return
    if os.environ.get(NEEDED[level]) == "1":
        pytest.fail(f"The sandbox level {level} is required here, and this host cannot build it.")
    pytest.skip(f"NOT TESTED: this host cannot build the sandbox level {level} (it can build {HERE}).")


def laid_out(root: Path) -> Path:
    """Make the folders that the hostile task knows of."""
    for name in ("writable/tmp", "others/empty", "hidden/deep", "hidden/lake", "hidden/scratch"):
        (root / name).mkdir(parents=True)
    for attempt in WRITES:
        (root / "others" / attempt.__name__).write_text("kept")
    (root / "hidden" / "catalog.db").write_text(SECRET)
    (root / "hidden" / "deep" / "secret").write_text(SECRET)
    (root / "hidden" / "lake" / "rows").write_text("rows")
    (root / "beside").write_text("beside")
    (root / "link-to-hidden").symlink_to("hidden")
    return root


def content(root: Path) -> dict[str, str]:
    """Return all that lies outside of the writable folders."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not name.startswith(("writable/", "hidden/scratch/")):
            found[name] = path.read_text() if path.is_file() and not path.is_symlink() else "no file"
    return found


def attacked(root: Path, level: str) -> dict[str, str]:
    """Let the hostile task loose on a folder; return what each attempt brought."""
    sandbox = Sandbox(
        level=level,
        writable=(str(root / "writable"), str(root / "hidden" / "scratch")),
        readable=(str(root / "hidden" / "lake"),),
        hidden=(str(root / "hidden"),),
    )
    command = [
        sys.executable,
        str(HOSTILE),
        str(root),
        str(os.getpid()),
        msgspec.json.encode(sandbox).decode(),
    ]
    with (root / "hidden" / "catalog.db").open():  # a descriptor of ours that it may look for
        ended = subprocess.run(
            sandbox.command(command),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(SOURCE), str(SOURCE.parent))),
                "TMPDIR": str(root / "writable" / "tmp"),
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def attacks(tmp_path_factory):
    """What the hostile task did at each level: the contents before and after, and its own account."""
    done = {}

    def at(level):
        if level not in done:
            root = laid_out(tmp_path_factory.mktemp(level) / "project")
            before = content(root)
            account = attacked(root, level)
            done[level] = (before, content(root), account)
        return done[level]

    return at


@pytest.mark.parametrize("level", WALLS)
def test_nothing_outside_was_changed(attacks, level):
    require(level)
    before, after, _ = attacks(level)
    assert after == before


@pytest.mark.parametrize("level", WALLS)
@pytest.mark.parametrize("attempt", [attempt.__name__ for attempt in WRITES])
def test_writing_elsewhere_is_refused(attacks, level, attempt):
    require(level)
    assert attacks(level)[2][attempt].startswith("refused: ")


@pytest.mark.parametrize("level", WALLS)
@pytest.mark.parametrize("attempt", [attempt.__name__ for attempt in READS])
def test_hidden_files_cannot_be_read(attacks, level, attempt):
    require(level)
    assert attacks(level)[2][attempt].startswith("refused: ")


@pytest.mark.parametrize("level", WALLS)
@pytest.mark.parametrize("attempt", [attempt.__name__ for attempt in (*POWERS, *SIGNALS)])
def test_the_wall_cannot_be_taken_down(attacks, level, attempt):
    require(level)
    account = attacks(level)[2]
    if attempt == "signal_starter" and account["holds"] in {f"landlock-{n}" for n in range(6)}:
        pytest.skip("NOT TESTED: this version of Landlock does not know of signals.")
    assert account[attempt].startswith("refused: ")


@pytest.mark.parametrize("level", ["none", *WALLS])
def test_honest_work_goes_on(attacks, level):
    if level != "none":
        require(level)
    assert attacks(level)[2]["usual_work"] == "worked"


@pytest.mark.parametrize("level", ["none", *WALLS])
def test_what_holds_is_said(attacks, level):
    if level != "none":
        require(level)
    holds = attacks(level)[2]["holds"]
    assert holds.startswith(NAMES[level]) if level != "none" else holds == "none"


def test_without_a_wall_every_attempt_gets_through(attacks):
    """The attempts are worth something only if they are able to succeed."""
    before, after, account = attacks("none")
    assert after != before
    for attempt in WRITES:
        assert account[attempt.__name__] == "done", attempt.__name__
    for attempt in READS:
        assert account[attempt.__name__] == SECRET, attempt.__name__
    assert account["signal_starter"] == "done"


def test_strict_is_not_claimed_without_its_wrapper(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDESTAGE_SANDBOX", "bwrap")
    assert Sandbox(level="strict", hidden=(str(tmp_path),)).apply() == "none"


def test_no_wall_changes_nothing():
    assert Sandbox().command(["a", "b"]) == ["a", "b"]
    assert Sandbox().apply() == "none"
    assert Sandbox().parent() == os.getpid()
    assert tempfile.gettempdir()


def test_a_sandbox_travels_as_json():
    sandbox = Sandbox(level="landlock", writable=("/a",), hidden=("/b",), network=False)
    assert msgspec.json.decode(msgspec.json.encode(sandbox), type=Sandbox) == sandbox
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"level": "paper"}', type=Sandbox)


def test_levels_are_named_weakest_first():
    assert HERE[0] == "none"
    assert [level for level in ("none", *WALLS) if level in HERE] == list(HERE)
