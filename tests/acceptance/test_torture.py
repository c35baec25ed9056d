"""The short form of the fault campaign: a few faults of each family, and every negative control."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter

import pytest
from torture.__main__ import FAMILIES, REQUIRE
from torture.acknowledged import Acknowledged, read
from torture.ioerrors import lies
from torture.oracle import Findings
from torture.report import Row, table
from torture.rig import HERE, fresh_environment
from torture.tracing import Trace

from conftest import MARK

CONTROLS = {
    "powercuts": ["without file sync", "without commit sync"],
    "ioerrors": ["sync errors overlooked"],
    "diskfull": ["write errors overlooked"],
    "clock": ["leases by the wall clock"],
    "postgres": ["commits not written"],
    "pause": ["without fencing"],
}


def campaign(folder, session_mark, *words):
    """Run the campaign in a process of its own; return its status, its rows and what it printed."""
    report = folder / "report.json"
    environment = {**fresh_environment(folder), MARK: session_mark}
    environment |= {name: value for name, value in os.environ.items() if name == REQUIRE}
    # A database server, which does not run as root, could not reach a folder of the tests.
    environment["TMPDIR"] = tempfile.gettempdir()
    done = subprocess.run(
        [sys.executable, "-m", "torture", "--short", "--json", str(report), *words],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    rows = json.loads(report.read_text())["rows"] if report.exists() else []
    return done.returncode, rows, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_promises_are_kept_and_controls_are_found_guilty(family, tmp_path, session_mark, capsys):
    status, rows, printed = campaign(tmp_path, session_mark, "--only", family)
    assert len(rows) == 1, printed
    (row,) = rows
    assert (status, row["good"]) == (0, True), printed
    if row["skipped"]:
        with capsys.disabled():
            print(f"\n{family} WAS SKIPPED: {row['skipped']}")  # noqa: T201  # skipped aloud
        pytest.skip(row["skipped"])
    assert sum(row["injected"].values()) > 0
    assert row["acknowledged"] > 0
    for control in CONTROLS.get(family, ()):
        assert f"{control}: fails as it must" in row["control"]


def test_a_family_that_is_not_there_is_refused(tmp_path, session_mark):
    status, rows, printed = campaign(tmp_path, session_mark, "--only", "floods")
    assert (status, rows) == (2, [])
    assert "no such family: floods" in printed


def test_a_trace_tells_what_was_acknowledged_although_a_sync_had_failed():
    version = "0123456789abcdef01234567"
    failed = [
        f'7 openat(AT_FDCWD</p>, "/lake/d/.a~{version}.parquet.tmp", O_WRONLY|O_CREAT, 0444) = 5</lake/d/x>',
        f"7 fsync(5</lake/d/.a~{version}.parquet.tmp>) = -1 EIO (Input/output error) (INJECTED)",
    ]
    assert lies(Trace(failed), {version}) != []
    assert lies(Trace(failed), set()) == []
    commit = ["7 fdatasync(6</s/catalog.db-wal>) = -1 EIO (Input/output error) (INJECTED)"]
    spoken = [f'7 write(9<pipe:[1]>, "1.5 1 d@p0 {version}\\n", 50) = 50']
    synced = ["7 fdatasync(6</s/catalog.db-wal>) = 0"]
    assert lies(Trace([*commit, *spoken]), {version}) != []
    assert lies(Trace([*commit, *synced, *spoken]), {version}) == []


def test_a_row_is_good_only_without_findings_and_with_a_guilty_control():
    row = Row("family", Counter(kind=3), acknowledged=7, recovery=[0.25])
    assert row.is_good
    row.judge_control("safeguard", ["lost: something"])
    assert row.is_good
    assert row.control == "safeguard: fails as it must"
    row.judge_control("other", [])
    assert not row.is_good
    assert "DOES NOT FAIL" in table([row])
    for kind in Findings().by_kind():
        broken = Row("family")
        broken.findings.by_kind()[kind].append("this")
        assert not broken.is_good
    assert not Row("family", manual=1).is_good


def test_what_was_skipped_is_said_in_its_row():
    assert table([Row("family", skipped="needs root")]).splitlines()[1].split() == [
        *("family", "SKIPPED", "needs", "root")
    ]


def test_a_line_that_was_not_finished_acknowledges_nothing():
    said = Acknowledged(1.5, 2, "d@p", "v1").spoken() + "2.5 2 d@q v2"
    assert [each.version for each in read(said.encode())] == ["v1"]
    assert read(said.encode(), before=1.5) == []


@pytest.mark.parametrize("required", ["1", ""])
def test_a_tool_that_is_not_there_is_skipped_aloud_or_a_failure_where_it_is_required(
    required, tmp_path, session_mark, monkeypatch
):
    monkeypatch.setenv(REQUIRE, required)
    monkeypatch.setenv("PATH", str(tmp_path))
    status, (row,), printed = campaign(tmp_path, session_mark, "--only", "ioerrors")
    assert "WAS SKIPPED: needs strace" in printed
    assert (status, row["good"]) == ((1, False) if required else (0, True))
