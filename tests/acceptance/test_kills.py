"""kill -9 anywhere, any time, any process: nothing published is lost, half, or done twice.

The campaign itself is ``torture.kills``; here are its short form, and what shows that its judge is not blind.
"""

import os
import random
import statistics
import subprocess
import sys
import time

import pytest
from torture import kills
from torture.kills import ALL, CODE, DAYS, Campaign, Reader, judge_project, look
from torture.report import Row
from torture.rig import MARK, Rig

from conftest import MARK as SESSION

KILLS = int(os.environ.get("SIDESTAGE_KILLS", "100"))
SEED = int(os.environ.get("SIDESTAGE_KILLS_SEED", "20260101"))

pytestmark = pytest.mark.slow


@pytest.fixture
def make(session_mark):
    """A factory of rigs whose processes are found by this session, too."""

    def made(folder, code):
        return Rig.make(folder, code, environment={SESSION: session_mark})

    return made


def test_a_hundred_kills_at_random_moments(make, tmp_path, record_property, capsys):
    """Projects are made anew until all kills are spent.

    Each is filled from nothing and then made again by changed code, over what is there, while a reader reads.
    """
    began = time.monotonic()
    row = kills.kill_commands(KILLS, SEED, tmp_path, make)
    assert row.findings.all() == [], f"seed {SEED}"
    assert row.manual == 0
    assert row.injected.total() >= KILLS
    assert set(row.injected) == {"main", "worker", "both"}, "every kind of kill must have happened"
    assert row.acknowledged > 0
    record_property("kills", row.injected.total())
    median = statistics.median(row.recovery)
    record_property("median_seconds_to_publication", median)
    with capsys.disabled():
        print(  # noqa: T201  # the figures are wanted, also when all is well
            f"\n{dict(row.injected)} kills, {row.notes[0]}, in {time.monotonic() - began:.0f} s; from restart to "
            f"the first publication: median {median:.2f} s of {len(row.recovery)}"
        )


HALF_FILES = '''
"""A lake whose files are complete only when the next one is written: what the platform must never be."""
from sidestage.data import lake_writer

pending = []
honest = lake_writer.LakeWriter.write


def write(self, *arguments, **limits):
    for path, data in pending:
        replace(path, data)
    stored = honest(self, *arguments, **limits)
    path = self.root / stored.path
    pending[:] = [(path, path.read_bytes())]
    replace(path, path.read_bytes()[: stored.bytes // 2])
    return stored


def replace(path, data):
    path.unlink()
    path.write_bytes(data)


lake_writer.LakeWriter.write = write
'''


def test_the_oracle_sees_a_lake_that_publishes_before_a_file_is_complete(make, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(HALF_FILES)
    rig = make(tmp_path, CODE.replace("row_count(at_least=50)", "").replace('unique("n"),', ""))
    rig.environment["PYTHONPATH"] = os.pathsep.join((str(broken), rig.environment["PYTHONPATH"]))
    rig("status")
    row = Row("control")
    campaign = Campaign(rig, random.Random(SEED), row, "--task", "make_left")
    with Reader(rig) as reader:
        campaign.complete(1, DAYS)
    assert reader.looks
    assert any("left/" in entry and "bytes" in entry for entry in row.findings.torn)
    assert any("left/" in entry and "bytes" in entry for entry in judge_project(rig).torn)
    with pytest.raises(Exception, match=r"parquet|too small|magic"), rig.store() as store:
        look(store, rig.lake)


def test_the_oracle_sees_steps_that_run_again_although_published(make, tmp_path):
    rig = make(tmp_path, CODE)
    rig("status")
    row = Row("control")
    campaign = Campaign(rig, random.Random(SEED), row, *ALL, "--recompute", "--reason", "control")
    campaign.complete(0)
    assert row.findings.all() == []
    campaign.cycle()
    assert any("ran again although published before" in entry for entry in row.findings.twice)


def test_the_oracle_sees_what_was_acknowledged_and_is_gone(make, tmp_path):
    rig = make(tmp_path, CODE)
    running = rig.start("run", "small", *ALL)
    assert running.end()[0] == 0
    said = running.acknowledged()
    assert len(said) == kills.STEPS
    rig.state.rename(tmp_path / "lost")
    rig("status")
    with rig.store() as store:
        found = kills.Judge(rig.lake).judge(store, said)
    assert len(found.lost) == kills.STEPS


def test_the_oracle_sees_files_scratch_and_processes_that_were_left(make, tmp_path):
    rig = make(tmp_path, CODE)
    rig("run")
    assert judge_project(rig).all() == []
    (rig.state / "lake" / "left" / "stray").write_text("")
    (rig.state / "scratch" / "stray").mkdir()
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env=rig.environment) as process:
        assert rig.environment[MARK]
        assert rig.end_all(seconds=0.0) == [f"{process.pid}: {sys.executable} -c {code}"]
    assert judge_project(rig).orphans == ["left in the lake: left/stray", "left in scratch: stray"]
