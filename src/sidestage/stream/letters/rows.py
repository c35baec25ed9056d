"""Dead letters as rows, to be kept as a dataset and asked about in SQL."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from sidestage.stream.letters.reading import KnownLetter, LetterChoice, LetterReading

if TYPE_CHECKING:
    import pyarrow as pa


class LetterRow(TypedDict):
    """A dead letter as a row: the same columns whatever the items are.

    ``first``, ``key`` and ``item`` are JSON; ``item`` is None if JSON cannot express it, ``shown`` is what it
    looks like. ``part``, ``first`` and ``index`` say where the item was read.
    """

    id: str
    at: datetime
    stage: str
    failure_class: str
    error: str
    message: str
    attempt: int
    replays: int
    is_replayed: bool
    is_replayable: bool
    trace: str | None
    part: str | None
    first: str | None
    index: int | None
    key: str | None
    item: str | None
    shown: str


def letter_rows(
    path: Path | str, choice: LetterChoice | None = None, *, repeated: bool = False
) -> Iterator[LetterRow]:
    """Yield the letters of a file or folder as rows, oldest first, each once unless ``repeated``.

    Lines that are no letters are passed over: a ``LetterReading`` counts them. Raises DataError if nothing is
    there, OSError.
    """
    return map(row_of, LetterReading(path, choice, repeated=repeated))


def letter_table(
    path: Path | str, choice: LetterChoice | None = None, *, repeated: bool = False
) -> "pa.Table":
    """Return the letters of a file or folder as a pyarrow Table, with the columns of ``LetterRow``.

    Moments are in UTC, in microseconds. Of a partition's day: ``LetterChoice(since=partition.start,
    until=partition.end)``. Raises as ``letter_rows`` does.
    """
    import pyarrow as pa  # noqa: PLC0415 - takes a while, and most streams do without

    text, number, flag = pa.string(), pa.int64(), pa.bool_()
    kinds: dict[str, Any] = dict.fromkeys(LetterRow.__annotations__, text)
    kinds |= {"at": pa.timestamp("us", tz="UTC"), "attempt": number, "replays": number, "index": number}
    kinds |= {"is_replayed": flag, "is_replayable": flag}
    nullable = {"trace", "part", "first", "index", "key", "item"}
    schema = pa.schema([pa.field(name, kind, name in nullable) for name, kind in kinds.items()])
    rows = letter_rows(path, choice, repeated=repeated)
    return pa.Table.from_batches(
        [pa.RecordBatch.from_pylist(some, schema) for some in iter(lambda: list(islice(rows, 4096)), [])],
        schema,
    )


def row_of(known: KnownLetter) -> LetterRow:
    """Return a letter as a row."""
    letter, origin = known.letter, known.letter.origin
    is_plain = letter.is_replayable and letter.pickled is None
    return LetterRow(
        id=known.id,
        at=letter.at.astimezone(UTC),
        stage=letter.stage,
        failure_class=letter.failure_class,
        error=letter.error,
        message=letter.message,
        attempt=letter.attempt,
        replays=letter.replays,
        is_replayed=known.is_replayed,
        is_replayable=letter.is_replayable,
        trace=letter.trace,
        part=None if origin is None else origin.part,
        first=None if origin is None else _json(origin.first),
        index=None if origin is None else origin.index,
        key=None if letter.key is None else _json(letter.key),
        item=_json(letter.item) if is_plain else None,
        shown=letter.shown,
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
