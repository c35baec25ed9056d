"""Progress of a run on the terminal: one bar for each task, and failures as they happen."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sidestage.cli.console import console, escape
from sidestage.events import Event, RunEnded, RunStarted, StepFailed, StepPublished, StepReused, StepWaits

if TYPE_CHECKING:
    from rich.console import Console

    from sidestage.cli.bars import Bars

_SHOWN_FAILURES = 5


class RunProgress:
    """Listens to a run and draws its progress on standard error; a context manager.

    Nothing is drawn where that is not a terminal, but failures are always printed, unless ``quiet``.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._failures = 0
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event, /) -> None:
        """Draw what an event means."""
        match event:
            case RunStarted(tasks=tasks) if not self._quiet and sys.stderr.isatty():
                # Loaded when a run has begun: by then its workers load the user's code meanwhile.
                from sidestage.cli.bars import Bars  # noqa: PLC0415

                self._bars = Bars(self._console, tasks)
            case StepPublished(step=step) | StepReused(step=step) if self._bars is not None:
                self._bars.advance(step.partition("@")[0])
            case StepFailed() if not self._quiet:
                self._failed(event)
            case StepWaits(step=step, why=why) if not self._quiet:
                self._console.print(f"[yellow]![/yellow] {escape(step)} is {escape(why)}", soft_wrap=True)
            case RunEnded() if self._bars is not None:
                self._bars.refresh()

    @property
    def _console(self) -> "Console":
        # Lines must be printed above the bars, by whoever draws them.
        return console(stderr=True) if self._bars is None else self._bars.console

    def _failed(self, event: StepFailed) -> None:
        self._failures += 1
        if self._failures > _SHOWN_FAILURES:
            return
        what = "failed" if event.final else f"attempt {event.attempt} failed, will be tried again"
        out = self._console
        out.print(f"[red]x[/red] {escape(event.step)} {what} ({event.failure_class})")
        out.print(f"  {escape(event.message)}", style="dim", soft_wrap=True)
