"""Bars on a terminal: one for each task of a run."""

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """Draws how many steps of each task are done."""

    def __init__(self, console: Console, tasks: dict[str, int]) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=False,
        )
        self._bars: dict[str, TaskID] = {
            task: self._progress.add_task(escape(task), total=count) for task, count in tasks.items()
        }
        self._progress.start()

    def advance(self, task: str) -> None:
        """Count one more step of a task."""
        self._progress.advance(self._bars[task])

    def refresh(self) -> None:
        """Draw what is true now."""
        self._progress.refresh()

    def stop(self) -> None:
        """Draw no more."""
        self._progress.stop()
