"""Letters are found, counted once, and told from what is none, whatever lies in the file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.letters import letter

from sidestage.errors import DataError
from sidestage.stream.letters.file import LetterFile, read_letters
from sidestage.stream.letters.reading import LetterChoice, LetterReading
from sidestage.testing.turned_clock import HandClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def items_of(reading: LetterReading) -> list[object]:
    return [each.letter.value() for each in reading]


def test_repetitions_count_once(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path) as file:
        for _ in range(3):
            file(letter("a", place=1))
            file(letter({1, 2}, place=2))  # pickled
            file(letter("a", place=3))
            file(letter("a", place=1, stage="enrich"))
            file(letter("b", place=1))  # made of the same item as "a"
            file(letter("a", place=1, trace=None))  # known by its origin only
    reading = LetterReading(path)
    assert items_of(reading) == ["a", {1, 2}, "a", "a", "b", "a"]
    assert reading.repetitions == 12
    every = LetterReading(path, repeated=True)
    assert len(items_of(every)) == 18
    assert len({each.id for each in every}) == 6


def test_letters_without_a_place_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path, HandClock(NOON)) as file:
        for _ in range(3):
            file(letter("a", place=None))
    reading = LetterReading(path)
    assert items_of(reading) == ["a"] * 3
    assert len({each.id for each in reading}) == 3
    assert [each.id for each in reading] == [each.id for each in LetterReading(path)]


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (LetterChoice(), [0, 1, 2, 3]),
        (LetterChoice(stage="enrich"), [1]),
        (LetterChoice(failure_class="transient"), [2]),
        (LetterChoice(error="NAUGHT"), [3]),
        (LetterChoice(error="keyerror"), [3]),
        (LetterChoice(since=NOON + timedelta(hours=1)), [1, 2, 3]),
        (LetterChoice(until=NOON + timedelta(hours=1)), [0]),
        (LetterChoice(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3)), [1, 2]),
        (LetterChoice(stage="enrich", failure_class="transient"), []),
    ],
)
def test_letters_are_chosen(tmp_path: Path, choice: LetterChoice, found: list[int]) -> None:
    clock = HandClock(NOON)
    with LetterFile(tmp_path / "letters", clock) as file:
        for number, one in enumerate(
            [
                letter(0, place=0),
                letter(1, place=1, stage="enrich"),
                letter(2, place=2, failure="transient"),
                letter(3, place=3, error=KeyError("came to naught")),
            ]
        ):
            file(one)
            clock.advance(3600)
            assert number < 4
    assert items_of(LetterReading(tmp_path / "letters", choice)) == found


JUNK = [
    b"",
    b"{}",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"at":"2026-01-01T00:00:00"}',
    b"null",
]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(range(-1, len(JUNK))), max_size=8), st.binary(max_size=20))
def test_what_is_no_letter_is_counted(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[int], end: bytes
) -> None:
    path = tmp_path_factory.mktemp("letters") / "letters"
    lines = []
    for place, kind in enumerate(kinds):
        if kind < 0:
            with LetterFile(path) as file:
                file(letter(place, place=place))
            lines.append(path.read_bytes().removesuffix(b"\n"))
            path.unlink()
        else:
            lines.append(JUNK[kind])
    end = end.replace(b"\n", b" ")
    path.write_bytes(b"".join(line + b"\n" for line in lines) + end)
    reading = LetterReading(path)
    assert items_of(reading) == [place for place, kind in enumerate(kinds) if kind < 0]
    assert (reading.damaged, reading.cut_off) == (sum(kind >= 0 for kind in kinds), bool(end))


def test_a_moment_without_its_zone_is_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path, HandClock(NOON)) as file:
        file(letter(1))
    path.write_bytes(path.read_bytes().replace(b"12:00:00Z", b"12:00:00"))
    reading = LetterReading(path, LetterChoice(since=NOON))
    assert items_of(reading) == []
    assert reading.damaged == 1


def test_where_nothing_is_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no letters at"):
        LetterReading(tmp_path / "none")
    assert items_of(LetterReading(tmp_path)) == []


def test_files_of_a_folder_are_read_in_order_and_one_may_go_meanwhile(tmp_path: Path) -> None:
    for day in ("2026-01-02", "2026-01-01", "2026-01-03"):
        with LetterFile(tmp_path / f"{day}.jsonl") as file:
            file(letter(day, place=int(day[-2:])))
    reading = LetterReading(tmp_path)
    assert items_of(reading) == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert [each.value() for each in read_letters(tmp_path)] == items_of(reading)
    (tmp_path / "2026-01-02.jsonl").unlink()
    assert items_of(reading) == ["2026-01-01", "2026-01-03"]


def test_what_comes_later_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path) as file:
        file(letter(1, place=1))
        file.sync()
        reading = LetterReading(path)
        file(letter(2, place=2))
        file.sync()
        assert items_of(reading) == [1]
        assert not reading.cut_off
