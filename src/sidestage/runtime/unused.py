"""Virtual environments that nobody uses any more: which they are, and how they go.

Each has a lock file beside it. Whoever makes one holds it alone, and processes that run in one hold it
together, so an environment whose lock can be had is in nobody's use. When it was last taken into use, its
folder's time of change says.
"""

import re
import shutil
import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from sidestage.runtime.alone import Occupied, alone
from sidestage.runtime.lifeline import scratch_name, this_process

_FOLDER = re.compile(r"\.?([0-9a-f]{32})(\..*)?")


def lock_of(environment: Path) -> Path:
    """Return the lock file of an environment. It is never removed, for somebody may wait for it."""
    return environment.with_name(f"{environment.name}.lock")


def aside(environment: Path) -> Path:
    """Return a new name beside an environment, for what is not whole yet or any more."""
    return environment.with_name(f".{environment.name}.{scratch_name(uuid.uuid4().hex)}")


def clear_aside(environment: Path) -> None:
    """Remove what was left aside, by processes that are gone: the caller holds the lock alone."""
    for remains in environment.parent.glob(f".{environment.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)


def unused_environments(cache: Path, since: datetime) -> tuple[str, ...]:
    """Return the names of those that no process runs in, and none was started in since a moment."""
    return tuple(name for name in _names(cache) if _is_unused(cache / name, since))


def remove_environments(cache: Path, names: Iterable[str], since: datetime) -> tuple[str, ...]:
    """Remove environments as far as they are still unused; return which. Whoever wants one makes it anew."""
    return tuple(name for name in names if _is_unused(cache / name, since, remove=True))


def _names(cache: Path) -> list[str]:
    if not cache.is_dir():
        return []
    found = (_FOLDER.fullmatch(path.name) for path in cache.iterdir() if path.is_dir())
    return sorted({match[1] for match in found if match})


def _is_unused(environment: Path, since: datetime, *, remove: bool = False) -> bool:
    try:
        with alone(lock_of(environment), this_process()):
            there = [environment] if environment.is_dir() else []
            there += environment.parent.glob(f".{environment.name}.*")
            if not there or max(path.stat().st_mtime for path in there) >= since.timestamp():
                return False
            if remove:
                if environment.is_dir():
                    environment.rename(aside(environment))  # at once, for half of one is none
                clear_aside(environment)
            return True
    except Occupied:
        return False
