"""``sidestage clean``: delete what nothing refers to or uses any more."""

import click

from sidestage.cli.console import console
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.project.project import Project
from sidestage.recovery.cleanup import GRACE_SECONDS


@click.command("clean")
@click.option(
    "--keep-days",
    default=30,
    type=click.IntRange(0),
    show_default=True,
    help="How far back rollback reaches.",
)
@click.option("--yes", "really", is_flag=True, help="Delete; without it, only show what would go.")
@click.option(
    "--grace",
    default=GRACE_SECONDS,
    type=click.FloatRange(0),
    show_default=True,
    help="Leave alone what is younger (seconds).",
)
@shared(project_option, json_option)
def command(keep_days: int, really: bool, grace: float, start: str, as_json: bool) -> int:
    """Delete files that nothing refers to any more, and virtual environments that no task uses.

    Nothing that an environment shows goes, nor anything that a move of the last --keep-days mentions, nor a
    virtual environment in which a process runs or was started since then.
    """
    with Project.open(start) as project:
        garbage = project.clean(keep_days=keep_days, grace=grace, delete=really)
    if as_json:
        print_json(garbage)
        return 0
    verb = "Deleted" if really else "Would delete"
    console().print(
        f"{verb} {len(garbage.orphans)} orphan files and the files of {len(garbage.versions)} old versions "
        f"({garbage.bytes / 1e6:.1f} MB), and {len(garbage.environments)} virtual environments."
        + ("" if really else " To do it: sidestage clean --yes")
    )
    return 0
