"""What ``run`` and ``stage`` share: executing with progress, and saying how it ended."""

from sidestage.cli.console import console, escape
from sidestage.cli.options import print_json
from sidestage.run.summary import RunSummary

STEPS_FAILED = 4


def tell(summary: RunSummary | None, *, as_json: bool, next_steps: tuple[str, ...] = ()) -> int:
    """Print how a run ended and return the exit status."""
    if as_json:
        print_json(summary)
    elif summary is None:
        console().print("Nothing to do: everything selected is up to date.")
    else:
        _tell(summary, next_steps)
    return STEPS_FAILED if summary is not None and summary.state != "done" else 0


def _tell(summary: RunSummary, next_steps: tuple[str, ...]) -> None:
    out = console()
    colour = "green" if summary.state == "done" else "red"
    out.print(
        f"[{colour}]Run {summary.run} {summary.state}[/{colour}]: {summary.published} published"
        f" ({summary.rows:,} rows, {summary.bytes / 1e6:.1f} MB), {summary.reused} reused,"
        f" {summary.failed} failed, {summary.skipped} not reached, in {summary.seconds:.1f} s"
    )
    if summary.state == "cancelled":
        out.print("It was cancelled: what was published stays, the rest was given back.", style="dim")
    elif summary.state != "done":
        out.print("What failed kept its previous version. Details: sidestage status", style="dim")
    for line in next_steps:
        out.print(f"  next: {escape(line)}", style="dim", soft_wrap=True)
