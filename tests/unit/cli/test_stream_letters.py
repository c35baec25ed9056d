"""The commands about dead letters: what they print, and what they do."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.unit.stream.letters import letter

from sidestage.cli.stream_command import command
from sidestage.errors import ConfigurationError, DataError
from sidestage.stream.letters.file import LetterFile
from sidestage.testing.turned_clock import HandClock

SHOP = """
from sidestage.stream import Collected

done = Collected()

def odd(item):
    if item % 2 == 0:
        raise ValueError(f"{item} is even")
    return item

def repair(stream):
    return stream.map(odd).to(done)

def nothing(stream):
    return stream

def fails(stream):
    raise ValueError("no repair")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "letters_shop.py").write_text(SHOP)
    clock = HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    with LetterFile("letters", clock) as file:
        for item in range(1, 5):
            file(letter(item, place=item))
            clock.advance(60)
        file(
            letter(
                "\x1b[31m[red]", place=9, stage="enrich", failure="transient", error=KeyError("[bold]\x1b")
            )
        )
        file(letter(1, place=1))
    yield tmp_path
    sys.modules.pop("letters_shop", None)


def run(*words: str) -> Result:
    return CliRunner().invoke(command, list(words), catch_exceptions=False, standalone_mode=False)


def test_letters_are_shown_once(folder: Path) -> None:
    shown = run("letters", "letters").output
    assert shown.count("ValueError: no") == 4
    assert "2026-03-01 12:01:00" in shown
    assert "000000000000" in shown
    assert '"anna"' in shown
    assert "topic/3 100+2" in shown
    assert "\x1b" not in shown
    assert "KeyError: '[bold]" in shown
    assert "5 letters. Letters that repeat another: 1." in shown
    assert run("letters", "letters", "--all").output.count("ValueError: no") == 5
    assert "The last 2 of 5 letters." in run("letters", "letters", "--limit", "2").output


def test_letters_are_chosen_and_counted(folder: Path) -> None:
    assert "1 letter." in run("letters", "letters", "--stage", "enrich", "--class", "transient").output
    assert "1 letter." in run("letters", "letters", "--error", "keyerror").output
    chosen = run("letters", "letters", "--since", "2026-03-01T12:01", "--until", "2026-03-01T12:03", "--json")
    found = json.loads(chosen.output)
    assert [each["item"] for each in found["letters"]] == ["2", "3"]
    assert (found["count"], found["damaged"], found["cut_off"]) == (2, 0, 0)
    groups = json.loads(run("letters", "letters", "--group", "--json").output)["groups"]
    assert [(each["stage"], each["error"], each["count"]) for each in groups] == [
        ("decode", "ValueError", 4),
        ("enrich", "KeyError", 1),
    ]
    assert "decode" in run("letters", "letters", "--group").output


def test_one_letter_is_shown_in_full(folder: Path) -> None:
    shown = run("letters", "letters", "--show", f"{3:032x}").output
    assert "topic/3 100+3" in shown
    assert "item:           3" in shown
    assert "2026-03-01 12:02:00+00:00" in shown
    assert "\x1b" not in run("letters", "letters", "--show", f"{9:032x}").output
    with pytest.raises(ConfigurationError, match="begins with"):
        run("letters", "letters", "--show", "e0e0e0e0e0")


def test_damage_is_told_and_no_error(folder: Path) -> None:
    with Path("letters").open("ab") as file:
        file.write(b'{}\nnone\n{"at": "20')
    shown = run("letters", "letters").output
    assert "5 letters." in shown
    assert "Lines that are no letters, passed over: 2." in shown
    assert "Files that end within a line, or are being written to: 1." in shown
    with pytest.raises(DataError, match="no letters at nowhere"):
        run("letters", "nowhere")


def test_letters_are_replayed_once(folder: Path) -> None:
    done = run("replay", "letters", "letters_shop:repair", "--stage", "decode", "--limit", "2")
    assert "2 letters replayed. Items that became letters again: 1." in done.output
    found = json.loads(run("replay", "letters", "letters_shop:repair", "--stage", "decode", "--json").output)
    assert (found["replayed"], found["failed_again"], found["complete"]) == (2, 1, True)
    assert sys.modules["letters_shop"].done.items == [1, 3]
    left = json.loads(run("letters", "letters", "--left", "--json").output)["letters"]
    assert [(each["stage"], each["replays"]) for each in left] == [("enrich", 0), ("odd", 1), ("odd", 1)]
    again = run("replay", "letters", "letters_shop:repair", "--stage", "decode", "--again")
    assert "4 letters replayed. Items that became letters again: 2." in again.output


def test_items_that_cannot_be_had_are_named(folder: Path) -> None:
    with LetterFile("other") as file:
        for place in range(7):
            file(letter(lambda: None, place=place))
    done = run("replay", "other", "letters_shop:repair").output
    assert "0 letters replayed." in done
    assert done.count("cannot be had again") == 5
    assert "and 2 more" in done


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("letters_shop:nothing", "gives Stream, not a flow"),
        ("letters_shop:missing", "cannot be had"),
        ("letters_shop", "does not name a function"),
        ("letters_shop:SHOP", "cannot be had"),
        ("letters_shop:fails", r"ValueError: no repair Its own code raised that"),
    ],
)
def test_a_function_that_is_none_is_refused(folder: Path, function: str, said: str) -> None:
    before = Path("letters").read_bytes()
    with pytest.raises(ConfigurationError, match=said):
        run("replay", "letters", function)
    assert Path("letters").read_bytes() == before
    assert not Path("letters.replayed").exists()


RUNS = """
from sidestage.stream import Collected, Stream

flow = Stream(["1", "two"]).map(int, name="decode").to(Collected())
"""


def test_a_run_sets_aside_to_a_folder(folder: Path) -> None:
    Path("kept").mkdir()
    Path("letters_runs.py").write_text(RUNS)
    try:
        run("run", "letters_runs:flow", "--fail", "soft", "--dead-letters", "kept")
    finally:
        sys.modules.pop("letters_runs", None)
    (file,) = Path("kept").iterdir()
    assert file.suffix == ".jsonl"
    assert "'two'" in run("letters", "kept").output
