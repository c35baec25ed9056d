"""Correct user code passes the strict type checker; each kind of mistake is refused where it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = Path(__file__).parent / "user_code.py"
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_user_code_under_the_strict_type_checker(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", "--no-error-summary",
            "--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path, "--follow-imports=silent", CODE,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wanted = {
        (number, found[1])
        for number, line in enumerate(CODE.read_text().splitlines(), start=1)
        if (found := re.search(r"# refused: ([a-z-]+)$", line))
    }
    errors = re.findall(r"^(.+?):(\d+):(?:\d+:)? error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert wanted
    assert {(int(line), code) for _, line, code in errors} == wanted, done.stdout + done.stderr
    assert {Path(file).name for file, _, _ in errors} == {CODE.name}
