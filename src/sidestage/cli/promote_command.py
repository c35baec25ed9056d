"""``sidestage promote``: gates, then one pointer move."""

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import by_option, json_option, print_json, project_option, reason_option, shared
from sidestage.project.project import Project
from sidestage.release.gate import Gate

GATE_CLOSED = 3


@click.command("promote")
@click.argument("candidate")
@click.option("--dry-run", is_flag=True, help="Only show the gates.")
@shared(reason_option, by_option, project_option, json_option)
def command(candidate: str, dry_run: bool, reason: str, by: str | None, start: str, as_json: bool) -> int:
    """Make what a candidate staged production's.

    Every gate must be open; there is no option that skips one. The very versions that were compared become
    current, all at once; nothing is computed again.
    """
    with Project.open(start, by=by) as project:
        pipeline = project.pipeline_of(candidate)
        if dry_run:
            return _show_gates(project.gates(pipeline, candidate), as_json=as_json)
        move = project.promote(pipeline, candidate, reason=reason)
    if as_json:
        print_json(move)
    else:
        console().print(
            f"[green]Promoted[/green] {escape(candidate)}: {move.pointers} pointers moved as move {move.id}. "
            "Back, at once: sidestage rollback",
            soft_wrap=True,
        )
    return 0


def _show_gates(gates: tuple[Gate, ...], *, as_json: bool) -> int:
    if as_json:
        print_json(gates)
    else:
        out = console()
        for gate in gates:
            mark = "[green]open  [/green]" if gate.open else "[red]closed[/red]"
            out.print(f"{mark} {escape(gate.name)}: {escape(gate.evidence)}")
            if not gate.open:
                out.print(f"       {escape(gate.next_step)}", style="dim", soft_wrap=True)
    return 0 if all(gate.open for gate in gates) else GATE_CLOSED
