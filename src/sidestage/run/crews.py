"""What a dispatcher needs of those who run attempts, whoever they are: processes here, or a simulation."""

from collections.abc import Collection
from typing import Protocol

import msgspec

from sidestage.errors import SidestageError
from sidestage.pipeline.manifest import Manifest
from sidestage.run.messages import Execute, Failed, Written
from sidestage.runtime.sandbox import Level


class Home(msgspec.Struct, frozen=True):
    """Where attempts are run: whose code, in what runtime, writing where, behind which wall.

    ``root`` is the folder of the code. ``runtime`` is ``process`` (warm, used again), ``fresh`` (a new
    process for each attempt) or ``venv:FILE`` (the environment that a file of requirements asks for,
    relative to ``root``). ``area`` is the folder of the lake that versions are written below. ``sandbox`` is
    ``none``, ``landlock`` or ``strict``.
    """

    root: str
    runtime: str = "process"
    area: str = ""
    sandbox: Level = "none"


class Answered(msgspec.Struct, frozen=True):
    """The answer to a request. ``isolation`` is the wall that stood around the attempt."""

    request: Execute
    answer: Written | Failed
    isolation: str = "process"


class WorkerDied(msgspec.Struct, frozen=True):
    """A process was lost while it ran an attempt; ``how`` says what became of it."""

    running: Execute
    how: str
    isolation: str = "process"


class CodeLost(msgspec.Struct, frozen=True):
    """The code of a home cannot be loaded, or is not what it was: nothing of these was begun."""

    home: Home
    requests: tuple[Execute, ...]
    error: SidestageError


Found = Answered | WorkerDied | CodeLost


class Crews(Protocol):
    """Runs attempts, so many at a time."""

    @property
    def free(self) -> int:
        """How many requests it would take now."""
        ...

    @property
    def busy(self) -> bool:
        """Whether any request is without an answer."""
        ...

    def manifest(self, home: Home) -> Manifest | None:
        """Return what the code of a home declares, or None if it is not loaded yet; that begins then.

        Raises the SidestageError that loading it raised.
        """
        ...

    def submit(self, request: Execute, home: Home) -> None:
        """Have a request run. Its answer comes from ``collect``."""
        ...

    def collect(self, timeout: float) -> list[Found]:
        """Return what came in, waiting up to ``timeout`` seconds for the first of it."""
        ...

    def wake_by(self, descriptor: int | None) -> None:
        """Let waiting end when a descriptor is readable, in place of any other that did so before."""
        ...

    def stop(self, versions: Collection[str]) -> None:
        """Stop the attempts that would make these versions: nothing more is heard of them.

        They are asked first, then told, then killed.
        """
        ...
