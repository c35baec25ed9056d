"""Which dead letters a command is about."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, get_args

import click

from sidestage.cli.moments import Moment
from sidestage.policy.failure import FailureClass
from sidestage.stream.letters.reading import LetterChoice, LetterReading


def choice_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options that choose letters; the function gets them as its ``choice``."""

    @click.option("--stage", metavar="NAME", help="Only letters of this stage.")
    @click.option(
        "--class", "failure_class", type=click.Choice(get_args(FailureClass)), help="Only of this class."
    )
    @click.option("--error", metavar="TEXT", help="Only if the error's type or message has this in it.")
    @click.option("--since", type=Moment(), metavar="MOMENT", help="Only from then on (ISO 8601, UTC).")
    @click.option("--until", type=Moment(), metavar="MOMENT", help="Only from before then.")
    @wraps(function)
    def wrapped(
        stage: str | None,
        failure_class: FailureClass | None,
        error: str | None,
        since: datetime | None,
        until: datetime | None,
        **others: Any,
    ) -> int:
        choice = LetterChoice(stage=stage, failure_class=failure_class, error=error, since=since, until=until)
        return function(choice=choice, **others)

    return wrapped


def flaws(reading: LetterReading) -> list[str]:
    """Return, as sentences, what of a file could not be read, and what was left out."""
    told = []
    if reading.damaged:
        told.append(f"Lines that are no letters, passed over: {reading.damaged:,}.")
    if reading.cut_off:
        told.append(f"Files that end within a line, or are being written to: {reading.cut_off:,}.")
    return told


def one_line(text: str, most: int) -> str:
    """Return text as one line of so many characters at most; what a terminal would obey is shown as ``?``."""
    plain = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
