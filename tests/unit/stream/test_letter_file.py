"""Dead letters in a file: nothing is lost that was synced, whatever was cut off, and all of it can be replayed."""

import math
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DataError
from sidestage.stream.chunk import Origin
from sidestage.stream.failing import DeadLetter
from sidestage.stream.letters.file import LetterFile, read_letters, replay
from sidestage.stream.stream import Stream


class Click(msgspec.Struct):
    user: int
    when: tuple[int, ...]


def letter(item: Any) -> DeadLetter:
    return DeadLetter("decode", item, ValueError("no"), "bug", 1, Origin("topic/3", 100, 7), 0.0)


plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@settings(deadline=None)  # files are synced
@given(st.lists(plain, max_size=5))
def test_items_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, items: list[Any]) -> None:
    path = tmp_path_factory.mktemp("letters") / "letters"
    with LetterFile(path) as file:
        for item in items:
            file(letter(item))
    back = list(replay(path))
    assert repr(back) == repr(items)


def test_a_letter_keeps_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    with LetterFile(path) as file:
        file(letter(Click(1, (2, 3))))
        file(letter(threading.Lock()))
        file(letter(math.inf))
    first, second, third = read_letters(path)
    assert (first.stage, first.failure_class, first.error, first.message) == (
        "decode",
        "bug",
        "ValueError",
        "no",
    )
    assert (first.attempt, first.origin) == (1, Origin("topic/3", 100, 7))
    assert first.value() == Click(1, (2, 3))
    assert "lock" in second.shown
    with pytest.raises(DataError, match="neither as JSON nor by pickle"):
        second.value()
    assert third.value() == math.inf


@pytest.mark.parametrize("left", [1, 30, 70_000])
def test_a_line_that_was_cut_off_is_passed_over_and_mended(tmp_path: Path, left: int) -> None:
    path = tmp_path / "letters"
    with LetterFile(path) as file:
        file(letter(1))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * left)
    assert [each.value() for each in read_letters(path)] == [1]
    with LetterFile(path) as file:
        file(letter(2))
    assert [each.value() for each in read_letters(path)] == [1, 2]
    path.write_bytes(b"x" * left)
    LetterFile(path).close()
    assert path.read_bytes() == b""


def test_a_line_that_is_no_letter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    path.write_bytes(b"{}\n")
    with pytest.raises(DataError, match="line 1"):
        list(read_letters(path))


def test_letters_are_synced_before_their_source_hears_of_it(tmp_path: Path) -> None:
    class Asking(Parts):
        def committing(self) -> None:
            synced = [each.value() for each in read_letters(tmp_path / "letters")]
            assert synced == [n for n in range(int(self.committed["a"])) if n % 3 == 0]

    def no_threes(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    source, sink = Asking({"a": range(100)}, sizes=[10]), Kept()
    with LetterFile(tmp_path / "letters") as file:
        Stream(source).map(no_threes).to(sink).run(fail="soft", dead_letters=file)
    again = Kept()
    Stream(replay(tmp_path / "letters", lambda each: each.failure_class == "bug")).to(again).run()
    assert sorted(sink.items + again.items) == list(range(100))
