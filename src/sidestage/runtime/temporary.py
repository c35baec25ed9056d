"""Folders of temporary files: emptied and removed, whatever was done to them."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path


def empty(folder: Path) -> None:
    """Make a folder what it was at first: there, and empty. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(folder.lstat().st_mode):
            folder.unlink()
    with contextlib.suppress(OSError):
        folder.mkdir()
    try:
        found = os.listdir(folder)  # noqa: PTH208  # names only, and after every attempt
    except OSError:
        _open_up(str(folder))
        found = os.listdir(folder)  # noqa: PTH208
    for name in found:
        remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; does nothing if it is gone, or cannot be removed."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, onerror=_again)
    if path.is_dir():  # so deep that its path is longer than any path may be
        subprocess.run(["rm", "-rf", "--", str(path)], stderr=subprocess.DEVNULL, check=False)


def _again(function: Callable[..., object], path: str, _error: object) -> None:
    """Do again what failed, with the rights that the owner of a folder can give himself."""
    _open_up(str(Path(path).parent))
    _open_up(path)
    with contextlib.suppress(OSError):
        if function is os.unlink:
            Path(path).unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def _open_up(folder: str) -> None:
    with contextlib.suppress(OSError):
        Path(folder).chmod(stat.S_IRWXU, follow_symlinks=False)
