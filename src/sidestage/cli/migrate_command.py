"""``sidestage migrate``: finish what an upgrade began in the catalog's schema."""

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import project_option, shared
from sidestage.project.project import Project


@click.command("migrate")
@click.option("--post", is_flag=True, help="Take away what only earlier releases needed.")
@shared(project_option)
def command(post: bool, start: str) -> int:
    """Show, or with --post do, what an upgrade left to be done in the catalog.

    What a new release adds to the catalog is added when it first opens it, and the release before keeps
    working meanwhile. What only earlier releases needed is taken away by --post: do it when none of them
    runs any more. Killed half-way, it can be run again.
    """
    with Project.open(start) as project:
        pending = project.migrate(post=post)
    if not pending:
        console().print("Nothing is left to be done.")
        return 0
    for step in pending:
        console().print(f"{'done' if post else 'left'}: {escape(step)}")
    if not post:
        console().print(
            "  next, when no earlier release runs any more: sidestage migrate --post", style="dim"
        )
    return 0
