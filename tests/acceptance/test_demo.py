"""The demo, played as `make demo` plays it: real data, real processes, real git."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_whole_story_on_real_data(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "demo.py"), "--folder", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = re.findall(
        r"Run \d+ (\w+): (\d+) published .*?(\d+) reused, (\d+) failed, (\d+) not\s+reached",
        done.stdout,
        re.DOTALL,
    )
    assert runs == [
        ("done", "1474", "0", "0", "0"),
        ("failed", "255", "0", "239", "248"),
        ("done", "742", "0", "0", "0"),
        ("failed", "124", "0", "1", "2"),
        ("done", "3", "0", "0", "0"),
    ]
    assert "2,414,360 before, 4,152,200 now" in done.stdout
    assert "And back: 2,414,360" in done.stdout
    assert "143,329" in (tmp_path / "comparison.html").read_text("utf-8")
