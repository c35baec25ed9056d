"""Virtual environments for code that needs other packages than Sidestage itself runs with.

An environment is made once for each lock file, interpreter, platform and copy of Sidestage, and then only
used. Sidestage itself comes into it in one of two ways. If the lock names it, that one is taken, and must be
of the version that runs. If not, the copy that runs is added: its release from the index, or the folder it
runs from if that is a checkout; what it depends on is then chosen by the index within what the lock pins,
so a lock that is to say everything names Sidestage, too.

Which index packages come from is between the user and uv: its variables and configuration files are left to
it.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sidestage.about import PACKAGE, VERSION
from sidestage.errors import ConfigurationError
from sidestage.runtime.unused import aside, clear_aside, lock_of

_HASH = re.compile(r"(^|\s)--hash[= ]")
_ELSEWHERE = re.compile(r"\s*(-[rce]|--(requirement|constraint|editable))")
_SAID_LINES = 15
# Isolated: what PYTHONPATH would add is not in the environment.
_ASK_VERSION = ("-I", "-c", "import sidestage; print(sidestage.__version__)")


class Environments:
    """A folder of virtual environments, which several processes may share.

    ``uv`` is the command that installs; found by itself if not given.
    """

    def __init__(self, cache: Path, uv: Sequence[str] = ()) -> None:
        self._cache = cache
        self._uv = tuple(uv)

    def interpreter(self, requirements: Path | str) -> Path:
        """Return the interpreter of the environment for a lock file, or for its text; make it if needed.

        Lines are as in requirements files, all of them in this one. If any has a hash, all must. Two
        processes that want the same one wait for each other. One that is killed half-way leaves nothing that
        can be used, and the next one clears it away.

        Raises ConfigurationError if there is no uv, if the text refers to other files, or if uv refuses.
        """
        python, lock = self._take(requirements)
        os.close(lock)
        return python

    def hold(self, requirements: Path | str) -> Path:
        """Return an interpreter as ``interpreter`` does, of an environment that nobody removes from now on.

        Not while this process lives, under whatever program, nor one that inherits its open files.
        """
        python, lock = self._take(requirements)
        os.set_inheritable(lock, True)  # noqa: FBT003  # takes no keyword
        return python

    def _take(self, requirements: Path | str) -> tuple[Path, int]:
        """Return the interpreter of an environment, and the descriptor that holds its lock with others."""
        text = _text(requirements)
        _require_whole(text)
        folder = self._cache / _key(text)
        self._cache.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_of(folder), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _is_there(folder, lock):
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.exists():
                    self._make(folder, text, lock)
            os.utime(folder)  # or it would seem to be unused
        except BaseException:
            os.close(lock)
            raise
        return folder / "bin" / "python", lock

    def _make(self, folder: Path, text: str, lock: int) -> None:
        uv = self._uv or _find_uv()
        clear_aside(folder)
        new = aside(folder)
        try:
            _run([*uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(new)], lock)
            _install(uv, new, text, lock)
            os.sync()  # a power cut must not leave the final name with files that are not whole
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _is_there(folder: Path, lock: int) -> bool:
    """Hold a lock together with others; whether the environment is there, and so stays.

    The system gives the lock back when its last holder ends.
    """
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder.exists()


def _install(uv: Sequence[str], folder: Path, text: str, lock: int) -> None:
    file = folder / "requirements.txt"
    file.write_text(text)
    python = folder / "bin" / "python"
    install = [*uv, "pip", "install", "--quiet", "--python", str(python)]
    hashes = ["--require-hashes"] if _HASH.search(text) else []
    if any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        _run([*install, *hashes, "--requirement", str(file)], lock)
    if _version(python) is None:
        _run([*install, "--constraint", str(file), *_running_copy()], lock)
    found = _version(python)
    if found != VERSION:
        raise ConfigurationError(
            f"The lock file brings Sidestage {found}, and {VERSION} is running.",
            hint="Lock the version that runs, or leave Sidestage out of the lock file.",
        )


def _version(python: Path) -> str | None:
    asked = subprocess.run(
        [python, *_ASK_VERSION], capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else None


def _running_copy() -> list[str]:
    """Return the arguments that install the copy of Sidestage that runs."""
    source = PACKAGE.parents[1]
    if (source / "pyproject.toml").is_file():  # a checkout, installed editable or just on the path
        return ["--editable", str(source)]
    distribution = importlib.metadata.distribution("sidestage")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
    if not origin:
        return [f"sidestage=={distribution.version}"]
    address = urlsplit(origin)
    return [url2pathname(address.path) if address.scheme == "file" else f"sidestage @ {origin}"]


def _text(requirements: Path | str) -> str:
    if isinstance(requirements, str):
        return requirements
    try:
        return requirements.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The lock file {requirements} cannot be read: {error}.",
            hint="Make one with: uv pip compile --generate-hashes",
        ) from error


def _require_whole(text: str) -> None:
    """Refuse text that stands for more than it says: the same text must always mean the same environment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if _ELSEWHERE.match(line):
            raise ConfigurationError(
                f"Line {number} of a lock file refers to something outside of it: {line.strip()[:100]}",
                hint="Put everything into one file with: uv pip compile --generate-hashes",
            )


def _key(text: str) -> str:
    """Return the name of the environment for a lock file on this host and for this Sidestage."""
    parts = (
        text,
        platform.python_implementation(),
        platform.python_version(),
        os.path.realpath(sys.executable),
        sysconfig.get_platform(),
        VERSION,
        str(PACKAGE),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _find_uv() -> tuple[str, ...]:
    if importlib.util.find_spec("uv") is not None:
        return (sys.executable, "-m", "uv")
    found = shutil.which("uv")
    if found is None:
        raise ConfigurationError(
            "Environments of their own are made by uv, and there is no uv on this host.",
            hint="Install it: pip install uv",
        )
    return (found,)


def _run(command: Sequence[str], lock: int) -> None:
    """Run uv to its end. It holds the lock, too: should it outlive us, nobody may build in between."""
    ended = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, text=True, pass_fds=(lock,), check=False
    )
    if ended.returncode != 0:
        said = "\n".join(ended.stderr.strip().splitlines()[-_SAID_LINES:])
        raise ConfigurationError(
            f"uv could not make the environment (exit status {ended.returncode}):\n{said}",
            hint="Look at the lock file, and at uv's settings for the index.",
        )
