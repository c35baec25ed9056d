"""The wall around code that is not trusted with this user's rights: which one is wanted, and which one holds.

Levels, from weak to strong:

- none: the code has all of this user's rights.
- landlock: it writes only where it may, and what hidden folders hold is out of reach; Linux does it, nothing
  is to be installed. Names and sizes of hidden files can be seen, and modes, owners and times of files that
  are this user's can be changed. Root keeps its other powers.
- strict: Bubblewrap gives it a view of the host in which hidden folders are empty and other processes do not
  exist.

No level limits sockets that lie in the file system (of a database, of a container engine): hide the folders
that they lie in, with the level strict.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from sidestage.runtime import bubblewrap, landlock

Level = Literal["none", "landlock", "strict"]


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A wanted wall, as a value that travels to the worker. All paths are absolute and must exist.

    ``writable`` folders (and devices) can be read and written. ``hidden`` folders cannot be read, but for
    ``readable`` and ``writable`` paths that lie in them; everything else can be read. A temporary
    folder must be among ``writable``, and TMPDIR name it. Without ``network``, strict has no network at
    all, landlock (from version 4 on) no TCP.
    """

    level: Level = "none"
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    network: bool = True

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that starts a worker behind this wall, as far as it is built from outside.

        Raises ConfigurationError if the level is strict and Bubblewrap is not installed.
        """
        if self.level != "strict":
            return list(command)
        return bubblewrap.wrapped(
            command,
            writable=_paths(self.writable),
            readable=_paths(self.readable),
            hidden=_paths(self.hidden),
            network=self.network,
        )

    def parent(self) -> int:
        """Return the number that a worker, started by this process with ``command``, sees as its parent's."""
        return bubblewrap.PARENT_INSIDE if self.level == "strict" else os.getpid()

    def apply(self) -> str:
        """Build this wall around the calling process, as far as it is built from inside.

        Returns what holds: "landlock-7" (with the version in force), "bubblewrap", or "none", also if more
        was wanted; what then is to be done, the caller decides. To be called in a worker before threads
        start and users' code is imported. Raises ConfigurationError as ``landlock.restrict`` does.
        """
        if self.level == "strict":
            return "bubblewrap" if bubblewrap.is_inside(_paths(self.hidden)) else "none"
        if self.level == "none":
            return "none"
        version = landlock.restrict(
            [Path("/"), *_paths(self.readable)],
            _paths(self.writable),
            hidden=_paths(self.hidden),
            network=self.network,
        )
        return f"landlock-{version}" if version else "none"


def has_landlock() -> bool:
    """Whether this host can build the level landlock; costs one system call."""
    return landlock.abi() > 0


def available() -> tuple[Level, ...]:
    """Return the levels that this host can build, weakest first; takes some ten milliseconds."""
    found: list[Level] = ["none"]
    if has_landlock():
        found.append("landlock")
    if bubblewrap.works():
        found.append("strict")
    return tuple(found)


def _paths(texts: Sequence[str]) -> list[Path]:
    return [Path(text) for text in texts]
