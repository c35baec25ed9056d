"""``sidestage compare``: the verdict first."""

import shutil

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.observe.sql import schema_name
from sidestage.project.project import Project
from sidestage.release.report import render_text

NOT_PASSED = 3


@click.command("compare")
@click.argument("candidate")
@click.option("--html", metavar="FILE", help="Copy the HTML report there.")
@shared(project_option, json_option)
def command(candidate: str, html: str | None, start: str, as_json: bool) -> int:
    """Compare what a candidate staged with production.

    Partitions with equal digests are not read. The exit status is 0 if the comparison passed and 3 if not.
    """
    with Project.open(start) as project:
        compared = project.compare(candidate)
    if html:
        shutil.copyfile(compared.report, html)
    if as_json:
        print_json(compared)
    else:
        out = console()
        out.print(render_text(compared.comparison))
        out.print(f"Report:  {escape(compared.report)}", soft_wrap=True)
        schema = schema_name(candidate)
        out.print(f'Every difference: sidestage sql "FROM {escape(schema)}.discrepancies"', soft_wrap=True)
        if compared.comparison.passed:
            out.print(f"  next: sidestage promote {candidate}", style="dim")
    return 0 if compared.comparison.passed else NOT_PASSED
