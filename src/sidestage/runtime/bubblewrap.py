"""Bubblewrap: a program that runs another one in a view of the host of its own.

Its files are those of the host, read-only but for what is made writable; hidden folders are empty; it sees
and signals no process but its own. The inherited file descriptors stay open.

Inside, the parent of the wrapped command is Bubblewrap's own process 1, and that is the number to give to
``lifeline.end_with_parent``. The chain holds: if the process that started Bubblewrap dies, so does
Bubblewrap, and with process 1 all processes inside. From outside, the wrapped command's exit status is
Bubblewrap's; a signal N that killed it shows as the status 128 + N.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sidestage.errors import ConfigurationError

PARENT_INSIDE = 1
"""The number of the wrapped command's parent, as the command sees it."""

INSIDE = "SIDESTAGE_SANDBOX"
"""Variable that says to the wrapped command that it is wrapped."""

_PROGRAM = "bwrap"
_PROBE_SECONDS = 10.0
_SEPARATE = ("--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session")
# A worker of root's would keep its capabilities, and could undo everything else with them. Even without
# them root may write where root owns the files, and these are settings of the whole host.
_NO_PRIVILEGES = ("--cap-drop", "ALL")
_SETTINGS_OF_THE_HOST = ("/proc/sys", "/proc/sysrq-trigger", "/proc/mtrr")


def wrapped(
    command: Sequence[str],
    *,
    writable: Sequence[Path],
    readable: Sequence[Path] = (),
    hidden: Sequence[Path] = (),
    network: bool = True,
) -> list[str]:
    """Return the command line that runs a command with everything read-only but ``writable``.

    ``hidden`` folders are empty inside, but for paths of ``readable`` and ``writable`` that lie in them.
    Where paths lie in each other, the inner one decides. ``writable`` may name devices. Without ``network``
    there is none at all, not even this host's own addresses. Raises ConfigurationError if Bubblewrap is not
    installed, or a path does not exist.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise ConfigurationError(
            "The strict sandbox needs Bubblewrap, and there is no program bwrap on this host.",
            hint="Install the package bubblewrap, or choose the sandbox level landlock.",
        )
    arguments = [program, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for path in _SETTINGS_OF_THE_HOST:
        arguments += ["--ro-bind-try", path, path]
    arguments += _views(writable, readable, hidden)
    arguments += [*_SEPARATE, *_NO_PRIVILEGES, *(() if network else ("--unshare-net",))]
    return [*arguments, "--setenv", INSIDE, _PROGRAM, "--", *command]


def works() -> bool:
    """Whether Bubblewrap is installed and allowed here; takes some ten milliseconds."""
    try:
        command = wrapped(["true"], writable=())
        ended = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_SECONDS, check=False
        )
    except (ConfigurationError, OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def is_inside(hidden: Sequence[Path]) -> bool:
    """Whether this process is wrapped, judged also by what it sees: files read-only, hidden folders apart."""
    return (
        INSIDE in os.environ
        and bool(os.statvfs("/").f_flag & os.ST_RDONLY)
        and all(os.path.ismount(folder) for folder in hidden)
    )


def _views(writable: Sequence[Path], readable: Sequence[Path], hidden: Sequence[Path]) -> list[str]:
    """Return the arguments that change what is seen below the root, outer paths before inner ones."""
    empty = [_real(path) for path in hidden]
    views = [(path, ["--tmpfs", str(path)]) for path in empty]
    views += [(path, ["--ro-bind", str(path), str(path)]) for path in map(_real, readable)]
    views += [(path, [_bind(path), str(path), str(path)]) for path in map(_real, writable)]
    views.sort(key=lambda view: len(view[0].parts))
    # Last: the places for what is seen inside them must be made first.
    closed = [word for path in empty for word in ("--remount-ro", str(path))]
    return [word for _, words in views for word in words] + closed


def _bind(path: Path) -> str:
    return "--bind" if path.is_dir() or path.is_file() else "--dev-bind"


def _real(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be shown or hidden in a sandbox: {error.strerror}.",
            hint="Make the folder before the worker starts.",
        ) from error
