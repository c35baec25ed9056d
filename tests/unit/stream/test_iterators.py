"""Iterators as sources: what they raise when they are closed, and what they cannot go on from."""

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stream.places import Kept

from sidestage.errors import DataError
from sidestage.stream import Checkpoint, Stream
from sidestage.stream.settings import Settings


def careless(seen: threading.Event) -> Iterator[int]:
    try:
        for number in itertools.count():
            if number == 10:
                seen.set()
            yield number
    finally:
        raise OSError("the cursor cannot be closed")


def test_closing_that_fails_is_no_thread_that_dies_of_it_when_the_stream_is_cancelled() -> None:
    seen = threading.Event()
    engine = Stream(careless(seen)).to(Kept()).engine()
    engine.start()
    assert seen.wait(60)
    engine.cancel()
    assert not engine.join().complete


def test_what_was_read_is_committed_although_closing_fails(tmp_path: Path) -> None:
    seen, sink, path = threading.Event(), Kept(), tmp_path / "checkpoint"
    flow = Stream(careless(seen), name="numbers").to(sink)
    engine = flow.engine(checkpoint=Checkpoint(path), settings=Settings(commit_every=1000))
    engine.start()
    assert seen.wait(60)
    engine.drain()
    with pytest.raises(OSError, match="cursor"):
        engine.join()
    assert Checkpoint(path).positions("numbers") == {"all": len(sink.items)}


async def counted(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


SOURCES: dict[str, Callable[[int], Any]] = {
    "sequence": range,
    "iterator": lambda upto: iter(range(upto)),
    "asynchronous": counted,
}


@pytest.mark.parametrize("name", SOURCES)
def test_fewer_items_than_were_dealt_with_are_not_the_same_items(name: str, tmp_path: Path) -> None:
    source, path = SOURCES[name], tmp_path / "checkpoint"
    Stream(source(10), name="numbers").to(Kept()).run(checkpoint=Checkpoint(path))
    sink = Kept()
    Stream(source(10), name="numbers").to(sink).run(checkpoint=Checkpoint(path))
    with pytest.raises(DataError, match=r"numbers has 4 items, and 10 of them were dealt with") as raised:
        Stream(source(4), name="numbers").to(sink).run(checkpoint=Checkpoint(path))
    assert "of another stream" in str(raised.value.hint)
    assert sink.items == []
