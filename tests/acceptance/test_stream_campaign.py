"""Log enrichment on a real broker, killed again and again: the short form of the campaign."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
EVENTS = 150_000
BROKEN = EVENTS // 10_007
SECONDS = 900.0


def campaign(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run it; return its exit status and its figures."""
    command = [sys.executable, "-m", "benchmarks.stream.campaign", "--events", str(EVENTS)]
    figures = folder / "figures.json"
    ended = subprocess.run(
        [*command, "--rate", "20000", "--seconds", "4", "--every", "1", "--json", str(figures), *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert figures.exists(), ended.stderr
    return ended.returncode, json.loads(figures.read_text())


def test_each_event_of_a_pipeline_that_is_killed_ends_exactly_once(tmp_path: Path) -> None:
    status, figures = campaign(tmp_path)

    assert status == 0
    assert figures["kills"] >= 3
    assert figures["written"] == EVENTS - BROKEN
    assert figures["letters"] == BROKEN
    assert (figures["lost"], figures["twice"], figures["both"]) == (0, 0, 0)


def test_without_transactions_the_campaign_finds_what_was_written_twice(tmp_path: Path) -> None:
    status, figures = campaign(tmp_path, "--at-least-once", "--commit", "1")

    assert status == 1
    assert figures["lost"] == 0
    assert figures["twice"] > 0
