"""What the process that runs a plan and its workers say to each other, as JSON."""

from datetime import datetime

import msgspec

from sidestage.data.check import Finding
from sidestage.data.version import Stored
from sidestage.pipeline.manifest import Manifest
from sidestage.policy.failure import FailureClass
from sidestage.policy.limits import Limits
from sidestage.runtime.sandbox import Sandbox


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message to a worker: whose code to load, and where data lies. Paths are absolute.

    ``area`` is the folder of the lake that versions are written below, "" for the lake itself; ``sandbox``
    the wall that is built before any of the code is loaded. ``mark`` is printed when an attempt has ended.
    """

    root: str
    lake: str
    scratch: str
    area: str = ""
    sandbox: Sandbox | None = None
    mark: str = ""


class InputFiles(msgspec.Struct, frozen=True):
    """What one parameter receives, in the order of its partitions: absolute paths, or (partition, JSON).

    ``single``: at most one partition is ever read, so that a value comes as it is.
    """

    parameter: str
    files: tuple[str, ...]
    values: tuple[tuple[str, str], ...] = ()
    single: bool = True


class Execute(msgspec.Struct, frozen=True, tag="execute"):
    """Run one attempt of a step and write its output aside as the version ``version``.

    ``key`` is the idempotency key: the same for every attempt of the step. ``log`` is where what the task
    prints is kept, if it prints anything.
    """

    run: int
    step: str
    task: str
    partition: str
    version: str
    attempt: int
    key: str
    inputs: tuple[InputFiles, ...]
    log: str
    limits: Limits = Limits()


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Answer to Load: what the code declares, and the wall that stands around it, such as ``landlock-7``."""

    manifest: Manifest
    isolation: str = "process"


class LoadFailed(msgspec.Struct, frozen=True, tag="load-failed"):
    """Answer to Load: the code cannot be used. ``kind`` names the error's class."""

    kind: str
    message: str
    hint: str
    trace: str


class Written(msgspec.Struct, frozen=True, tag="written"):
    """An attempt wrote its output aside, and no blocking check failed.

    ``seconds`` is the whole attempt, ``user_seconds`` the part spent in the task's own code. ``is_last``: the
    worker was spoilt by it, and takes on nothing more.
    """

    step: str
    stored: Stored
    findings: tuple[Finding, ...]
    seconds: float
    user_seconds: float
    at: datetime
    is_last: bool = False


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An attempt failed and left nothing behind.

    ``is_last``: the worker may be spoilt by it, and takes on nothing more.
    """

    step: str
    failure_class: FailureClass
    message: str
    details: str
    findings: tuple[Finding, ...]
    is_last: bool = False


ToWorker = Load | Execute
FromWorker = Loaded | LoadFailed | Written | Failed
