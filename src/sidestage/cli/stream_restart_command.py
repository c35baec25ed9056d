"""``sidestage stream restart``: have a service started anew."""

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import project_option, shared
from sidestage.project.project import Project


@click.command("restart")
@click.argument("service", metavar="PIPELINE.SERVICE")
@shared(project_option)
def command(service: str, start: str) -> int:
    """Start a service of a project anew, also one that was restarted too often or came to its end.

    The worker that holds it drains it first. Its restarts count from the beginning.
    """
    with Project.open(start) as project:
        project.restart_service(service)
    console(stderr=True).print(escape(f"The worker that keeps {service} starts it anew."))
    return 0
