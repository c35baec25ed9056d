"""Starts the processes that run attempts, each in the runtime and behind the wall that its home asks for."""

import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.pipeline.terms import VENV
from sidestage.run.crews import Home
from sidestage.run.hand import Hand, Patience
from sidestage.run.messages import Load
from sidestage.runtime.lifeline import this_process
from sidestage.runtime.orphans import mark
from sidestage.runtime.output import Output
from sidestage.runtime.process import ChildProcess
from sidestage.runtime.sandbox import Sandbox

MOST_ATTEMPTS = 2000
"""Attempts after which a warm process is replaced, so that what leaks in it does not add up."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108


class Places(msgspec.Struct, frozen=True):
    """Where the state of a project lies that its tasks' processes have to do with.

    ``state`` holds catalog, lake, releases and all else; walled-in code sees of it the lake, ``releases``,
    ``environments``, which keeps virtual environments, and its own temporary folder only.
    """

    state: Path
    lake: Path
    releases: Path
    scratch: Path
    environments: Path


class Starter:
    """Starts processes for one worker; ``environment`` is what they inherit."""

    def __init__(
        self, places: Places, clock: Clock, environment: Mapping[str, str], patience: Patience
    ) -> None:
        self._places = places
        self._clock = clock
        self._environment = environment
        self._owner = this_process()
        self._patience = patience
        self._numbers = itertools.count(1)

    def __call__(self, home: Home) -> Hand:
        """Start a process for a home; it begins to load the home's code."""
        temporary = self._places.scratch / f"hand-{next(self._numbers)}"
        temporary.mkdir(parents=True)
        sandbox = self._sandbox(home, temporary)
        output = Output()
        environment = mark({**self._environment, "TMPDIR": str(temporary)}, self._owner, str(temporary))
        try:
            child = ChildProcess(
                self._command(home, sandbox, temporary),
                directory=Path(home.root),
                environment=environment,
                output=output.writing_end,
            )
        except BaseException:
            output.close()
            raise
        output.started()
        ends = output.mark.decode()
        load = Load(home.root, str(self._places.lake), str(temporary), home.area, sandbox, ends)
        child.send(msgspec.json.encode(load))
        return Hand(
            child,
            home,
            output,
            self._clock,
            temporary=temporary,
            most_attempts=1 if home.runtime == "fresh" else MOST_ATTEMPTS,
            patience=self._patience,
        )

    def _command(self, home: Home, sandbox: Sandbox, temporary: Path) -> list[str]:
        # Unbuffered, so that nothing that is printed is lost, however the process ends.
        arguments = ["-u", "-m", "sidestage.run.child", str(sandbox.parent()), str(temporary)]
        if not home.runtime.startswith(VENV):
            return sandbox.command([sys.executable, *arguments])
        # A stepping stone makes the environment, which may take minutes, and becomes the process itself.
        file = Path(home.root) / home.runtime.removeprefix(VENV)
        stone = [sys.executable, "-m", "sidestage.run.enter", str(file), str(self._places.environments)]
        return [*stone, str(os.getpid()), *sandbox.command(["{python}", *arguments])]

    def _sandbox(self, home: Home, temporary: Path) -> Sandbox:
        if home.sandbox == "none":
            return Sandbox()
        area = self._places.lake / home.area
        area.mkdir(parents=True, exist_ok=True)
        self._places.environments.mkdir(parents=True, exist_ok=True)
        devices = (device for device in _DEVICES if Path(device).exists())
        return Sandbox(
            level=home.sandbox,
            writable=(str(temporary), str(area), *devices),
            readable=(str(self._places.lake), str(self._places.releases), str(self._places.environments)),
            hidden=(str(self._places.state),),
        )
