"""What the process that runs a plan and its workers say to each other, as JSON."""

from datetime import datetime

import msgspec

from sidestage.data.check import Finding
from sidestage.data.version import Stored
from sidestage.pipeline.manifest import Manifest
from sidestage.policy.failure import FailureClass


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message to a worker: whose code to load, and where data lies. Paths are absolute."""

    root: str
    lake: str
    scratch: str


class InputFiles(msgspec.Struct, frozen=True):
    """The files that one parameter receives: absolute paths, in the order of their partitions."""

    parameter: str
    files: tuple[str, ...]


class Execute(msgspec.Struct, frozen=True, tag="execute"):
    """Run one attempt of a step and write its output aside as the version ``version``.

    ``log`` is where what the task prints is kept, if it prints anything.
    """

    step: str
    task: str
    partition: str
    version: str
    attempt: int
    inputs: tuple[InputFiles, ...]
    log: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Answer to Load: what the code declares."""

    manifest: Manifest


class LoadFailed(msgspec.Struct, frozen=True, tag="load-failed"):
    """Answer to Load: the code cannot be used. ``kind`` names the error's class."""

    kind: str
    message: str
    hint: str
    trace: str


class Written(msgspec.Struct, frozen=True, tag="written"):
    """An attempt wrote its output aside, and no blocking check failed.

    ``seconds`` is the whole attempt, ``user_seconds`` the part spent in the task's own code.
    """

    step: str
    stored: Stored
    findings: tuple[Finding, ...]
    seconds: float
    user_seconds: float
    at: datetime


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An attempt failed and left nothing behind."""

    step: str
    failure_class: FailureClass
    message: str
    details: str
    findings: tuple[Finding, ...]


ToWorker = Load | Execute
FromWorker = Loaded | LoadFailed | Written | Failed
