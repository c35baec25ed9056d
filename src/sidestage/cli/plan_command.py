"""``sidestage plan``: what would run, and why."""

from collections import Counter

import click
from rich.table import Table

from sidestage.cli.console import console, escape
from sidestage.cli.options import (
    json_option,
    partitions_option,
    print_json,
    project_option,
    shared,
    task_option,
)
from sidestage.data.names import environment_name_from
from sidestage.plan.plan import Plan
from sidestage.plan.world import Selection
from sidestage.project.project import Project


@click.command("plan")
@click.argument("pipeline", required=False)
@click.option("--code", metavar="CODE", help="Plan a rehearsal of git:BRANCH, or of . (working tree).")
@click.option("--name", metavar="NAME", help="The candidate's name, with --code.")
@shared(partitions_option, task_option)
@click.option("--recompute", is_flag=True, help="Run again what is up to date, too.")
@click.option("--steps", "show_steps", is_flag=True, help="List every step.")
@shared(project_option, json_option)
def command(
    pipeline: str | None,
    code: str | None,
    name: str | None,
    partitions: str | None,
    tasks: tuple[str, ...],
    recompute: bool,
    show_steps: bool,
    start: str,
    as_json: bool,
) -> int:
    """Show what would run, and why. Runs nothing."""
    with Project.open(start) as project:
        selection = Selection(pipeline, partitions, tasks, recompute)
        if code is None:
            plan = project.plan(selection)
        else:
            ref = "working-tree" if code == "." else code.removeprefix("git:")
            plan = project.plan_candidate(selection, code, name or environment_name_from(ref))
    if as_json:
        print_json(plan)
    else:
        _show(plan, show_steps=show_steps)
    return 0


def _show(plan: Plan, *, show_steps: bool) -> None:
    out = console()
    out.print(f"[bold]{len(plan.steps)} steps[/bold] in {plan.environment}, {plan.current} up to date")
    if plan.steps:
        out.print(_by_task(plan))
    if show_steps:
        for step in plan.steps:
            out.print(f"  {escape(step.id)}  {step.reason.kind}: {escape(step.reason.text)}")
    if plan.blocked:
        first = plan.blocked[0]
        out.print(
            f"[yellow]{len(plan.blocked)} partitions cannot be made yet[/yellow], "
            f"for example {escape(first.task)}@{escape(first.partition)} {escape(first.why)}"
        )
    for entry in plan.unreleased:
        out.print(
            f"[yellow]{escape(entry.task)}[/yellow] ({escape(entry.location)}) is not the code that "
            f"production was given; rehearse it: sidestage stage {plan.pipeline} --code ."
        )
    if plan.withdrawals:
        out.print(f"{len(plan.withdrawals)} partitions are the same as production's again")


def _by_task(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("task", "steps", "first", "last", "why", "expected"):
        table.add_column(heading, justify="right" if heading in ("steps", "expected") else "left")
    for task in dict.fromkeys(step.task for step in plan.steps):
        steps = [step for step in plan.steps if step.task == task]
        kinds = Counter(step.reason.kind for step in steps)
        why = ", ".join(f"{kind} ({count})" if len(kinds) > 1 else kind for kind, count in kinds.items())
        known = [step.seconds for step in steps if step.seconds is not None]
        cost = f"{sum(known):.1f} s" if len(known) == len(steps) else "unknown"
        table.add_row(escape(task), str(len(steps)), steps[0].partition, steps[-1].partition, why, cost)
    return table
