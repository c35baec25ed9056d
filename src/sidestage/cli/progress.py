"""Progress of a run on the terminal: one bar for each task, and failures as they happen."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sidestage.events import Event, RunEnded, RunStarted, StepFailed, StepPublished, StepReused, StepWaits

_SHOWN_FAILURES = 5


class RunProgress:
    """Listens to a run and draws its progress; a context manager.

    Nothing is drawn where the console is not a terminal, but failures are always printed.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._failures = 0
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=False,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event, /) -> None:
        """Draw what an event means."""
        match event:
            case RunStarted(tasks=tasks):
                for task, count in tasks.items():
                    self._bars[task] = self._progress.add_task(escape(task), total=count)
            case StepPublished(step=step) | StepReused(step=step):
                self._advance(step)
            case StepFailed():
                self._failed(event)
            case StepWaits(step=step, why=why) if not self._quiet:
                self._console.print(f"[yellow]![/yellow] {escape(step)} is {escape(why)}", soft_wrap=True)
            case RunEnded():
                self._progress.refresh()

    def _advance(self, step: str) -> None:
        task = step.partition("@")[0]
        self._progress.advance(self._bars[task])

    def _failed(self, event: StepFailed) -> None:
        if self._quiet:
            return
        self._failures += 1
        if self._failures > _SHOWN_FAILURES:
            return
        what = "failed" if event.final else f"attempt {event.attempt} failed, will be tried again"
        self._console.print(f"[red]x[/red] {escape(event.step)} {what} ({event.failure_class})")
        self._console.print(f"  {escape(event.message)}", style="dim", soft_wrap=True)
