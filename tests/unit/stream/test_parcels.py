"""Values arrive at the other end of a wire as they were, large or small, and stay so while anybody has them."""

import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.stream.workers.parcels import parcel
from sidestage.stream.workers.segments import MOST_BYTES
from sidestage.stream.workers.wire import Wire

MEMORY = pytest.mark.parametrize("memory", [True, False], ids=["memory", "pipe"])
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="segments are files in memory of Linux")


class Ends(NamedTuple):
    """Both ends of a wire, in one process."""

    ours: Wire
    theirs: Wire

    def carry(self, value: Any, *, back: bool = False) -> Any:
        """Return what arrives of a value."""
        here, there = (self.theirs, self.ours) if back else (self.ours, self.theirs)
        sender = threading.Thread(target=here.send, args=(parcel(value),))
        sender.start()
        came = there.receive()
        sender.join()
        return came


@contextmanager
def wired(*, memory: bool = True) -> Iterator[Ends]:
    one, other = Pipe()
    ends = Ends(Wire(one, shares_memory=memory), Wire(other, shares_memory=memory))
    try:
        yield ends
    finally:
        ends.ours.close()
        ends.theirs.close()


def segments() -> int:
    """Return how many mappings of segments this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:sidestage-stream")


@MEMORY
@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, "two", b"three"],
        b"",
        b"x" * 3_000_000,
        bytearray(),
        bytearray(b"y" * 2_000_000),
        [bytearray(b"y" * 100_000), bytearray(), "z" * 100_000],
    ],
)
def test_values_arrive(value: Any, memory: bool) -> None:
    with wired(memory=memory) as ends:
        for _ in range(3):
            assert ends.carry(value) == value
            assert ends.carry("done", back=True) == "done"


@MEMORY
def test_arrays_arrive_and_can_be_changed(memory: bool) -> None:
    arrays = [np.arange(400_000.0), np.ones((300, 300))[:, ::2], np.empty(0), np.arange(3)]
    with wired(memory=memory) as ends:
        came = ends.carry(arrays)
    assert all(np.array_equal(one, other) for one, other in zip(came, arrays, strict=True))
    for each in (came[0], came[3]):
        each[0] = 7.0
    assert (arrays[0][0], arrays[3][0]) == (0.0, 0)


WHOLE = pa.table(
    {
        "number": np.arange(50_000),
        "text": [f"name {number % 900}" if number % 7 else None for number in range(50_000)],
        "kind": pa.array(["a", "b"] * 25_000).dictionary_encode(),
        "several": [[number, None] for number in range(50_000)],
    }
).replace_schema_metadata({"made by": "test"})


@MEMORY
@pytest.mark.parametrize(
    "table",
    [
        WHOLE,
        WHOLE.slice(3, 40_000),
        WHOLE.slice(49_990),
        WHOLE.slice(0, 0),
        pa.concat_tables([WHOLE.slice(7, 10), WHOLE.slice(20_000, 20_000)]),
        WHOLE.select([]),
        pa.table({}),
    ],
)
def test_tables_arrive_as_they_were(table: pa.Table, memory: bool) -> None:
    with wired(memory=memory) as ends:
        came, (first, again) = ends.carry(table), ends.carry([table, table])
    for each in (came, first, again):
        each.validate(full=True)
        assert each.equals(table, check_metadata=True)
        assert each.num_rows == table.num_rows


def test_record_batches_arrive_as_they_were() -> None:
    (batch,) = WHOLE.slice(5, 1000).to_batches()
    with wired() as ends:
        for each in (batch, batch.slice(0, 0)):
            came = ends.carry(each)
            assert type(came) is pa.RecordBatch
            assert came.equals(each, check_metadata=True)


def test_only_the_rows_of_a_table_are_sent() -> None:
    for few in (WHOLE.slice(10, 5), pl.DataFrame(WHOLE).slice(10, 5)):
        sent = parcel([few])
        assert not sent.buffers
        assert len(sent.body) < 5000


def frames() -> Iterator[pl.DataFrame]:
    when = datetime(2026, 11, 22, tzinfo=UTC)
    plain = {"number": range(40_000), "text": ["some text, and more of it"] * 40_000}
    yield pl.DataFrame(plain)
    yield pl.DataFrame(plain).slice(100, 30_000)
    yield pl.DataFrame(plain).clear()
    yield pl.DataFrame()
    yield pl.DataFrame(
        {
            "enum": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])),
            "category": pl.Series(["x", None], dtype=pl.Categorical),
            "span": [timedelta(1), None],
            "time": pl.Series([when, when]).dt.convert_time_zone("Europe/Berlin"),
            "bytes": [b"x", b""],
            "pair": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "price": pl.Series(["1.2", "3"]).cast(pl.Decimal(10, 2)),
            "nothing": [None, None],
            "struct": [{"a": "x"}, {"a": None}],
        }
    )
    yield pl.DataFrame({"huge": pl.Series([1, 2**100], dtype=pl.Int128)})


@pytest.mark.parametrize("frame", list(frames()))
def test_frames_arrive_with_their_types(frame: pl.DataFrame) -> None:
    with wired() as ends:
        came = ends.carry(frame)
    assert came.schema == frame.schema
    assert came.equals(frame)


def test_what_cannot_be_sent_says_so() -> None:
    held = pl.DataFrame({"it": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises(pl.exceptions.ComputeError):
        parcel(held)


def test_small_buffers_go_along_with_the_pickle() -> None:
    sent = parcel([np.arange(10) for _ in range(100)])
    assert not sent.buffers


Maker = Callable[[int, int], Any]


def array(size: int, value: int) -> Any:
    return np.full(size, value % 251, np.uint8)


def table(size: int, value: int) -> Any:
    return pa.table({"it": np.full(size // 8 + 1, value)})


def frame(size: int, value: int) -> Any:
    return pl.DataFrame(table(size, value))


def view(size: int, value: int) -> Any:
    return array(size, value)[size // 2 :]


def same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one.equals(other)


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(5, 40))
def test_nothing_is_written_over_that_somebody_still_has(chance: random.Random, turns: int) -> None:
    """Whatever is kept, of whatever came, however long."""
    kept: list[tuple[Any, Any]] = []
    with wired() as ends:
        for turn in range(turns):
            made = chance.choice([array, table, frame, view])(
                chance.choice([300_000, 900_000, 2_000_000]), turn
            )
            came = ends.carry(made, back=chance.random() < 0.5)
            if chance.random() < 0.4:
                part = came[len(came) // 3 : len(came) // 2]
                kept.append((part, made[len(made) // 3 : len(made) // 2]))
            if chance.random() < 0.3:
                kept.append((came, made))
            del came
            if kept and chance.random() < 0.3:
                kept.pop(chance.randrange(len(kept)))
            assert all(same(one, other) for one, other in kept)
    assert all(same(one, other) for one, other in kept)


@ON_LINUX
def test_segments_are_used_again_and_none_is_left() -> None:
    before = segments()
    with wired() as ends:
        for turn in range(20):
            came = ends.carry(array(2_000_000, turn))
            del came
            ends.carry(turn, back=True)
            assert segments() - before == 2  # one, as both ends have it
        larger = ends.carry(array(9_000_000, 1))
        del larger
        ends.carry(1, back=True)
        assert segments() - before == 2
    del ends
    gc.collect()
    assert segments() == before


@ON_LINUX
def test_what_finds_no_room_in_segments_takes_the_pipe() -> None:
    before = segments()
    with wired() as ends:
        kept = [ends.carry(array(1_000_000, turn)) for turn in range(30)]
        assert segments() - before == 2 * 8
        assert [each[0] for each in kept] == list(range(30))
        largest = ends.carry([array(MOST_BYTES + 1, 7), array(300_000, 8)])
        assert [each[-1] for each in largest] == [7, 8]
        assert segments() - before == 2 * 8
        del kept
        ends.carry("all are back", back=True)
        several = ends.carry([array(MOST_BYTES // 2, 1), array(MOST_BYTES // 2 + 1, 2), array(70_000, 3)])
        assert [(each[0], each[-1], each.min() == each.max()) for each in several] == [
            (1, 1, True),
            (2, 2, True),
            (3, 3, True),
        ]
    del several, largest, ends
    gc.collect()
    assert segments() == before


@ON_LINUX
def test_without_memory_to_share_all_takes_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise PermissionError(name)

    before = segments()
    monkeypatch.setattr("os.memfd_create", refuse)
    with wired() as ends:
        for turn in range(3):
            assert same(ends.carry(array(1_000_000, turn)), array(1_000_000, turn))
        assert segments() == before


def test_whoever_ends_within_a_buffer_is_heard_of() -> None:
    ours, theirs = Pipe()
    sending = Wire(ours, shares_memory=False)
    sent = parcel(np.ones(5_000_000, np.uint8))

    def send_to_nobody() -> None:
        with pytest.raises(OSError, match=r"."):
            sending.send(sent)

    sender = threading.Thread(target=send_to_nobody)
    sender.start()
    head = theirs.recv_bytes()
    theirs.close()
    sender.join()
    sending.close()
    ours, theirs = Pipe()
    ours.send_bytes(head)
    ours.close()
    receiving = Wire(theirs)
    with pytest.raises(EOFError):
        receiving.receive()
    receiving.close()
