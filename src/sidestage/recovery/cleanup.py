"""What may be deleted: files that nothing refers to, and versions that nobody can go back to any more.

Deciding and deleting are two steps. Nothing that an environment shows, that a move since the retention date
mentions, or that a running process is writing is ever touched.
"""

import contextlib
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from sidestage.data.dataset import RESERVED
from sidestage.data.lake import Lake
from sidestage.runtime.lifeline import scratch_is_dead
from sidestage.store.contract import Store

GRACE_SECONDS = 3600.0
"""Files younger than this are left alone: an attempt may be about to publish them."""


class Cleanup(msgspec.Struct, frozen=True):
    """What a cleanup would delete, or did.

    ``orphans`` are files that no version knows, relative to the lake; ``versions`` are those that nobody can
    go back to, ``bytes`` the size of both. ``environments`` are virtual environments that no task uses.
    """

    orphans: tuple[str, ...]
    versions: tuple[str, ...]
    bytes: int
    keep_days: int
    environments: tuple[str, ...] = ()


class Spared(msgspec.Struct, frozen=True):
    """What must be left alone.

    Versions and virtual environments are, for ``keep_days`` after their last use, and whatever is younger
    than ``grace`` seconds.

    ``since`` is when the oldest of the runs began that are being executed, None if there is none: a file
    that is younger may be about to be published.
    """

    keep_days: int
    grace: float
    since: datetime | None = None

    def files_since(self, now: datetime) -> datetime:
        """Return since when a file must have been changed to be left alone.

        A moment, not an age: however long it takes to find the files, none is too old that was not before.
        """
        young = now - timedelta(seconds=self.grace)
        return young if self.since is None else min(young, self.since)

    def used_since(self, now: datetime) -> datetime:
        """Return since when a virtual environment must have been in use to be left alone."""
        return now - max(timedelta(days=self.keep_days), timedelta(seconds=self.grace))


def find_garbage(store: Store, lake: Lake, spared: Spared, now: datetime) -> Cleanup:
    """Return what could be deleted without anybody missing it."""
    keep_days = spared.keep_days
    expired = store.unreferenced_versions(now - timedelta(days=keep_days))
    orphans = list(lake.orphans(_needed_files(store), unchanged_since=spared.files_since(now)))
    return Cleanup(
        orphans=tuple(str(path) for path in orphans),
        versions=tuple(version.id for version in expired),
        keep_days=keep_days,
        bytes=sum(_size(lake.root / path) for path in orphans)
        + sum(version.stored.bytes for version in expired),
    )


def collect_garbage(store: Store, lake: Lake, garbage: Cleanup, now: datetime) -> Cleanup:
    """Delete what ``find_garbage`` found, as far as it is still garbage; return what was deleted.

    Versions are forgotten in the catalog before their files go, so that a crash leaves orphans, never a
    pointer to a missing file.
    """
    store.forget_versions(garbage.versions, now, keep_since=now - timedelta(days=garbage.keep_days))
    gone = store.data_gone(garbage.versions)
    for version in store.versions(gone).values():
        if version.stored.value is None:  # a value goes with what the catalog knew of it
            lake.remove(version.stored.path)
    for orphan in garbage.orphans:
        lake.remove(orphan)
    _remove_empty_areas(store, lake)
    return msgspec.structs.replace(garbage, versions=tuple(sorted(gone)))


def _remove_empty_areas(store: Store, lake: Lake) -> None:
    """Remove the folders of walled-in runs of which nothing is left, unless they are being executed."""
    executed = {f"run-{run.id}" for run in store.open_runs()}
    for area in (lake.root / RESERVED).glob("run-*"):
        if area.name not in executed:
            folders = sorted(path for path in area.rglob("*") if path.is_dir())
            for folder in (*reversed(folders), area):
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()


def clear_scratch(scratch: Path) -> int:
    """Remove what killed processes left in the scratch folder; return how many folders went."""
    left = (
        [folder for folder in scratch.iterdir() if scratch_is_dead(folder.name)] if scratch.is_dir() else []
    )
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _needed_files(store: Store) -> set[str]:
    """Return the files of versions that have data; one that was forgotten but not deleted is an orphan."""
    files = {
        version.id: version.stored.path for version in store.all_versions() if version.stored.value is None
    }
    for gone in store.data_gone(files):
        del files[gone]
    return set(files.values())


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
