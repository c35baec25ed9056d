"""``sidestage stream``: the commands for streams, each in a module of its own."""

import click

from sidestage.cli.lazy_group import LazyGroup

COMMANDS = {
    "cancel": "Cancel a worker or a branch of a stream that runs.",
    "letters": "Show dead letters: which there are, how many of what kind, or one in full.",
    "replay": "Do the items of dead letters again.",
    "restart": "Start a service anew that a worker keeps running.",
    "run": "Run a stream until it ends, or a signal drains it.",
    "top": "Show the stages of a stream that runs, live.",
}


@click.group("stream", cls=LazyGroup, known=COMMANDS, prefix="stream_")
def command() -> None:
    """Run streams, and look at them. Only services need a project."""
