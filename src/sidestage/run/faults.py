"""Faults injected on purpose, to rehearse what happens when a step fails.

The environment variable ``SIDESTAGE_FAULT`` lists faults, separated by commas, as ``ACTION:STEP``. ACTION is
``fail`` (raise), ``flaky`` (raise a transient error at the first attempt), ``exit`` (leave the process) or
``kill`` (die of SIGKILL); STEP is a step's id such as ``flights.clean@2013-06-15``. Sidestage's own tests and
demo use it; so may yours. It is read when a worker starts.
"""

import os
import signal
from collections.abc import Mapping
from typing import Literal, get_args

from sidestage.errors import ConfigurationError

VARIABLE = "SIDESTAGE_FAULT"
Action = Literal["fail", "flaky", "exit", "kill"]


class InjectedFault(RuntimeError):
    """A failure that was asked for."""


class InjectedGlitch(ConnectionError):
    """A transient failure that was asked for."""


class Faults:
    """The faults that a worker was told to inject."""

    def __init__(self, by_step: Mapping[str, Action]) -> None:
        self._by_step = dict(by_step)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Faults":
        """Read the variable. Raises ConfigurationError."""
        by_step: dict[str, Action] = {}
        for entry in filter(None, environment.get(VARIABLE, "").split(",")):
            action, _, step = entry.partition(":")
            if action not in get_args(Action) or not step:
                raise ConfigurationError(
                    f"{VARIABLE}: {entry!r} is not ACTION:STEP.",
                    hint=f"ACTION is one of {', '.join(get_args(Action))}.",
                )
            by_step[step] = action  # type: ignore[assignment]  # membership was just checked
        return cls(by_step)

    def strike(self, step: str, attempt: int) -> None:
        """Do to this attempt what was asked for, if anything was."""
        match self._by_step.get(step):
            case "fail":
                raise InjectedFault(f"A fault was injected into {step} by {VARIABLE}.")
            case "flaky" if attempt == 1:
                raise InjectedGlitch(f"A glitch was injected into {step} by {VARIABLE}.")
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
