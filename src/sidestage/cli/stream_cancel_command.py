"""``sidestage stream cancel``: ends one worker's item, or one branch, of a stream that runs."""

import click
import msgspec

from sidestage.cli.console import console, escape
from sidestage.cli.options import json_option, print_json
from sidestage.errors import ConfigurationError
from sidestage.stream.scopes.control import Answer, Question, asked, running
from sidestage.stream.scopes.events import StageCancellation, WorkerCancellation


@click.command("cancel")
@click.argument("flow", metavar="MODULE:FLOW")
@click.option("--stage", metavar="NAME", help="The stage to end, with all that works for nothing else.")
@click.option(
    "--worker", type=click.IntRange(1), metavar="N", help="Only have this worker of it give up its item."
)
@click.option("--why", default="request", metavar="TEXT", help="Noted in dead letters and events.")
@click.option("--pid", type=int, metavar="PID", help="Which process, if several run the same flow.")
@json_option
def command(
    flow: str, stage: str | None, worker: int | None, why: str, pid: int | None, *, as_json: bool
) -> int:
    """Cancel a worker or a branch of a stream that `sidestage stream run` runs here; the rest goes on.

    MODULE:FLOW is what it was started with. Without --stage nothing is cancelled: it shows which workers have
    been at work on something for how long. Only streams of the same user are found.
    """
    if worker is not None and stage is None:
        raise ConfigurationError("--worker needs --stage.", hint="Workers are counted within their stage.")
    found = running(flow, pid)
    if stage is None:
        _show(found.answer, as_json=as_json)
        return 0
    question = Question("stage" if worker is None else "worker", stage, worker or 0, why)
    answer = asked(found.address, question)
    came = answer.worker or answer.stage
    if as_json:
        print_json(msgspec.to_builtins(came))
        return 0
    text = _of_worker(answer.worker) if answer.worker is not None else _of_stage(answer.stage)
    console().print(escape(text), soft_wrap=True, highlight=False)
    return 0


def _show(found: Answer, *, as_json: bool) -> None:
    if as_json:
        print_json({"pid": found.pid, "workers": msgspec.to_builtins(found.workers)})
        return
    out = console()
    if not found.workers:
        out.print("No worker is at work on anything that it could be made to give up.")
    for each in found.workers:
        line = f"{each.stage} {each.number} ({each.kind}): {each.seconds:,.1f} s"
        out.print(escape(line), soft_wrap=True, highlight=False)


def _of_worker(came: WorkerCancellation) -> str:
    who = f"{came.stage} {came.number}"
    if came.item is None:
        return f"{who} had no item in hand."
    return f"{who} gave up {came.item}; another {came.kind} takes its place."


def _of_stage(came: StageCancellation | None) -> str:
    assert came is not None
    if not came.stages:
        return f"{came.stage} was cancelled before."
    others = [name for name in came.stages if name != came.stage]
    along = f", with {', '.join(others)}" if others else ""
    waited = f"{came.waiting:,} item{'' if came.waiting == 1 else 's'} that waited"
    return f"{came.stage} is cancelled{along}: {waited} and all that still comes is counted, not done."
