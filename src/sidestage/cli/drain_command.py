"""``sidestage drain``: have a worker finish and end."""

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import project_option, shared
from sidestage.project.project import Project


@click.command("drain")
@click.argument("worker")
@shared(project_option)
def command(worker: str, start: str) -> int:
    """Have a worker, on whatever host, finish what it runs, begin nothing new, and end.

    WORKER is its name as sidestage status shows it.
    """
    with Project.open(start) as project:
        project.drain(worker)
    console().print(f"{escape(worker)} is draining.")
    return 0
