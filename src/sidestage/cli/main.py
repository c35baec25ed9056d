"""Entry point: finds the command, and turns errors into one clear line and an exit status."""

import json
import signal
import sys
import traceback
from types import FrameType

import click

from sidestage import __version__
from sidestage.cli.lazy_group import LazyGroup
from sidestage.errors import SidestageError

COMMANDS = {
    "init": "Make a new project that runs at once.",
    "plan": "Show what would run, and why. Runs nothing.",
    "run": "Plan, then run what is missing or outdated.",
    "worker": "Execute runs that were begun anywhere.",
    "stream": "Run streams, and look at them.",
    "cancel": "End a run, wherever it runs.",
    "drain": "Have a worker finish and end.",
    "stage": "Run other code on production's inputs, beside production.",
    "compare": "Compare what a candidate staged with production.",
    "promote": "Make what a candidate staged production's.",
    "rollback": "Take the newest promotion back.",
    "status": "Show environments and the newest runs.",
    "history": "Show what pointers showed, and who moved them.",
    "datasets": "Show what is published.",
    "sql": "Query published data in DuckDB.",
    "migrate": "Finish what an upgrade began in the catalog.",
    "clean": "Delete files that nothing refers to any more.",
}

INTERRUPTED = 130
TERMINATED = 143


@click.command(cls=LazyGroup, known=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sidestage")
@click.option("--trace", is_flag=True, help="Show the full trace of an error.")
def sidestage(*, trace: bool) -> None:  # read in main(), where errors arrive
    """Data pipelines with an understudy: run, rehearse a change, compare, promote, roll back."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 success, 1 other errors, 2 wrong use or configuration, 3 a gate is closed or a comparison did not pass,
    4 steps failed, 5 damaged data, 6 the catalog refused, 130 interrupted, 143 terminated.
    """
    words = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = sidestage.main(args=words, prog_name="sidestage", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click makes the one of the other
        click.echo("Interrupted: what was published stays, the rest was given back.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SidestageError as error:
        _show(error, as_json="--json" in words, trace="--trace" in words)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001  # the last line of defence: nobody is shown a trace unasked
        _show(_unexpected(error), as_json="--json" in words, trace="--trace" in words)
        return 1
    return status if isinstance(status, int) else 0


def _show(error: SidestageError, *, as_json: bool, trace: bool) -> None:
    if trace:
        traceback.print_exception(error)
    if as_json:
        body = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        click.echo(json.dumps(body))
        return
    click.echo(f"Error: {error.message}", err=True)
    if error.hint:
        click.echo(f"       {error.hint}", err=True)


def _unexpected(error: Exception) -> SidestageError:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        made = SidestageError(
            f"{place}{error.strerror}.", hint="Check the disk's space and who owns the file."
        )
    else:
        text = " ".join(str(error).split())[:500]
        made = SidestageError(
            f"{type(error).__name__}: {text}",
            hint="This is a fault in Sidestage; please report it with what this shows: sidestage --trace ...",
        )
    made.__cause__ = error
    return made


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
