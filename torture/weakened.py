"""Safeguards taken out on purpose, in a process of the campaign only: what the negative controls run with."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, get_args

Safeguard = Literal["file sync", "commit sync", "fencing", "sync errors", "write errors", "uptime"]


WITHOUT = "TORTURE_WITHOUT"
"""Environment variable by which a command of the campaign is told what it has to do without, by commas."""


def weaken(safeguards: Collection[Safeguard]) -> None:
    """Take safeguards out of this process. Raises ValueError for one that there is not."""
    for safeguard in safeguards:
        _WEAKENERS[safeguard]()


def _without_file_sync() -> None:
    """Python's fsync does nothing: files and folders of the lake are not synced; SQLite still does."""

    def pretend(_descriptor: Any) -> None:
        return None

    os.fsync = pretend  # type: ignore[assignment]


def _without_sync_errors() -> None:
    """What goes wrong in fsync is not noticed."""
    sync = os.fsync

    def shrug(descriptor: Any) -> None:
        try:
            sync(descriptor)
        except OSError:
            return

    os.fsync = shrug  # type: ignore[assignment]


def _without_write_errors() -> None:
    """What cannot be written counts as written."""
    write = os.write

    def shrug(descriptor: int, data: Any) -> int:
        try:
            return write(descriptor, data)
        except OSError:
            return len(memoryview(data).cast("B"))

    os.write = shrug


def _without_commit_sync() -> None:
    """Commits are acknowledged before they are synced."""
    from sidestage.store import sql_database  # noqa: PLC0415  # only where it is weakened

    honest: Callable[..., Any] = sql_database.Database.write

    def lazily(self: Any, work: Any, *, lazily: bool = False) -> Any:  # noqa: ARG001  # its place is kept
        return honest(self, work, lazily=True)

    sql_database.Database.write = lazily  # type: ignore[method-assign]


def _without_fencing() -> None:
    """A claim counts although its step was claimed by another since."""
    from sidestage.store import outcomes  # noqa: PLC0415  # only where it is weakened

    outcomes._holds = lambda step, claim: True  # noqa: ARG005, SLF001  # there is no switch to turn


def _without_uptime() -> None:
    """Leases run by the wall clock."""
    from sidestage import clock  # noqa: PLC0415  # only where it is weakened

    clock._BOOT_ID = Path("/none")  # noqa: SLF001  # there is no switch to turn


_WEAKENERS: dict[str, Callable[[], None]] = {
    "file sync": _without_file_sync,
    "commit sync": _without_commit_sync,
    "fencing": _without_fencing,
    "sync errors": _without_sync_errors,
    "write errors": _without_write_errors,
    "uptime": _without_uptime,
}
assert set(_WEAKENERS) == set(get_args(Safeguard))
