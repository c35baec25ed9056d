"""kill -9 anywhere, any time, any process: nothing published is lost, half, or done twice."""

import os
import random
import statistics
import subprocess
import time
from dataclasses import replace

import pytest
from campaign import (
    CODE,
    DATASETS,
    DAYS,
    Campaign,
    Readers,
    Tally,
    catalog,
    judge_project,
    lake_of,
    look,
    orphan_processes,
)

KILLS = int(os.environ.get("SIDESTAGE_KILLS", "100"))
SEED = int(os.environ.get("SIDESTAGE_KILLS_SEED", "20260101"))
KILLS_EACH = 17
STEPS = len(DATASETS) * DAYS

pytestmark = pytest.mark.slow


def test_a_hundred_kills_at_random_moments(new_project, record_property, capsys):
    """Projects are made anew until all kills are spent.

    Each is filled from nothing and then made again by changed code, over what is there, while readers read.
    """
    chance, tally, wrong, number = random.Random(SEED), Tally(), [], 0
    began = time.monotonic()
    while (left := KILLS - sum(tally.kills.values())) > 0:
        number += 1
        project = new_project(CODE, name=f"kills{number}")
        project("status")  # makes the catalog
        with Readers(project) as readers:
            # Only part of the pipeline is asked for: a complete run would release its code.
            campaign = Campaign(project, chance, tally, "--partitions", "2026-01-01:2026-02-09")
            campaign.complete(min(left, KILLS_EACH), STEPS)
            assert campaign.wrong == [], f"seed {SEED}: {campaign.wrong}"
            left = KILLS - sum(tally.kills.values())
            project.edit("GENERATION = 1\n", "GENERATION = 2\n")
            campaign.complete(max(0, min(left, KILLS_EACH)), STEPS)
        tally.looks += readers.looks
        wrong += [f"project {number}: {entry}" for entry in (*campaign.wrong, *readers.wrong)]
        wrong += [f"project {number}: {entry}" for entry in judge_project(project)]
        wrong += [f"left running: {entry}" for entry in orphan_processes(project)]
        assert wrong == [], f"seed {SEED}"
    assert tally.looks > number, "the readers must have read"
    assert len(tally.kills) == 3, "every kind of kill must have happened"
    record_property("kills", sum(tally.kills.values()))
    median = statistics.median(tally.to_publication)
    record_property("median_seconds_to_publication", median)
    with capsys.disabled():
        print(  # noqa: T201  # the figures are wanted, also when all is well
            f"\n{dict(tally.kills)} kills, {tally.starts} starts, {number} projects, {tally.looks} looks in "
            f"{time.monotonic() - began:.0f} s; from restart to the first publication: median {median:.2f} s "
            f"of {len(tally.to_publication)}"
        )


HALF_FILES = '''
"""A lake whose files are complete only when the next one is written: what the platform must never be."""
from sidestage.data import lake_writer

pending = []
honest = lake_writer.LakeWriter.write


def write(self, *arguments):
    for path, data in pending:
        replace(path, data)
    stored = honest(self, *arguments)
    path = self.root / stored.path
    pending[:] = [(path, path.read_bytes())]
    replace(path, path.read_bytes()[: stored.bytes // 2])
    return stored


def replace(path, data):
    path.unlink()
    path.write_bytes(data)


lake_writer.LakeWriter.write = write
'''


def test_the_oracle_sees_a_lake_that_publishes_before_a_file_is_complete(new_project, tmp_path, sidestage):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(HALF_FILES)
    path = os.pathsep.join((str(broken), sidestage.environment["PYTHONPATH"]))
    project = new_project(CODE.replace("row_count(at_least=50)", "").replace('unique("n"),', ""))
    project = replace(
        project, sidestage=replace(sidestage, environment={**sidestage.environment, "PYTHONPATH": path})
    )
    project("status")
    campaign = Campaign(project, random.Random(SEED), Tally(), "--task", "make_left")
    with Readers(project) as readers:
        campaign.complete(1, DAYS)
    assert readers.looks
    assert any("left/" in entry and "bytes" in entry for entry in judge_project(project))
    with pytest.raises(Exception, match=r"parquet|too small|magic"), catalog(project) as store:
        look(store, lake_of(project))


def test_the_oracle_sees_steps_that_run_again_although_published(new_project):
    project = new_project(CODE)
    project("status")
    campaign = Campaign(project, random.Random(SEED), Tally(), "--recompute", "--reason", "control")
    campaign.complete(0, STEPS)
    assert campaign.wrong == []
    campaign.cycle()
    assert any("ran again although published before" in entry for entry in campaign.wrong)


def test_the_oracle_sees_files_scratch_and_processes_that_were_left(new_project, sidestage):
    project = new_project(CODE)
    project("run")
    assert judge_project(project) == []
    (project.root / ".sidestage" / "lake" / "left" / "stray").write_text("")
    (project.root / ".sidestage" / "scratch" / "stray").mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=project.root, env=dict(sidestage.environment)) as process:
        assert orphan_processes(project) == [f"{process.pid}: sleep 60"]
        process.kill()
    assert judge_project(project) == ["left in the lake: left/stray", "left in scratch: stray"]
