"""``sidestage stream``: the commands for streams, each in a module of its own."""

from importlib import import_module

import click

COMMANDS = {
    "letters": "Show dead letters: which there are, how many of what kind, or one in full.",
    "replay": "Do the items of dead letters again.",
    "restart": "Start a service anew that a worker keeps running.",
    "run": "Run a stream until it ends, or a signal drains it.",
    "top": "Show the stages of a stream that runs, live.",
}


class _Commands(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"sidestage.cli.stream_{cmd_name}_command").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group("stream", cls=_Commands)
def command() -> None:
    """Run streams, and look at them. Only services need a project."""
