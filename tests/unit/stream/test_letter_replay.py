"""Letters are replayed once, or become letters again; a crash repeats some and loses none."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.letters import letter
from tests.unit.stream.places import Kept

from sidestage.errors import StreamFailed
from sidestage.stream.failing import Raise
from sidestage.stream.letters.file import LetterFile
from sidestage.stream.letters.folder import LetterFolder
from sidestage.stream.letters.marks import marks_beside
from sidestage.stream.letters.reading import LetterChoice, LetterReading
from sidestage.stream.letters.replay import LetterReplay
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream


def keep(path: Path, items: list[Any]) -> None:
    with LetterFolder(path) if path.is_dir() else LetterFile(path) as letters:
        for place, item in enumerate(items):
            letters(letter(item, place=place))


def odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(number)
    return number


def replayed(path: Path, function: Any = str, choice: LetterChoice | None = None, **terms: Any) -> list[Any]:
    sink = Kept()
    with LetterReplay(path, choice, **terms) as replay:
        Stream(replay).map(function).to(sink).run(fail="soft", dead_letters=replay)
    return sink.items


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_replayed_is_not_replayed_again(tmp_path: Path, *, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / "letters"
    keep(path, [1, 3, 5])
    assert replayed(path, odd) == [1, 3, 5]
    assert replayed(path, odd) == []
    assert replayed(path, odd, again=True) == [1, 3, 5]
    keep(path, [1, 3, 5, 7])  # the stream went on from an earlier commit
    assert replayed(path, odd) == [7]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_fails_again_is_a_letter_again_with_its_old_origin(tmp_path: Path, *, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / "letters"
    keep(path, [1, 2, 3])
    with LetterReplay(path) as replay:
        sink = Kept()
        Stream(replay).map(odd, name="decode").to(sink).run(fail="soft", dead_letters=replay)
        assert (sink.items, replay.replayed, replay.failed) == ([1, 3], 3, 1)
    left = [each for each in LetterReading(path) if not each.is_replayed]
    assert [(each.letter.value(), each.letter.replays) for each in left] == [(2, 1)]
    origin = left[0].letter.origin
    assert origin is not None
    assert (origin.part, origin.index, left[0].letter.trace) == ("topic/3", 1, f"{1:032x}")
    assert replayed(path, odd) == []
    assert [each.letter.replays for each in LetterReading(path) if not each.is_replayed] == [2]
    assert replayed(path) == ["2"]
    assert [each for each in LetterReading(path) if not each.is_replayed] == []


def test_only_the_chosen_are_replayed_and_no_more_than_so_many(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path) as file:
        for place in range(6):
            file(letter(place, place=place, stage="one" if place < 4 else "other"))
    assert replayed(path, choice=LetterChoice(stage="one"), limit=3) == ["0", "1", "2"]
    assert replayed(path, choice=LetterChoice(stage="one"), limit=3) == ["3"]
    assert replayed(path) == ["4", "5"]


def test_a_stream_that_ends_early_has_replayed_what_was_dealt_with(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    keep(path, [1, 3, 2, 5])
    with LetterReplay(path) as replay:
        flow = Stream(replay).map(odd, on_error=Raise()).to(Kept())
        with pytest.raises(StreamFailed):
            flow.run(dead_letters=replay, settings=Settings(chunk=1))
    assert [each.letter.value() for each in LetterReading(path) if not each.is_replayed] == [2, 5]


class Gone:
    """An item of a class that is there no more when it is read."""


def test_items_that_cannot_be_had_stay_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "letters"
    keep(path, [1, Gone(), lambda: 1, 3])
    monkeypatch.delattr(f"{__name__}.Gone")
    sink = Kept()
    with LetterReplay(path) as replay:
        Stream(replay).to(sink).run(fail="soft", dead_letters=replay)
        assert len(replay.lost) == 2
    assert sink.items == [1, 3]
    left = [each.letter for each in LetterReading(path) if not each.is_replayed]
    assert ["Gone" in each.shown or "lambda" in each.shown for each in left] == [True, True]


def test_what_came_of_several_letters_together_is_a_letter_without_origin(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    keep(path, [1, 2, 3])

    def refuse(_items: list[int]) -> None:
        raise ValueError("not today")

    with LetterReplay(path) as replay:
        settings = Settings(chunk=1)
        flow = Stream(replay).batch(3).map(refuse).to(Kept())
        flow.run(fail="soft", dead_letters=replay, settings=settings)
    left = [each.letter for each in LetterReading(path) if not each.is_replayed]
    assert [(each.value(), each.origin, each.replays) for each in left] == [([1, 2, 3], None, 1)]


def test_a_damaged_mark_is_none(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    keep(path, [1, 3])
    assert replayed(path) == ["1", "3"]
    marks = marks_beside(path)
    first, second = marks.read_bytes().splitlines()
    marks.write_bytes(b"junk\n" + second + b"\n" + first[:20])
    assert replayed(path) == ["1"]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(1, 5),
)
def test_nothing_is_lost_wherever_replays_break_off(
    tmp_path_factory: pytest.TempPathFactory, items: list[int], breaks: list[int], chunk: int
) -> None:
    path, sink = tmp_path_factory.mktemp("letters") / "letters", Kept()
    keep(path, items)
    terms = Settings(chunk=chunk)
    for at in breaks:
        count = 0

        def breaking(number: int, at: int = at) -> int:
            nonlocal count
            count += 1
            if count > at:
                raise ValueError(number)
            return number

        with LetterReplay(path) as replay:
            try:
                flow = Stream(replay).map(breaking, on_error=Raise()).to(sink)
                flow.run(dead_letters=replay, settings=terms)
            except StreamFailed:
                assert count > at
    with LetterReplay(path) as replay:
        Stream(replay).to(sink).run(dead_letters=replay, settings=terms)
    assert all(sink.items.count(number) >= items.count(number) for number in items)
    assert set(sink.items) <= set(items)
    assert all(each.is_replayed for each in LetterReading(path))
