"""What a cleanup leaves alone while others write."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from sidestage.clock import SystemClock
from sidestage.data.lake import Lake
from sidestage.recovery.cleanup import Spared, find_garbage
from sidestage.testing.memory_store import open_memory_store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When it was asked what may go; the clock of the machine is far past that when the files are found."""


@pytest.fixture
def lake(tmp_path):
    (tmp_path / "d").mkdir()
    return Lake(tmp_path)


def find(lake, file_changed: datetime, **spared) -> tuple[str, ...]:
    file = lake.root / "d" / f".p~{'0' * 24}.parquet.tmp"
    file.touch()
    os.utime(file, (file_changed.timestamp(),) * 2)
    return find_garbage(open_memory_store(SystemClock().monotonic), lake, Spared(0, **spared), NOW).orphans


def test_files_of_a_run_are_left_alone_however_long_the_search_for_them_takes(lake):
    begun = NOW - timedelta(seconds=1)
    assert find(lake, begun + timedelta(milliseconds=1), grace=0.0, since=begun) == ()
    assert find(lake, begun, grace=0.0, since=begun) != ()


@pytest.mark.parametrize("since", [None, NOW - timedelta(seconds=10)])
def test_so_are_files_within_the_period_of_grace_before_the_question(lake, since):
    asked = NOW - timedelta(seconds=60)
    assert find(lake, asked + timedelta(milliseconds=1), grace=60.0, since=since) == ()
    assert find(lake, asked, grace=60.0, since=since) != ()


def test_files_of_runs_that_begin_while_others_are_searched_for_are_left_alone(lake):
    assert find(lake, NOW + timedelta(seconds=5), grace=0.0) == ()
