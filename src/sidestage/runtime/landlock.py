"""Landlock (Linux 5.13 and newer): a process gives up rights to files, for itself and all it will start.

Rights are given to folders with all below them, and cannot be taken back from a part. So a folder is hidden
by giving rights to everything beside it: to its siblings, and to those of each folder above it. Names are not
hidden by that, and neither are sizes; what files hold is.

See landlock(7) and the kernel's "Landlock: unprivileged access control".
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidestage.errors import ConfigurationError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << n for n in range(6, 13)
)
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1

_FIRST_WITH_REFER, _FIRST_WITH_TRUNCATE, _FIRST_WITH_NETWORK = 2, 3, 4
_FIRST_WITH_IOCTL, _FIRST_WITH_SCOPES = 5, 6

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICES = _MAKE_CHAR | _MAKE_BLOCK
_MAKE = _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE | _REFER | _TRUNCATE | _IOCTL_DEV
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

ALWAYS_WRITABLE = tuple(
    Path("/dev", name) for name in ("null", "zero", "full", "random", "urandom", "tty", "shm")
)
"""Devices that keep nothing, and the folder of shared memory, without which multiprocessing has no locks.
Those that do not exist are passed over."""


def abi() -> int:
    """Return the kernel's version of Landlock, 0 if there is none or it is switched off."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _ASK_VERSION))


def restrict(
    read: Sequence[Path], write: Sequence[Path], *, hidden: Sequence[Path] = (), network: bool = True
) -> int:
    """Let this process, and all it will start, read and run only below ``read``, and write below ``write``.

    ``write`` may also be read, and may name devices. What lies in a folder ``hidden`` cannot be read or
    written, except below paths of ``read`` and ``write`` that lie in it themselves. Beside a hidden folder,
    and beside each folder above it, nothing can be made, and what others make there later cannot be read.
    Without ``network``, no TCP connection can be made or accepted (from version 4 on; other protocols go
    on). From version 6 on, signals reach only processes that are behind the same wall. Programs that raise
    their rights (sudo) no longer do.

    Returns the version that is in force; 0 if there is none, and nothing was changed. Cannot be undone. To be
    called before the first thread starts: others would stay free. Raises ConfigurationError if there are
    other threads, or a path does not exist; then, too, nothing was changed.
    """
    version = abi()
    if version == 0:
        return 0
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  # names only
        raise ConfigurationError(
            "Rights to files cannot be given up while other threads run: those would keep them.",
            hint="Restrict the process before libraries are loaded that start threads.",
        )
    handled, network_handled, scopes = _handled(version, network=network)
    attributes = struct.pack("QQQ", handled, network_handled, scopes)
    ruleset = _checked("create", _syscall(_CREATE_RULESET, attributes, _attributes_size(version), 0))
    try:
        for path, rights in _rules(read, write, hidden):
            _allow(ruleset, path, rights & handled)
        _checked("forbid new rights", _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked("restrict", _syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def _handled(version: int, *, network: bool) -> tuple[int, int, int]:
    """Return the rights to files, to the network, and the scopes that a version of Landlock knows."""
    files = _READ | _WRITE | _DEVICES
    for first, right in (
        (_FIRST_WITH_REFER, _REFER),
        (_FIRST_WITH_TRUNCATE, _TRUNCATE),
        (_FIRST_WITH_IOCTL, _IOCTL_DEV),
    ):
        if version < first:
            files &= ~right
    tcp = 0 if network or version < _FIRST_WITH_NETWORK else _BIND_TCP | _CONNECT_TCP
    scopes = 0 if version < _FIRST_WITH_SCOPES else _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL
    return files, tcp, scopes


def _attributes_size(version: int) -> int:
    """Return how many bytes of the attributes a version of Landlock knows."""
    if version < _FIRST_WITH_NETWORK:
        return 8
    return 16 if version < _FIRST_WITH_SCOPES else 24


def _rules(read: Sequence[Path], write: Sequence[Path], hidden: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    away = tuple(_real(path) for path in hidden)
    for path in read:
        yield from _beside(_real(path), _READ, away)
    for path in write:
        yield from _beside(_real(path), _READ | _WRITE, away)
    for path in ALWAYS_WRITABLE:
        if path.exists():
            yield path, _READ | _WRITE


def _beside(path: Path, rights: int, hidden: tuple[Path, ...]) -> Iterator[tuple[Path, int]]:
    """Yield rules that give rights to a path, and all below it but what is hidden.

    Names may be listed everywhere below: else no program could look for its files beside a hidden folder.
    """
    inside = [folder for folder in hidden if folder.is_relative_to(path) and folder != path]
    if not inside:
        yield path, rights
        return
    yield path, rights & _READ_DIR
    for entry in sorted(path.iterdir()):
        # A link gives no rights of its own: what it leads to is reached, and judged, by its real name.
        if entry not in hidden and not entry.is_symlink():
            yield from _beside(entry, rights, hidden)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # what was asked for was there; this lay beside something hidden
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        if rights:
            rule = struct.pack("=Qi", rights, descriptor)
            _checked("allow", _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), path)
    finally:
        os.close(descriptor)


def _real(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise ConfigurationError(
            f"Rights to {path} cannot be given or withheld: {error.strerror}.",
            hint="Make the folder before the worker starts.",
        ) from error


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    """Call the kernel; -1 means that it refused, and ``ctypes.get_errno`` says why."""
    long = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    function = _libc().syscall
    function.restype = ctypes.c_long
    return int(function(ctypes.c_long(number), *long))


def _checked(what: str, result: int, path: Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {what}: {os.strerror(number)}", path and str(path))
    return result
