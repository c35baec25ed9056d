"""File systems of our own: an ext4 image whose power can be cut, small ones that fill up. Need root."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)
_UNMOUNT_SECONDS = 120.0
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS, as unshare(2) calls it


def keep_apart() -> None:
    """Give this process and its children mounts of their own, if it may: nobody else holds or finds them.

    A process elsewhere that copied our mounts for a sandbox would keep a disk alive whose power was cut.
    """
    if not _lacking() and ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS) == 0:
        with contextlib.suppress(RuntimeError):
            _system("mount", "--make-rprivate", "/")


def why_not() -> str:
    """Return why small file systems cannot be mounted here, or ""."""
    return _lacking() or _refused(lambda folder: small_disk(folder / "small", 64))


def why_no_disk() -> str:
    """Return why no file system can be made here whose power can be cut, or ""."""
    return _lacking() or _refused(_cut_disk)


def _refused(attempt: Callable[[Path], AbstractContextManager[object]]) -> str:
    """Return what the system says to an attempt: in a container even root may be refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with attempt(Path(folder)):
                return ""
        except (RuntimeError, OSError) as error:
            return f"needs to mount file systems: {error}"


def _lacking() -> str:
    if os.name != "posix" or os.getuid() != 0:
        return "needs root, to mount file systems"
    lacking = [
        program for program in ("mount", "umount", "mkfs.ext4", "losetup") if shutil.which(program) is None
    ]
    return f"needs {', '.join(lacking)}" if lacking else ""


class Disk:
    """An ext4 file system in a file. ``cut`` is what a power cut does to it: what was not synced is gone."""

    def __init__(self, folder: Path, megabytes: int = 64) -> None:
        self.root = folder / "disk"
        self._image = folder / "image"
        self._is_mounted = False
        self.root.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _system("mkfs.ext4", "-q", "-F", str(self._image))

    def mount(self) -> None:
        """Make it available again, as after a restart: the journal is replayed."""
        _system("mount", "-o", "loop", str(self._image), str(self.root))
        self._is_mounted = True

    def cut(self) -> float:
        """Cut the power; return the moment before. Everything that uses the disk fails from now on."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            moment = time.monotonic()
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(descriptor)
        return moment

    def unmount(self) -> None:
        """Take it away; waits a little for processes that are just ending."""
        if self._is_mounted:
            unmount(self.root)
            self._is_mounted = False
            self._wait_until_released()

    def _wait_until_released(self) -> None:
        # A sandbox that is just ending may hold a copy of the mount, and with it the disk without power.
        deadline = time.monotonic() + _UNMOUNT_SECONDS
        while _system("losetup", "-j", str(self._image)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._image} is held by another process")
            time.sleep(0.01)

    def remove(self) -> None:
        """Unmount and delete it."""
        self.unmount()
        self._image.unlink(missing_ok=True)
        self.root.rmdir()


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Yield a mounted disk that is gone afterwards."""
    made = Disk(folder)
    try:
        made.mount()
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def _cut_disk(folder: Path) -> Iterator[Disk]:
    with disk(folder) as made:
        made.cut()
        yield made


@contextlib.contextmanager
def small_disk(root: Path, kilobytes: int) -> Iterator[Path]:
    """Yield an empty file system of a given size that is gone afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    _system("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(root))
    try:
        yield root
    finally:
        unmount(root)


def unmount(root: Path) -> None:
    """Unmount; processes that hold it open get a little time to end."""
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while True:
        try:
            _system("umount", str(root))
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _system(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
