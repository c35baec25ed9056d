"""``sidestage sql``: published data in DuckDB."""

import sys
from datetime import datetime

import click
import duckdb
from rich.console import Console
from rich.table import Table

from sidestage.cli.console import console, escape
from sidestage.cli.moments import as_of_option
from sidestage.cli.options import json_option, print_json, project_option, shared
from sidestage.data.lake import Lake
from sidestage.errors import SidestageError
from sidestage.observe.sql import Published, open_published
from sidestage.project.project import Project

_PROMPT = "sidestage> "


@click.command("sql")
@click.argument("query", required=False)
@click.option("--max-rows", default=40, type=click.IntRange(1), show_default=True, help="Rows to print.")
@as_of_option
@shared(project_option, json_option)
def command(query: str | None, max_rows: int, as_of: datetime | None, start: str, as_json: bool) -> int:
    """Query published data in DuckDB: one schema for each environment.

    production.delays, fix_tz.delays; where two datasets end in the same word, production."shop/delays".
    Without a QUERY it reads queries from standard input, with a prompt on a terminal.
    """
    with Project.open(start) as project:
        published = open_published(project.store, Lake(project.layout.lake), as_of=as_of)
    out = console()
    if query is not None:
        _answer(published.connection, query, out, max_rows, as_json=as_json)
        return 0
    if sys.stdin.isatty():
        _list_views(published, out)
    _converse(published.connection, out, max_rows, as_json=as_json)
    return 0


def _converse(connection: duckdb.DuckDBPyConnection, out: Console, max_rows: int, *, as_json: bool) -> None:
    pending = ""
    while True:
        line = _read_line(pending)
        if line is None:
            break
        pending += line + "\n"
        if line.rstrip().endswith(";"):
            try:
                _answer(connection, pending, out, max_rows, as_json=as_json)
            except SidestageError as error:
                if not sys.stdin.isatty():
                    raise
                out.print(escape(error.message), style="red")
            pending = ""
    if pending.strip():
        _answer(connection, pending, out, max_rows, as_json=as_json)


def _read_line(pending: str) -> str | None:
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        return input("      ...> " if pending else _PROMPT)
    except EOFError:
        return None


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, out: Console, max_rows: int, *, as_json: bool
) -> None:
    try:
        result = connection.execute(query)
        columns = [column[0] for column in result.description or ()]
        rows = result.fetchmany(max_rows + 1) if columns else []
    except duckdb.Error as error:
        raise SidestageError(
            f"The query failed: {error}", hint="List what there is: SHOW ALL TABLES"
        ) from error
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows[:max_rows]])
        return
    table = Table(header_style="dim")
    for column in columns:
        table.add_column(escape(column))
    for row in rows[:max_rows]:
        table.add_row(*("NULL" if value is None else escape(str(value)) for value in row))
    out.print(table)
    if len(rows) > max_rows:
        out.print(f"Only the first {max_rows} rows are shown (--max-rows).", style="dim")


def _list_views(published: Published, out: Console) -> None:
    for view in published.views:
        short = f"  or {view.schema}.{view.short_name}" if view.short_name else ""
        out.print(
            f'{view.schema}."{view.name}"{short}  {view.rows:,} rows in {view.partitions} partitions',
            style="dim",
        )
