"""The benchmarks still run, and say what they are to say. What they measure is never tested."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SAYS = {
    "startup": ["ratio import to python: ", "ratio help to python: ", "modules loaded by import: "],
    "publish": ["ratio one to bare: ", "ratio ten to bare: ", "ratio one to bare by tenths: "],
    "promote": ["ratio promote to bare: ", "ratio rollback to bare: "],
    "backlog": ["sqlite     history         0: ", "postgresql history    10,000: ", "last to first "],
    "overhead": ["overhead per step: ", "slot time per step: ", "ratio wall to user code"],
}


@pytest.mark.parametrize("name", SAYS)
def test_short_form_of_a_benchmark_prints_its_ratios(name, sidestage):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"]
    done = subprocess.run(
        command, env=sidestage.environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("machine: ")
    for line in SAYS[name]:
        assert line in done.stdout


def test_all_benchmarks_are_run_together():
    listed = (BENCHMARKS / "all.py").read_text().partition("NAMES = (")[2].partition(")")[0]
    there = {path.stem for path in BENCHMARKS.glob("*.py")} - {"all", "machine", "peer_environments"}
    assert {name.strip(' "') for name in listed.split(",") if name.strip()} == there
