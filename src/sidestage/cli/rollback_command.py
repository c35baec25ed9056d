"""``sidestage rollback``: back, at once."""

import click

from sidestage.cli.console import console
from sidestage.cli.options import by_option, json_option, print_json, project_option, reason_option, shared
from sidestage.project.project import Project


@click.command("rollback")
@click.argument("pipeline", required=False)
@shared(reason_option, by_option, project_option, json_option)
def command(pipeline: str | None, reason: str, by: str | None, start: str, as_json: bool) -> int:
    """Take the newest promotion back.

    Needs no gate, no code and no computation: every pointer that the promotion moved shows again what it
    showed before.
    """
    with Project.open(start, by=by) as project:
        move = project.rollback(pipeline, reason=reason)
    if as_json:
        print_json(move)
    else:
        console().print(
            f"[green]Rolled back[/green] move {move.undoes}: {move.pointers} pointers show what they showed "
            "before it.",
            soft_wrap=True,
        )
    return 0
