"""``sidestage history``: what pointers showed, and who moved them."""

import click
from rich.table import Table

from sidestage.cli.console import console, escape
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.project.project import Project
from sidestage.store.records import Move, PointerEntry


@click.command("history")
@click.argument("dataset", required=False)
@click.argument("partition", required=False)
@click.option("--environment", "-e", help="Only this environment.")
@click.option("--moves", is_flag=True, help="Show promotions and rollbacks instead of single pointers.")
@click.option("--limit", default=20, type=click.IntRange(1, 100_000), help="How many lines to show.")
@shared(project_option, json_option)
def command(
    dataset: str | None,
    partition: str | None,
    environment: str | None,
    moves: bool,
    limit: int,
    start: str,
    as_json: bool,
) -> int:
    """Show what pointers showed, newest first; of everything, one DATASET, or one PARTITION of it."""
    with Project.open(start) as project:
        if moves:
            made = project.store.moves(environment, limit=limit)
            print_json(made) if as_json else _show_moves(made)
        else:
            entries = project.store.pointer_log(
                environment=environment, dataset=dataset, partition=partition, limit=limit
            )
            print_json(entries) if as_json else _show_entries(entries)
    return 0


def _show_moves(moves: tuple[Move, ...]) -> None:
    out = console()
    for move in moves:
        undone = f", undone by {move.undone_by}" if move.undone_by else ""
        undoes = f" of {move.undoes}" if move.undoes else ""
        out.print(
            f"{move.at:%Y-%m-%d %H:%M:%S}  move {move.id}  {move.kind}{undoes}  {move.environment}  "
            f"{move.pointers} pointers by {escape(move.by)}{undone}  {escape(move.reason)}",
            soft_wrap=True,
        )


def _show_entries(entries: tuple[PointerEntry, ...]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("at", "environment", "dataset", "partition", "version", "by"):
        table.add_column(heading)
    for entry in entries:
        by = f"run {entry.run}" if entry.run is not None else f"{entry.kind} {entry.move}"
        at = f"{entry.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(at, entry.environment, entry.dataset, entry.partition, entry.version or "-", by)
    console().print(table)
