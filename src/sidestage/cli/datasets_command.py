"""``sidestage datasets``: what is published."""

from datetime import datetime

import click
from rich.table import Table

from sidestage.cli.console import console
from sidestage.cli.moments import as_of_option
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.observe.sql import named_environment, visible_pointers
from sidestage.observe.status import dataset_status
from sidestage.project.project import Project


@click.command("datasets")
@click.option("--environment", "-e", default="production", show_default=True, help="Whose view.")
@as_of_option
@shared(project_option, json_option)
def command(environment: str, as_of: datetime | None, start: str, as_json: bool) -> int:
    """Show what is published, as one environment sees it."""
    with Project.open(start) as project:
        chosen = named_environment(project.store, environment)
        pointers = visible_pointers(project.store, chosen, as_of)
        found = dataset_status(chosen.name, pointers, project.store.versions(pointers.values()))
    if as_json:
        print_json(found)
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("dataset", "partitions", "first", "last", "rows", "MB"):
        table.add_column(heading, justify="right" if heading in ("partitions", "rows", "MB") else "left")
    for entry in found:
        size = f"{entry.bytes / 1e6:.1f}"
        table.add_row(entry.dataset, str(entry.partitions), entry.first, entry.last, f"{entry.rows:,}", size)
    console().print(table)
    return 0
