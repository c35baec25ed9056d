"""``sidestage run``: plan, then run in production what is missing or outdated."""

import click

from sidestage.cli.console import console
from sidestage.cli.options import (
    by_option,
    json_option,
    partitions_option,
    print_json,
    project_option,
    reason_option,
    shared,
    task_option,
    workers_option,
)
from sidestage.cli.progress import RunProgress
from sidestage.cli.running import tell
from sidestage.plan.world import Selection
from sidestage.project.project import Project


@click.command("run")
@click.argument("pipeline", required=False)
@shared(partitions_option, task_option, workers_option)
@click.option("--recompute", is_flag=True, help="Run again what is up to date, too (give a --reason).")
@click.option("--detach", is_flag=True, help="Begin the run and leave it to workers.")
@click.option("--resume", is_flag=True, help="Finish the newest run that failed or was interrupted.")
@shared(reason_option, by_option, project_option, json_option)
def command(
    pipeline: str | None,
    partitions: str | None,
    tasks: tuple[str, ...],
    workers: int | None,
    recompute: bool,
    detach: bool,
    resume: bool,
    reason: str,
    by: str | None,
    start: str,
    as_json: bool,
) -> int:
    """Plan, then run in production what is missing or outdated.

    Without --partitions everything that is closed by now is considered. What was published is not made
    again: after a failure, run the same command once more.
    """
    if recompute and not reason:
        raise click.UsageError("--recompute replaces published versions; say why with --reason.")
    if resume and (partitions or tasks or recompute or detach):
        raise click.UsageError("--resume finishes a run as it was planned; it takes no selection.")
    with (
        RunProgress(quiet=as_json) as progress,
        Project.open(start, listener=progress, by=by) as project,
    ):
        selection = Selection(pipeline, partitions, tasks, recompute)
        if detach:
            return _tell_begun(project.submit(selection, reason=reason), as_json=as_json)
        summary = (
            project.resume(pipeline, workers=workers)
            if resume
            else project.run(selection, workers=workers, reason=reason)
        )
    again = (
        (" ".join(filter(None, ("sidestage run", pipeline, "--resume"))),)
        if summary and summary.state != "done"
        else ()
    )
    return tell(summary, as_json=as_json, next_steps=again)


def _tell_begun(run_id: int | None, *, as_json: bool) -> int:
    if as_json:
        print_json({"run": run_id})
    elif run_id is None:
        console().print("Nothing to do: everything selected is up to date.")
    else:
        console().print(f"Run {run_id} is open; workers execute it.")
        console().print(f"  next: sidestage status --run {run_id}", style="dim")
    return 0
