"""The changes in ``changes/``: they apply, their tests tell them apart, and the audit refuses the first."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
CHANGES = ("1-fix-midnight.patch", "2-fix-time-zones.patch")
FINGERPRINTS = """
import json
from pathlib import Path
from sidestage.pipeline.loading import describe, load
from sidestage.pipeline.projectfile import read_project_file
root, file = Path.cwd(), read_project_file(Path.cwd())
print(json.dumps({task.name: task.fingerprint for task in describe(load(root, file), root, file).tasks}))
"""


def call(folder: Path, *command: str) -> str:
    """Run a command in a folder and return what it prints; the test fails if the command does."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def git(folder: Path, *arguments: str) -> str:
    """Run git without the settings of whoever runs the tests."""
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@airport.example", "-c", "commit.gpgsign=false")
    return call(folder, "git", *who, *arguments)


def passes(folder: Path, *tests: str) -> bool:
    """Whether the project's own tests pass; a run that could not collect them is an error."""
    status = subprocess.run(
        (sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
        cwd=folder,
        check=False,
        capture_output=True,
    ).returncode
    assert status in (0, 1)
    return status == 0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a copy of the project, and both changes on the branch ``fix-midnight``."""
    folder = tmp_path_factory.mktemp("repository") / "flights"
    hidden = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(PROJECT, folder, ignore=hidden)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "The pipeline as it runs")
    git(folder, "checkout", "-q", "-b", "fix-midnight")
    for number, change in enumerate(CHANGES, start=1):
        git(folder, "apply", "--index", "--whitespace=error", f"changes/{change}")
        git(folder, "commit", "-q", "-m", change)
        git(folder, "tag", f"attempt-{number}")
    return folder


def test_the_first_change_passes_its_own_tests(repository: Path) -> None:
    git(repository, "checkout", "-q", "attempt-1")

    assert passes(repository, "tests/test_tasks.py", "tests/test_midnight.py")


def test_the_second_change_passes_all_tests(repository: Path) -> None:
    git(repository, "checkout", "-q", "attempt-2")

    # The whole year is audited below.
    assert passes(repository, "--ignore=tests/test_changes.py", "-k", "not day_of_the_year")


@pytest.mark.parametrize(
    ("code", "tests", "test_file"),
    [
        ("main", "attempt-1", "tests/test_midnight.py"),
        ("attempt-1", "attempt-2", "tests/test_time_zones.py"),
    ],
)
def test_the_tests_of_a_change_fail_without_it(
    repository: Path, code: str, tests: str, test_file: str
) -> None:
    git(repository, "checkout", "-q", tests)
    git(repository, "checkout", "-q", code, "--", "src")
    try:
        assert not passes(repository, test_file, "-k", "not day_of_the_year")
    finally:
        git(repository, "reset", "-q", "--hard")


@pytest.mark.slow
def test_the_audit_of_the_year(repository: Path) -> None:
    found = {}
    for code in ("main", "attempt-1", "attempt-2"):
        git(repository, "checkout", "-q", code)
        found[code] = json.loads(call(repository, sys.executable, "-B", "tests/year.py"))

    refused = {code: sorted(year["refused"]) for code, year in found.items()}
    assert refused["main"] == refused["attempt-2"] == []
    assert len(refused["attempt-1"]) == 239
    assert (refused["attempt-1"][0], refused["attempt-1"][-1]) == ("2013-03-10", "2013-11-03")

    landed_first = "arrives after it departs"
    warned = {
        code: sum(landed_first in day for day in year["warned"].values()) for code, year in found.items()
    }
    assert warned == {"main": 364, "attempt-1": 0, "attempt-2": 0}

    totals = {code: year["totals"] for code, year in found.items()}
    kept = ("flights", "cancelled", "diverted")
    assert [totals["main"][name] for name in kept] == [totals["attempt-2"][name] for name in kept]
    assert (totals["main"]["after_midnight"], totals["attempt-2"]["after_midnight"]) == (29, 1236)
    assert (totals["main"]["delay_minutes"], totals["attempt-2"]["delay_minutes"]) == (2_414_360, 4_152_200)


def test_only_the_changed_task_has_another_fingerprint(repository: Path) -> None:
    made = {}
    for code in ("main", "attempt-1", "attempt-2"):
        git(repository, "checkout", "-q", code)
        made[code] = json.loads(call(repository, sys.executable, "-B", "-c", FINGERPRINTS))

    for before, after in (("main", "attempt-1"), ("attempt-1", "attempt-2")):
        changed = [task for task in made[before] if made[before][task] != made[after][task]]
        assert changed == ["denormalise"]
