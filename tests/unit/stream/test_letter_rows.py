"""Letters as rows have the same columns whatever their items are."""

import json
from pathlib import Path

import pyarrow as pa
from tests.unit.stream.letters import letter

from sidestage.stream.letters.file import LetterFile
from sidestage.stream.letters.reading import LetterChoice
from sidestage.stream.letters.rows import LetterRow, letter_rows, letter_table


def test_rows_say_all_that_is_known(tmp_path: Path) -> None:
    with LetterFile(tmp_path / "letters") as file:
        file(letter({"user": 1}, place=4))
        file(letter({1, 2}, place=None))
        file(letter({"user": 1}, place=4))
    first, second = letter_rows(tmp_path / "letters")
    assert json.loads(first["item"] or "") == {"user": 1}
    assert (first["part"], first["first"], first["index"], first["key"]) == ("topic/3", "100", 4, '"anna"')
    assert (first["stage"], first["error"], first["message"]) == ("decode", "ValueError", "no")
    assert (second["item"], second["shown"], second["is_replayable"]) == (None, "{1, 2}", True)
    assert (second["trace"], second["part"], second["first"], second["index"]) == (None,) * 4
    assert len(list(letter_rows(tmp_path / "letters", repeated=True))) == 3


def test_a_table_has_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    LetterFile(path).close()
    empty = letter_table(path)
    with LetterFile(path) as file:
        for place in range(5000):
            file(letter(place, place=place))
    full = letter_table(path)
    assert full.schema == empty.schema
    assert full.column_names == list(LetterRow.__annotations__)
    assert (empty.num_rows, full.num_rows) == (0, 5000)
    assert full.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert full["item"].to_pylist() == [str(place) for place in range(5000)]
    assert letter_table(path, LetterChoice(stage="none")).num_rows == 0
