"""A service: a stream that workers keep running, declared beside the tasks of a pipeline."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from sidestage.data.names import check_task_name
from sidestage.errors import DefinitionError
from sidestage.pipeline.task import Location
from sidestage.policy.restart import Restart

_HIGHEST_PORT = 65_535


class ServiceContext(msgspec.Struct, frozen=True):
    """What a service may know of itself: its name (``pipeline.service``) and a folder of its own.

    The folder is kept from one start to the next, on this host.
    """

    name: str
    folder: Path


class ServiceTerms(msgspec.Struct, frozen=True):
    """How a service is run.

    ``restart`` says how often it is started again when its process dies or its stream fails. ``fail``: "soft"
    sets aside what an item fails on that nothing else is said about, "fast" lets it end the stream.
    ``grace``: seconds that a drain may take before it is a cancellation (None: as long as it takes).
    ``port``: where its metrics are served on this host, 0 for any that is free. Raises DefinitionError.
    """

    restart: Restart = Restart()
    fail: Literal["fast", "soft"] = "soft"
    grace: float | None = None
    port: int = 0

    def __post_init__(self) -> None:
        grace_holds = self.grace is None or self.grace >= 0
        if not (self.fail in ("fast", "soft") and grace_holds and 0 <= self.port <= _HIGHEST_PORT):
            raise DefinitionError(
                f"A service cannot be run with fail={self.fail!r}, grace={self.grace}, port={self.port}.",
                hint='fail is "soft" or "fast", grace counts seconds, port is from 0 to 65535.',
            )


class Service:
    """A service as declared: a function that returns a ``Flow``. Made by Pipeline.service."""

    __slots__ = ("function", "location", "name", "terms")

    def __init__(self, name: str, function: Callable[..., Any], terms: ServiceTerms) -> None:
        self.name = check_task_name(name)
        self.location = Location.of_function(function)
        self.function = function
        self.terms = terms
        if len(_positional(function)) > 1:
            raise DefinitionError(
                f"{self.location}: the service {name!r} takes more than one parameter.",
                hint="Let it take none, or one: its ServiceContext.",
            )

    def flow(self, context: ServiceContext) -> object:
        """Return what the function returns, which should be a flow. Raises what the function raises."""
        flow: object = self.function(*([context] if _positional(self.function) else []))
        return flow


def _positional(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.items()
    return [name for name, each in parameters if each.kind in kinds and each.default is each.empty]
