"""What may be deleted: files that nothing refers to, and versions that nobody can go back to any more.

Deciding and deleting are two steps. Nothing that an environment shows, that a move since the retention date
mentions, or that a running process is writing is ever touched.
"""

import contextlib
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from sidestage.data.lake import Lake
from sidestage.store.contract import Store

GRACE_SECONDS = 3600.0
"""Files younger than this are left alone: an attempt may be about to publish them."""


class Cleanup(msgspec.Struct, frozen=True):
    """What a cleanup would delete, or did.

    ``orphans`` are files that no version knows, relative to the lake; ``versions`` are those that nobody can
    go back to.
    """

    orphans: tuple[str, ...]
    versions: tuple[str, ...]
    bytes: int
    keep_days: int


def find_garbage(store: Store, lake: Lake, *, keep_days: int, now: datetime, grace: float) -> Cleanup:
    """Return what could be deleted without anybody missing it."""
    expired = store.unreferenced_versions(now - timedelta(days=keep_days))
    known = {version.stored.path for version in store.all_versions()}
    orphans = list(lake.orphans(known, grace))
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
        lake.remove(version.stored.path)
    for orphan in garbage.orphans:
        lake.remove(orphan)
    return msgspec.structs.replace(garbage, versions=tuple(sorted(gone)))


def clear_scratch(scratch: Path, older_than: float, now: float) -> int:
    """Remove what killed processes left in the scratch folder; return how many folders went."""
    count = 0
    for folder in scratch.iterdir() if scratch.is_dir() else ():
        if now - folder.stat().st_mtime > older_than:
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
