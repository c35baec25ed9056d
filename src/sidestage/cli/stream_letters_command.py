"""``sidestage stream letters``: what a stream has set aside."""

from collections import deque
from datetime import datetime
from pathlib import Path

import click
import msgspec
from rich.table import Table

from sidestage.cli.console import console, escape
from sidestage.cli.letter_options import choice_options, flaws, one_line
from sidestage.cli.options import json_option, print_json
from sidestage.errors import ConfigurationError
from sidestage.stream.letters.reading import KnownLetter, LetterChoice, LetterReading
from sidestage.stream.letters.rows import LetterRow, row_of

_SHORT_TRACE = 12
_SHOWN = {"error": 60, "key": 20, "origin": 40, "item": 60}
"""How many characters of each are shown at most in a table."""


class _Group:
    """Letters that have stage, class and error in common."""

    def __init__(self, letter: KnownLetter) -> None:
        self.first = self.last = letter.letter.at
        self.count = self.replayed = 0

    def add(self, letter: KnownLetter) -> None:
        at = letter.letter.at
        self.first, self.last = min(self.first, at), max(self.last, at)
        self.count += 1
        self.replayed += letter.is_replayed


@click.command("letters")
@click.argument("place", metavar="FILE", type=click.Path(path_type=Path))
@choice_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The last so many.")
@click.option("--group", is_flag=True, help="Count them by stage, class and error.")
@click.option("--show", metavar="TRACE", help="Those with this trace or id, or its beginning, in full.")
@click.option("--left", is_flag=True, help="Only those that were not replayed.")
@click.option("--all", "repeated", is_flag=True, help="Also what repeats another letter.")
@json_option
def command(
    place: Path,
    choice: LetterChoice,
    limit: int,
    show: str | None,
    *,
    group: bool,
    left: bool,
    repeated: bool,
    as_json: bool,
) -> int:
    """Show what a stream has set aside, from a FILE or a folder of files. Nothing is unpickled."""
    if group and show is not None:
        raise click.UsageError("--group and --show exclude each other.")
    reading = LetterReading(place, choice, repeated=repeated)
    letters = (each for each in reading if not (left and each.is_replayed))
    if group:
        groups: dict[tuple[str, str, str], _Group] = {}
        for each in letters:
            kind = (each.letter.stage, each.letter.failure_class, each.letter.error)
            groups.setdefault(kind, _Group(each)).add(each)
        _tell_groups(groups, reading, as_json=as_json)
        return 0
    if show is not None:
        letters = (each for each in letters if _is_named(each, show.lower()))
    count, rows = 0, deque[LetterRow](maxlen=limit)
    for each in letters:
        count += 1
        rows.append(row_of(each))
    if show is not None and not count:
        raise ConfigurationError(
            f"No letter at {place} has a trace or id that begins with {show!r}.",
            hint="The table shows the beginnings of traces; a file or the options may leave letters out.",
        )
    if as_json:
        print_json({"letters": list(rows), "count": count, **_counted(reading)})
        return 0
    for line in _full(rows) if show is not None else ():
        click.echo(line)
    if show is None:
        console().print(_table(rows))
    _tell(_summary(count, len(rows), reading))
    return 0


def _is_named(known: KnownLetter, name: str) -> bool:
    return known.id.startswith(name) or (known.letter.trace or "").startswith(name)


def _table(rows: deque[LetterRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("set aside", "stage", "class", "error", "key", "origin", "trace", "item", "replayed"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            _moment(row["at"]),
            escape(one_line(row["stage"], 40)),
            row["failure_class"],
            escape(one_line(f"{row['error']}: {row['message']}", _SHOWN["error"])),
            escape(one_line(row["key"] or "", _SHOWN["key"])),
            escape(one_line(_origin(row), _SHOWN["origin"])),
            (row["trace"] or row["id"])[:_SHORT_TRACE],
            escape(one_line(row["shown"], _SHOWN["item"])),
            "yes" if row["is_replayed"] else "",
        )
    return table


def _full(rows: deque[LetterRow]) -> list[str]:
    lines = []
    for row in rows:
        shown = {**row, "at": row["at"].isoformat(sep=" "), "origin": _origin(row)}
        if row["item"] is not None:
            shown["item"] = msgspec.json.format(row["item"], indent=2)
        for name in ("part", "first", "index"):
            del shown[name]
        for name, value in shown.items():
            if value is None or value == "":
                continue
            text = "yes" if value is True else "no" if value is False else str(value)
            first, *others = text.splitlines() or [""]
            lines.append(f"{name.replace('_', ' ') + ':':<16}{one_line(first, len(first) + 3)}")
            lines.extend(f"{'':<16}{_kept_indent(each)}" for each in others)
        lines.append("")
    return lines


def _kept_indent(line: str) -> str:
    rest = line.lstrip(" ")
    return " " * (len(line) - len(rest)) + one_line(rest, len(rest) + 3)


def _tell_groups(
    groups: dict[tuple[str, str, str], _Group], reading: LetterReading, *, as_json: bool
) -> None:
    ordered = sorted(groups.items(), key=lambda pair: (-pair[1].count, pair[0]))
    if as_json:
        names = ("stage", "failure_class", "error")
        found = [dict(zip(names, kind, strict=True)) | vars(each) for kind, each in ordered]
        print_json({"groups": found, **_counted(reading)})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("letters", "replayed", "stage", "class", "error", "first", "last"):
        table.add_column(heading, justify="right" if heading in ("letters", "replayed") else "left")
    for (stage, failure_class, error), each in ordered:
        table.add_row(
            f"{each.count:,}",
            f"{each.replayed:,}",
            escape(one_line(stage, 40)),
            failure_class,
            escape(one_line(error, 60)),
            _moment(each.first),
            _moment(each.last),
        )
    console().print(table)
    count = sum(each.count for each in groups.values())
    _tell(_summary(count, count, reading))


def _summary(count: int, shown: int, reading: LetterReading) -> list[str]:
    told = [f"{count:,} letter{'' if count == 1 else 's'}."]
    if shown < count:
        told[0] = f"The last {shown:,} of {count:,} letters."
    if reading.repetitions:
        told.append(f"Letters that repeat another: {reading.repetitions:,}.")
    return told + flaws(reading)


def _counted(reading: LetterReading) -> dict[str, int]:
    return {
        "repetitions": reading.repetitions,
        "damaged": reading.damaged,
        "cut_off": reading.cut_off,
    }


def _tell(sentences: list[str]) -> None:
    console(stderr=True).print(escape(" ".join(sentences)), soft_wrap=True)


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _origin(row: LetterRow) -> str:
    return "" if row["part"] is None else f"{row['part']} {row['first']}+{row['index']}"
