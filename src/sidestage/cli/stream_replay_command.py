"""``sidestage stream replay``: the items of dead letters once more."""

from pathlib import Path

import click

from sidestage.cli.console import console, escape
from sidestage.cli.letter_options import choice_options, flaws, one_line
from sidestage.cli.named import named
from sidestage.cli.options import json_option, print_json
from sidestage.clock import SystemClock
from sidestage.errors import ConfigurationError
from sidestage.stream.flow import Flow
from sidestage.stream.letters.reading import LetterChoice
from sidestage.stream.letters.replay import LetterReplay
from sidestage.stream.life.signals import serve
from sidestage.stream.stream import Stream

_REASONS = 5
"""How many items that cannot be had again are named."""


@click.command("replay")
@click.argument("place", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("function", metavar="MODULE:FUNCTION")
@choice_options
@click.option("--limit", type=click.IntRange(1), help="The first so many.")
@click.option("--again", is_flag=True, help="Also those that were replayed before.")
@json_option
def command(
    place: Path, function: str, choice: LetterChoice, limit: int | None, *, again: bool, as_json: bool
) -> int:
    """Do the items of letters again, of a FILE or a folder of files; mark the letters as replayed.

    MODULE:FUNCTION takes a Stream of the items and returns a Flow. What fails again is a letter again, in the
    same place. At least once: what was under way when this is killed is done again the next time. Items are
    unpickled: replay only letters that you trust. SIGTERM or Ctrl-C drains, a second one cancels.

    Exit status: 0 also if items failed again.
    """
    with LetterReplay(place, choice, again=again, limit=limit) as replay:
        flow = _flow(function, replay)
        ended = serve(
            lambda: flow.engine(fail="soft", dead_letters=replay), flow.settings.restart, SystemClock(), None
        )
        found = {
            "replayed": replay.replayed,
            "failed_again": replay.failed,
            "lost": len(replay.lost),
            "complete": ended.complete,
            "damaged": replay.reading.damaged,
            "cut_off": replay.reading.cut_off,
        }
        told = [
            f"{replay.replayed:,} letter{'' if replay.replayed == 1 else 's'} replayed.",
            f"Items that became letters again: {replay.failed:,}." if replay.failed else "",
            "" if ended.complete else "It was stopped before its end.",
            *flaws(replay.reading),
        ]
        reasons = [
            f"The item {one_line(known.letter.shown, 60)} cannot be had again: {one_line(str(error), 200)}"
            for known, error in replay.lost[:_REASONS]
        ]
    if as_json:
        print_json(found)
        return 0
    out = console()
    out.print(escape(" ".join(filter(None, told))), soft_wrap=True)
    for reason in reasons:
        out.print(escape(reason), soft_wrap=True)
    if len(replay.lost) > len(reasons):
        out.print(f"... and {len(replay.lost) - len(reasons):,} more.")
    return 0


def _flow(function: str, replay: LetterReplay) -> Flow:
    with named(function, "a function", "shop:repair for shop.py", "replay") as found:
        flow = found(Stream(replay)) if callable(found) else found
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"{function} gives {type(flow).__name__}, not a flow.",
            hint="Write a function that takes a stream and returns what stream.to(sink) returns.",
        )
    return flow
