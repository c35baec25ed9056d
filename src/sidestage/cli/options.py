"""Options that several commands share, and how their results are printed."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

Function = TypeVar("Function", bound=Callable[..., Any])

project_option = click.option(
    "--project", "-C", "start", default=".", metavar="FOLDER", help="The project's folder, or one inside it."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
partitions_option = click.option(
    "--partitions",
    "--days",
    "partitions",
    metavar="RANGE",
    help="Only these partitions: KEY, FIRST:LAST, or several joined by commas.",
)
task_option = click.option(
    "--task", "tasks", multiple=True, metavar="NAME", help="Only this task (repeatable)."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 256), help="How many worker processes (default: one per processor)."
)
reason_option = click.option("--reason", default="", help="Why, for the record.")
by_option = click.option("--by", metavar="NAME", help="Who decides (default: the user of this machine).")


def shared(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Apply decorators in the order in which they are listed."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
