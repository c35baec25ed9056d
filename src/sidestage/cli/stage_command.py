"""``sidestage stage``: the understudy - other code on production's inputs, in its own environment."""

import click

from sidestage.cli.options import (
    by_option,
    json_option,
    partitions_option,
    project_option,
    reason_option,
    shared,
    task_option,
    workers_option,
)
from sidestage.cli.progress import RunProgress
from sidestage.cli.running import tell
from sidestage.data.names import environment_name_from
from sidestage.plan.world import Selection
from sidestage.project.project import Project


@click.command("stage")
@click.argument("pipeline", required=False)
@click.option("--code", required=True, metavar="CODE", help="git:BRANCH, git:COMMIT, or . (working tree).")
@click.option("--name", metavar="NAME", help="The candidate's name (default: made of the code's name).")
@shared(partitions_option, task_option, workers_option)
@click.option("--recompute", is_flag=True, help="Run unchanged steps, too: measures nondeterminism (A/A).")
@shared(reason_option, by_option, project_option, json_option)
def command(
    pipeline: str | None,
    code: str,
    name: str | None,
    partitions: str | None,
    tasks: tuple[str, ...],
    workers: int | None,
    recompute: bool,
    reason: str,
    by: str | None,
    start: str,
    as_json: bool,
) -> int:
    """Run other code on production's inputs, beside production.

    The code reads exactly the versions that production's steps read, and what it writes is visible in the
    candidate's environment only. Steps whose code and inputs are the same are reused, not run.
    """
    candidate = name or environment_name_from("working-tree" if code == "." else code.removeprefix("git:"))
    with (
        RunProgress(quiet=as_json) as progress,
        Project.open(start, listener=progress, by=by) as project,
    ):
        selection = Selection(pipeline, partitions, tasks, recompute)
        summary = project.stage(selection, code, candidate, workers=workers, reason=reason)
    done = summary.state == "done"
    return tell(summary, as_json=as_json, next_steps=(f"sidestage compare {candidate}",) if done else ())
