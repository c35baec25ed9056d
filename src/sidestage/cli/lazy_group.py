"""A group of commands, each in a module of its own that is imported when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Knows its commands by name and in a few words, so that ``--help`` stays fast.

    The module of a command is ``sidestage.cli.NAME_command``, with ``prefix`` before the name.
    """

    def __init__(self, *given: Any, known: Mapping[str, str], prefix: str = "", **more: Any) -> None:
        super().__init__(*given, **more)
        self._known = known
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names of all commands."""
        return list(self._known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, None if there is no such."""
        if cmd_name not in self._known:
            return None
        command = import_module(f"sidestage.cli.{self._prefix}{cmd_name}_command").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write what there is, without importing any of it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._known.items()))
