"""``sidestage status``: environments and the newest runs."""

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidestage.cli.console import console
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.observe.status import RunStatus, Status, read_status
from sidestage.project.project import Project


@click.command("status")
@click.option("--runs", default=5, type=click.IntRange(1, 1000), help="How many runs to show.")
@shared(project_option, json_option)
def command(runs: int, start: str, as_json: bool) -> int:
    """Show environments and the newest runs."""
    with Project.open(start) as project:
        status = read_status(project.store, runs=runs)
    if as_json:
        print_json(status)
    else:
        _show(status)
    return 0


def _show(status: Status) -> None:
    out = console()
    if not status.environments:
        out.print("Nothing has run yet. Next: sidestage run")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("environment", "state", "own pointers", "code"):
        table.add_column(heading)
    for environment in status.environments:
        own = str(status.own_pointers[environment.name])
        table.add_row(environment.name, environment.state, own, escape(environment.code[:24]))
    out.print(table)
    for entry in status.runs:
        _show_run(out, entry)


def _show_run(out: Console, entry: RunStatus) -> None:
    run = entry.run
    colour = {"done": "green", "running": "blue"}.get(run.state, "red")
    steps = ", ".join(f"{count} {state}" for state, count in sorted(entry.steps.items()))
    out.print(
        f"[{colour}]run {run.id} {run.state}[/{colour}] {run.pipeline} in {run.environment}, "
        f"{run.created_at:%Y-%m-%d %H:%M} by {escape(run.by)}: {steps}"
    )
    if run.reason:
        out.print(f"  why: {escape(run.reason)}", style="dim")
    if entry.first_failure:
        out.print(f"  {escape(entry.first_failure)}", style="red", soft_wrap=True)
    if run.state in ("failed", "cancelled") and run.environment == "production":
        out.print(f"  next: sidestage run {run.pipeline} --resume", style="dim")
