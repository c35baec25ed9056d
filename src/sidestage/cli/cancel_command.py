"""``sidestage cancel``: end a run."""

import click

from sidestage.cli.console import console
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.project.project import Project


@click.command("cancel")
@click.argument("run_id", metavar="RUN", type=int)
@shared(project_option, json_option)
def command(run_id: int, start: str, as_json: bool) -> int:
    """End a run, wherever its steps run: they are asked to stop, then told, then killed.

    What it published stays. The rest can be taken up again: sidestage run --resume
    """
    with Project.open(start) as project:
        run = project.cancel(run_id)
    if as_json:
        print_json(run)
    elif run.state == "cancelled":
        console().print(f"Run {run.id} of {run.pipeline} is cancelled.")
    else:
        console().print(f"Run {run.id} of {run.pipeline} had ended already: {run.state}.")
    return 0
