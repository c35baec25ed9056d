"""The terms under which a task runs: limits, runtime, queue, pool."""

import re
from pathlib import Path
from typing import Any

import msgspec

from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.policy.limits import Limits

VENV = "venv:"
"""How a runtime begins that names a file of requirements."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms under which a task runs; None leaves it to the pipeline's terms, or to the default.

    ``limits``
        What one attempt may use.
    ``runtime``
        ``process``: a warm process, used for one attempt after another (the default). ``fresh``: a new
        process for each attempt. ``venv:FILE``: an environment made of a file of requirements or a lock,
        relative to the project's root, built once and kept.
    ``queue``
        Only workers that serve this queue run it.
    ``pool``, ``slots``
        Each step holds so many slots of a pool of ``sidestage.toml`` while it runs.

    Raises DefinitionError for what makes no sense.
    """

    limits: Limits | None = None
    runtime: str | None = None
    queue: str | None = None
    pool: str | None = None
    slots: int | None = None

    def __post_init__(self) -> None:
        if self.runtime is not None and self.runtime not in ("process", "fresh"):
            file = self.runtime.removeprefix(VENV)
            if file == self.runtime or not file.strip():
                raise DefinitionError(
                    f"There is no runtime {self.runtime!r}.",
                    hint="Use process, fresh, or venv: and a file of requirements.",
                )
        for what, name in (("queue", self.queue), ("pool", self.pool)):
            if name is not None and not _WORD.fullmatch(name):
                raise DefinitionError(
                    f"{ascii(name)[:80]} is no name of a {what}.",
                    hint="Use up to 64 letters, digits, - and _, beginning with a letter or digit.",
                )
        if self.slots is not None and self.slots < 1:
            raise DefinitionError(f"A step cannot hold {self.slots} slots.", hint="Give 1 or more.")

    def merged(self, over: "Terms") -> "Terms":
        """Return these terms, and where they leave something open, those of ``over``."""
        chosen: dict[str, Any] = {
            name: getattr(over, name) if getattr(self, name) is None else getattr(self, name)
            for name in self.__struct_fields__
        }
        if self.limits is not None and over.limits is not None:
            chosen["limits"] = self.limits.merged(over.limits)
        return Terms(**chosen)


def requirements_of(runtime: str, root: Path) -> str:
    """Return the text of the file that a ``venv:`` runtime names. Raises ConfigurationError."""
    file = root / runtime.removeprefix(VENV)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The requirements {file} of the runtime {runtime!r} cannot be read: {error}.",
            hint="Paths are relative to the project's root.",
        ) from error
