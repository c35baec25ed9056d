"""``sidestage stream run``: a stream as a service, with signals, metrics and an exit status."""

import sys
from contextlib import ExitStack
from typing import Literal

import click
import msgspec

from sidestage.cli.console import console, escape
from sidestage.cli.named import named
from sidestage.clock import SystemClock
from sidestage.errors import ConfigurationError
from sidestage.events import Event
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.engine import Engine
from sidestage.stream.flow import Flow
from sidestage.stream.letters.folder import letters_at
from sidestage.stream.life.phases import StreamCancelled, StreamTurned, ThreadsHang, runbook_of
from sidestage.stream.life.signals import serve
from sidestage.stream.observing.watch_server import LOCAL, WatchServer
from sidestage.stream.scopes.control import Control
from sidestage.stream.settings import Ended

INTERRUPTED = 130
TERMINATED = 143


class _Log:
    """Events as lines: of JSON on standard output, or for people on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = console(stderr=True)
        self.cancelled: StreamCancelled | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, StreamCancelled):
            self.cancelled = event
        if self._as_json:
            self.line(msgspec.to_builtins(event) | {"runbook": runbook_of(type(event))})
            return
        moment, kind = f"{event.at:%H:%M:%S}", type(event).__name__
        match event:
            case StreamTurned(stream=stream, why=why):
                text = f"{stream}: {kind} ({why})"
            case ThreadsHang(threads=threads):
                text = f"{kind}: {', '.join(threads)}; see {runbook_of(type(event))}"
            case _:
                text = f"{kind}; see {runbook_of(type(event))}"
        self._out.print(escape(f"{moment} {text}"), soft_wrap=True, highlight=False)

    @staticmethod
    def line(value: object) -> None:
        """Print a line of JSON; somebody may be waiting for it."""
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()


@click.command("run")
@click.argument("flow", metavar="MODULE:FLOW")
@click.option("--checkpoint", metavar="FILE", help="Keep here how far everything has been dealt with.")
@click.option(
    "--dead-letters",
    metavar="FILE",
    help="Append here what is set aside; to a file of the day if it is a folder.",
)
@click.option(
    "--fail",
    type=click.Choice(["fast", "soft"]),
    default="fast",
    show_default=True,
    help="What an item that nothing else is said about does: end the stream, or be set aside.",
)
@click.option("--grace", type=click.FloatRange(0), metavar="SECONDS", help="Cancel a drain after so long.")
@click.option("--metrics", type=click.IntRange(0, 65535), metavar="PORT", help="Serve /metrics and /healthz.")
@click.option("--host", default=LOCAL, show_default=True, help="Where --metrics listens.")
@click.option("--json", "as_json", is_flag=True, help="Print events as lines of JSON.")
def command(
    flow: str,
    checkpoint: str | None,
    dead_letters: str | None,
    fail: Literal["fast", "soft"],
    grace: float | None,
    metrics: int | None,
    host: str,
    as_json: bool,
) -> int:
    """Run a stream until its sources end. SIGTERM or Ctrl-C drains it, a second one cancels it.

    MODULE:FLOW names a Flow, or a function that returns one, in a module of the current folder or one that is
    installed. Exit status: 0 also after a drain; 4 if it failed; 130 or 143 if it was cancelled.
    """
    log = _Log(as_json=as_json)
    with ExitStack() as stack:
        letters = None if dead_letters is None else letters_at(dead_letters)
        if letters is not None:
            stack.callback(letters.close)
        found = find(flow)
        server = None if metrics is None else stack.enter_context(WatchServer(metrics, host))
        if server is not None:
            click.echo(f"Metrics: {server.url}/metrics", err=True)
        control = stack.enter_context(Control(flow))
        if control.refusal:
            click.echo(f"Out of reach of sidestage stream cancel: {control.refusal}", err=True)

        def begin() -> Engine:
            engine = found.engine(
                fail=fail,
                dead_letters=letters,
                checkpoint=None if checkpoint is None else Checkpoint(checkpoint),
                listener=log,
            )
            if server is not None:
                server.show(engine)
            control.show(engine)
            return engine

        ended = serve(begin, found.settings.restart, SystemClock(), grace)
    _tell(ended, log, as_json=as_json)
    if log.cancelled is None:
        return 0
    return INTERRUPTED if "SIGINT" in log.cancelled.why else TERMINATED


def find(name: str) -> Flow:
    """Return the flow that ``MODULE:NAME`` names. Raises ConfigurationError."""
    with named(name, "a flow", "clicks:flow for clicks.py", "run") as found:
        flow = found() if not isinstance(found, Flow) and callable(found) else found
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"{name} is {type(flow).__name__}, not a flow.",
            hint="A flow is what Stream(...).to(sink) returns.",
        )
    return flow


def _tell(ended: Ended, log: _Log, *, as_json: bool) -> None:
    if as_json:
        log.line({"type": "Result", **msgspec.to_builtins(ended)})
        return
    how = "cancelled" if log.cancelled is not None else "complete" if ended.complete else "drained"
    last = ended.stages[-1]
    letters = f"{ended.dead_letters} dead letter{'' if ended.dead_letters == 1 else 's'}"
    console(stderr=True).print(
        escape(f"Stream {how}: {last.name} got {last.processed:,} items, {letters}, in {ended.seconds:.1f} s")
    )
