"""Virtual environments: which are in nobody's use, and that no other is ever removed."""

import fcntl
import os
from datetime import UTC, datetime, timedelta

import pytest

from sidestage.runtime.unused import aside, lock_of, remove_environments, unused_environments

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)
OLD, NEW = "0" * 32, "f" * 32


@pytest.fixture
def cache(tmp_path):
    for name, days in ((OLD, 31), (NEW, 29)):
        folder = tmp_path / "environments" / name
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
        age(folder, days)
        lock_of(folder).touch()
    return tmp_path / "environments"


def age(folder, days):
    moment = (NOW - timedelta(days=days)).timestamp()
    os.utime(folder, (moment, moment))


def folders(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_only_what_was_not_used_for_so_long_goes(cache):
    assert unused_environments(cache, SINCE) == (OLD,)
    assert folders(cache) == [OLD, NEW], "looking removes nothing"
    assert remove_environments(cache, [OLD, NEW], SINCE) == (OLD,)
    assert folders(cache) == [NEW]
    assert unused_environments(cache, SINCE) == ()
    assert lock_of(cache / OLD).exists(), "somebody may wait for it"


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX], ids=["runs in it", "makes it"])
def test_one_that_is_in_use_stays_however_old_it_is(cache, kind):
    unused = unused_environments(cache, SINCE)
    descriptor = os.open(lock_of(cache / OLD), os.O_RDWR)
    try:
        fcntl.flock(descriptor, kind)
        assert unused_environments(cache, SINCE) == ()
        assert remove_environments(cache, unused, SINCE) == ()
        assert folders(cache) == [OLD, NEW]
    finally:
        os.close(descriptor)
    assert remove_environments(cache, unused, SINCE) == (OLD,)


def test_one_that_was_used_between_looking_and_removing_stays(cache):
    unused = unused_environments(cache, SINCE)
    age(cache / OLD, 0)
    assert remove_environments(cache, unused, SINCE) == ()
    assert folders(cache) == [OLD, NEW]


def test_what_was_half_made_or_half_removed_goes_too(cache):
    half = aside(cache / ("a" * 32))
    half.mkdir()
    young = aside(cache / ("b" * 32))
    young.mkdir()
    age(half, 31)
    age(young, 1)
    assert unused_environments(cache, SINCE) == (OLD, "a" * 32)
    remove_environments(cache, unused_environments(cache, SINCE), SINCE)
    assert folders(cache) == sorted([young.name, NEW])


def test_nothing_else_is_touched(cache):
    for name in ("notes", "0" * 31, ".git", "g" * 32):
        (cache / name).mkdir()
        age(cache / name, 1000)
    assert unused_environments(cache, SINCE) == (OLD,)


def test_a_folder_that_is_not_there_has_none(tmp_path):
    assert unused_environments(tmp_path / "nowhere", SINCE) == ()
    assert not (tmp_path / "nowhere").exists()
