"""Letters by day, of which so many are kept."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.stream.letters import letter

from sidestage.errors import ConfigurationError
from sidestage.stream.letters.file import read_letters
from sidestage.stream.letters.folder import LetterFolder
from sidestage.stream.letters.reading import LetterReading
from sidestage.testing.turned_clock import HandClock

DAY = 86_400.0
LATE = datetime(2026, 2, 27, 23, 59, tzinfo=UTC)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_each_day_has_a_file_and_only_so_many_are_kept(tmp_path: Path) -> None:
    clock, folder = HandClock(LATE), tmp_path / "letters"
    folder.mkdir()
    others = ["notes.jsonl", "2026-02-01.txt", "2026-W07.jsonl", "20260201.jsonl"]
    for name in [*others, "2026-02-01.jsonl", "2026-02-01.jsonl.replayed"]:
        (folder / name).write_bytes(b"")
    with LetterFolder(folder, keep_days=2, clock=clock) as letters:
        assert names(folder) == sorted(others)
        letters(letter("one", place=1))
        clock.advance(60)
        letters(letter("two", place=2))
        letters.sync()
        assert [each.value() for each in read_letters(folder / "2026-02-27.jsonl")] == ["one"]
        assert [each.letter.value() for each in LetterReading(folder)] == ["one", "two"]
        clock.advance(DAY)
        letters(letter("three", place=3))
    assert names(folder) == sorted([*others, "2026-02-28.jsonl", "2026-03-01.jsonl"])
    assert [each.value() for each in read_letters(folder / "2026-03-01.jsonl")] == ["three"]


def test_all_are_kept_if_nothing_is_said(tmp_path: Path) -> None:
    clock = HandClock(LATE)
    with LetterFolder(tmp_path, clock=clock) as letters:
        for number in range(4):
            letters(letter(number, place=number))
            clock.advance(DAY * 30)
    assert len(names(tmp_path)) == 4


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keep nothing"):
        LetterFolder(tmp_path, keep_days=0)
    letters = LetterFolder(tmp_path)
    letters.close()
    letters.sync()
    letters.close()
    with pytest.raises(ValueError, match="closed"):
        letters(letter(1))
