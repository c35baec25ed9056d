"""``sidestage status``: environments and the newest runs."""

import click
from rich.console import Console
from rich.table import Table

from sidestage.cli.console import console, escape
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.observe.status import (
    RunDetails,
    RunStatus,
    ServiceStatus,
    Status,
    TriggerStatus,
    read_run,
    read_status,
)
from sidestage.project.project import Project
from sidestage.store.records import Run, Worker


@click.command("status")
@click.option("--runs", default=5, type=click.IntRange(1, 1000), help="How many runs to show.")
@click.option("--run", "run_id", type=int, help="Show one run: what failed, what its checks warned of.")
@shared(project_option, json_option)
def command(runs: int, run_id: int | None, start: str, as_json: bool) -> int:
    """Show environments and the newest runs, or one run in detail."""
    with Project.open(start) as project:
        if run_id is not None:
            details = read_run(project.store, run_id, project.layout.logs)
            print_json(details) if as_json else _show_details(details)
            return 0
        status = read_status(project.store, runs=runs, pools=project.file.pool_list, now=project.clock.now())
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
    for trigger in status.triggers:
        _show_trigger(out, trigger)
    for service in status.services:
        _show_service(out, service)
    for wait in status.waits:
        more = f" and {wait.steps - 1} more" if wait.steps > 1 else ""
        out.print(f"run {wait.run}: {escape(wait.first)}{more} {escape(wait.why)}", soft_wrap=True)
    for worker in status.workers:
        _show_worker(out, worker)


def _show_trigger(out: Console, shown: TriggerStatus) -> None:
    said = [f"trigger of {shown.pipeline}, {shown.trigger}: "]
    if shown.last is None:
        said.append("no tick yet")
    else:
        began = "nothing to do" if shown.last.run is None else f"run {shown.last.run}"
        said.append(f"last {shown.last.at:%Y-%m-%d %H:%M:%S} ({began})")
    if shown.late:
        said.append(f", late since {shown.next:%Y-%m-%d %H:%M:%S}. {shown.why}")
    elif shown.next is not None:
        said.append(f", next {shown.next:%Y-%m-%d %H:%M:%S}")
    out.print(escape("".join(said).rstrip()), style="red" if shown.late else None, soft_wrap=True)


def _show_service(out: Console, shown: ServiceStatus) -> None:
    said = [f"service {shown.service} {shown.state} since {shown.since:%Y-%m-%d %H:%M:%S}"]
    if shown.owner is not None:
        said.append(f"held by {shown.owner}")
    if shown.restarts:
        said.append(f"{shown.restarts} restart{'' if shown.restarts == 1 else 's'}")
    if shown.url:
        said.append(shown.url)
    red = "red" if shown.state in ("failed", "lost") else None
    out.print(escape(", ".join(said) + (f". {shown.note}" if shown.note else "")), style=red, soft_wrap=True)
    if shown.state == "failed":
        out.print(f"  next: sidestage stream restart {escape(shown.service)}", style="dim")


def _show_worker(out: Console, worker: Worker) -> None:
    state = ("draining" if worker.draining else "working") if worker.alive else "silent"
    serves = f", serves {', '.join(worker.queues)}" if worker.queues else ""
    seen = f", last seen {worker.seen_at:%Y-%m-%d %H:%M:%S}" if not worker.alive else ""
    out.print(f"worker {escape(worker.name)} {state}: {worker.slots} slots{serves}{seen}", soft_wrap=True)


def _show_details(details: RunDetails) -> None:
    out = console()
    _show_head(out, details.run, details.steps)
    for failed in details.failures:
        out.print(f"[red]{escape(failed.step)}[/red] {failed.failure_class}, {failed.attempts} attempt(s)")
        out.print(f"  {escape(failed.message)}", soft_wrap=True)
        if failed.log:
            out.print(f"  printed: {escape(failed.log)}", style="dim", soft_wrap=True)
    for warned in details.warnings:
        out.print(f"[yellow]{escape(warned.check)}[/yellow] warned on {warned.steps} step(s)", soft_wrap=True)
        out.print(f"  first {escape(warned.first)}: {escape(warned.message)}", style="dim", soft_wrap=True)


def _show_run(out: Console, entry: RunStatus) -> None:
    run = entry.run
    _show_head(out, run, entry.steps)
    if entry.first_failure:
        out.print(f"  {escape(entry.first_failure)}", style="red", soft_wrap=True)
        out.print(f"  all of it: sidestage status --run {run.id}", style="dim")
    if run.state in ("failed", "cancelled") and run.environment == "production":
        out.print(f"  next: sidestage run {run.pipeline} --resume", style="dim")


def _show_head(out: Console, run: Run, steps: dict[str, int]) -> None:
    colour = {"done": "green", "running": "blue"}.get(run.state, "red")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(steps.items()))
    out.print(
        f"[{colour}]run {run.id} {run.state}[/{colour}] {run.pipeline} in {run.environment}, "
        f"{run.created_at:%Y-%m-%d %H:%M} by {escape(run.by)}: {counts}",
        soft_wrap=True,
    )
    if run.reason:
        out.print(f"  why: {escape(run.reason)}", style="dim")
