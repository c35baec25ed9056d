"""``sidestage worker``: serve runs that were begun anywhere, on this host."""

import click

from sidestage.cli.console import console, escape
from sidestage.cli.options import project_option, shared
from sidestage.events import Event, StepFailed, StepPublished, StepReused
from sidestage.project.project import Project
from sidestage.project.working import Said


class _Log:
    """One line for each step that was settled, for a log that people read."""

    def __init__(self, *, quiet: bool) -> None:
        self._out = console(stderr=True)
        self._quiet = quiet

    def __call__(self, event: Event, /) -> None:
        if self._quiet:
            return
        moment = f"{event.at:%H:%M:%S}"
        match event:
            case StepPublished(run=run, step=step, rows=rows):
                self._line(f"{moment} run {run} published {step} ({rows:,} row{'' if rows == 1 else 's'})")
            case StepReused(run=run, step=step):
                self._line(f"{moment} run {run} reused {step}")
            case StepFailed(run=run, step=step, failure_class=kind, message=message):
                self._line(f"{moment} run {run} failed {step} ({kind}): {message}")

    def say(self, said: Said) -> None:
        """Print what people should know."""
        self._line(said.message)
        if said.hint:
            self._line(f"  {said.hint}")

    def _line(self, text: str) -> None:
        self._out.print(escape(text), soft_wrap=True, highlight=False)


@click.command("worker")
@click.option("--slots", type=click.IntRange(1, 256), help="Steps at a time (default: one per processor).")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Serve this queue only (repeatable).")
@click.option("--until-idle", is_flag=True, help="End when no run is open any more, nor due.")
@click.option("--no-triggers", is_flag=True, help="Leave it to others to begin runs that are due.")
@click.option("--no-services", is_flag=True, help="Leave it to others to keep services running.")
@click.option("--quiet", is_flag=True, help="Say only what needs attention.")
@shared(project_option)
def command(
    slots: int | None,
    queues: tuple[str, ...],
    until_idle: bool,
    no_triggers: bool,
    no_services: bool,
    quiet: bool,
    start: str,
) -> int:
    """Execute steps of open runs, begin runs that are due, and keep services running, until told to stop.

    Start one on every host that is to help; they share the project's store. SIGTERM or Ctrl-C drains: what
    runs is finished, nothing new is begun, services are drained. A second one stops what runs and gives it
    back. With --until-idle no services are kept.
    """
    log = _Log(quiet=quiet)
    with Project.open(start, listener=log) as project:
        tally = project.work(
            slots=slots,
            queues=queues,
            until_idle=until_idle,
            triggers=not no_triggers,
            services=not no_services,
            say=log.say,
        )
    if not quiet:
        console(stderr=True).print(f"Worker ends: {tally.published} published, {tally.reused} reused.")
    return 0
