"""The file ``sidestage.toml`` at the root of a project."""

from pathlib import Path
from typing import Literal

import msgspec

from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.policy.pool import Pool

FILE_NAME = "sidestage.toml"
_DAY = 86_400.0
_SHORTEST_LEASE = 0.1


class CodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[project]``: its name, the modules that declare pipelines, and the folder that they lie in."""

    name: str
    pipelines: tuple[str, ...]
    source: str = "src"


class RunSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[run]``: how many worker processes, 0 for one for each processor; how long things may take.

    ``lease``: seconds that a worker may be silent before others take over what it runs. ``stop``: seconds
    within which an attempt that is to stop is gone. ``wait_alert``: seconds after which people are told
    that a step waits for slots.
    """

    workers: int = 0
    lease: float = 2.5
    stop: float = 2.0
    wait_alert: float = 600.0

    def __post_init__(self) -> None:
        if (
            self.workers < 0
            or not _SHORTEST_LEASE <= self.lease <= _DAY
            or not 0 <= self.stop <= _DAY
            or not self.wait_alert > 0
        ):
            raise ValueError("[run] asks for numbers that make no sense: see docs/reference/configuration.md")


class PoolSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[pools.NAME]``: how many slots it has, and how many are kept for which pipeline."""

    slots: int
    reserved: dict[str, int] = {}


class StageSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[stage]``: the wall around a candidate's code. ``auto`` takes Landlock where the kernel has it."""

    sandbox: Literal["auto", "none", "landlock", "strict"] = "auto"


class StateSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[state]``: where catalog and data lie, relative to the project's root."""

    folder: str = ".sidestage"
    store: str = ""
    lake: str = ""


class ProjectFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says."""

    project: CodeSection
    run: RunSection = RunSection()
    state: StateSection = StateSection()
    stage: StageSection = StageSection()
    pools: dict[str, PoolSection] = {}

    def __post_init__(self) -> None:
        _ = self.pool_list  # refuses what makes no sense

    @property
    def pool_list(self) -> tuple[Pool, ...]:
        """The pools that the file defines."""
        return tuple(Pool(name, pool.slots, pool.reserved) for name, pool in self.pools.items())


def find_root(start: Path) -> Path:
    """Return the folder at or above ``start`` that holds a project. Raises ConfigurationError."""
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise ConfigurationError(
        f"There is no {FILE_NAME} in {start} or any folder above it.",
        hint="Go to a project's folder, or make one with: sidestage init NAME",
    )


def read_project_file(root: Path) -> ProjectFile:
    """Read a project's file. Raises ConfigurationError naming the file and what is wrong in it."""
    path = root / FILE_NAME
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ProjectFile)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, DefinitionError) as error:
        raise ConfigurationError(
            f"{path}: {error}.",
            hint="The sections are [project], [run], [stage], [state] and [pools.NAME]; see docs/start.",
        ) from error
