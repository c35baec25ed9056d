"""The public face: which names there are, and that importing it costs next to nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sidestage

SOURCE = Path(__file__).parents[2] / "src"
HEAVY = ["pyarrow", "duckdb", "numpy", "sqlalchemy", "alembic", "rich", "click", "polars", "pandas", "jinja2"]
NAMES = [
    "Cancelled",
    "Cron",
    "Daily",
    "Dataset",
    "Every",
    "Hourly",
    "Limits",
    "Monthly",
    "Partition",
    "Pipeline",
    "Playbook",
    "Product",
    "Project",
    "Retry",
    "Selection",
    "ServiceContext",
    "SidestageError",
    "Single",
    "Static",
    "Stream",
    "Terms",
    "Value",
    "Weekly",
    "all_of",
    "current_attempt",
    "fixed",
    "latest",
    "same",
    "window",
]


def modules_after(code: str) -> list[str]:
    """Return what a fresh interpreter has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH")))),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def loaded_by(code: str) -> set[str]:
    """Return which heavy libraries a fresh interpreter has loaded after some code."""
    return {name.partition(".")[0] for name in modules_after(code)} & set(HEAVY)


def test_the_names():
    assert sorted(sidestage.__all__) == NAMES
    assert len(sidestage.__all__) <= 30
    assert dir(sidestage) == sorted([*NAMES, "__version__"])


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_under_its_own_name(name):
    value = getattr(sidestage, name)
    assert value.__name__ == name
    assert value.__doc__
    assert getattr(sidestage, name) is value


def test_others_are_refused():
    with pytest.raises(AttributeError, match="module 'sidestage' has no attribute 'Nonsense'"):
        sidestage.Nonsense  # noqa: B018
    with pytest.raises(ImportError):
        exec("from sidestage import Nonsense")


def test_importing_it_loads_nothing_heavy():
    assert loaded_by("import sidestage") == set()


def test_declaring_loads_nothing_heavy():
    names = ", ".join(name for name in NAMES if name != "Project")
    code = f"from sidestage import {names}\nfrom sidestage.checks import unique, same_total"
    assert loaded_by(code) == set()


def test_the_probe_sees_what_is_loaded():
    assert loaded_by("import numpy") == {"numpy"}


def test_commands_that_run_no_stream_load_nothing_of_streams():
    def of_streams(code: str) -> list[str]:
        return [name for name in modules_after(code) if name.startswith("sidestage.stream")]

    assert of_streams("import sidestage.cli.run_command, sidestage.project.project") == []
    assert of_streams("import sidestage.run.child, sidestage.run.rows_bench") == []
    assert "sidestage.stream.stream" in of_streams("import sidestage.stream")
