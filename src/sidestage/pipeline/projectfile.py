"""The file ``sidestage.toml`` at the root of a project."""

from pathlib import Path

import msgspec

from sidestage.errors import ConfigurationError

FILE_NAME = "sidestage.toml"


class CodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[project]``: its name, the modules that declare pipelines, and the folder that they lie in."""

    name: str
    pipelines: tuple[str, ...]
    source: str = "src"


class RunSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[run]``: how many worker processes; 0 stands for one for each processor."""

    workers: int = 0


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
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: {error}.", hint="The sections are [project], [run] and [state]; see docs/start."
        ) from error
