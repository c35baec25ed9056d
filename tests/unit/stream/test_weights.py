"""How many bytes items take: exactly where that is cheap, by a few of them elsewhere."""

import gc
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestage.stream.memory.weights import decoded_pixels, weigh, weight

SLOT = 16


class Event(msgspec.Struct):
    user: str
    amount: float


@dataclass
class Record:
    user: str
    amount: float


class Slotted:
    __slots__ = ("amount", "never", "user")

    def __init__(self, user: str, amount: float) -> None:
        self.user = user
        self.amount = amount


@given(st.lists(st.one_of(st.binary(max_size=2000), st.text(max_size=500), st.binary().map(bytearray))))
def test_texts_and_bytes_are_weighed_to_the_byte(items: list[Any]) -> None:
    assert weigh(items) == sum(map(sys.getsizeof, items)) + SLOT * len(items)


@given(st.lists(st.lists(st.binary(max_size=300), max_size=20), max_size=30))
def test_lists_of_bytes_are_weighed_to_the_byte_however_uneven(items: list[list[bytes]]) -> None:
    exact = sum(sys.getsizeof(each) + sum(map(sys.getsizeof, each)) for each in items)
    assert weigh(items) == exact + SLOT * len(items)


def test_one_large_item_among_small_ones_is_seen() -> None:
    items = [b"x"] * 5000
    items[4321] = bytes(10_000_000)
    assert weigh(items) > 10_000_000
    assert weigh([np.zeros(1)] * 999 + [np.zeros(10**6)]) > 8_000_000


def test_arrays_weigh_what_they_hold() -> None:
    assert 8_000_000 <= weight(np.zeros(10**6)) < 8_001_000
    assert 8_000_000 <= weight(pa.table({"n": np.zeros(10**6)})) < 8_001_000
    assert 1000 <= weight(memoryview(bytes(1000))) < 1300
    polars = pytest.importorskip("polars")
    assert 8_000_000 <= weight(polars.DataFrame({"n": np.zeros(10**6)})) < 8_001_000


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"user": f"user {n}", "amount": n * 1.5, "tags": [f"tag {n}", f"more {n}"]},
        lambda n: Event(f"user {n}", n * 1.5),
        lambda n: Record(f"user {n}", n * 1.5),
        lambda n: Slotted(f"user {n}", n * 1.5),
        lambda n: (f"user {n}", n * 1.5, (n + 1000, n + 2000)),
        lambda n: deque([f"user {n}"] * 3 + [f"other {n}"]),
        lambda n: {n + 10**6, n + 10**7},
        lambda n: n + 10**6,
        float,
        lambda n: [float(n + k) for k in range(200)],
    ],
)
def test_estimates_are_near_what_python_takes(make: Callable[[int], Any]) -> None:
    for _ in range(5):
        items, used = made(make)
        if weigh(items) / used > 0.7:
            break  # what another thread of this process took meanwhile would have counted, too
    assert 0.7 < weigh(items) / used < 1.5


def made(make: Callable[[int], Any]) -> tuple[list[Any], int]:
    """Return some items, and the bytes that were taken while they were made."""
    make(0)
    gc.collect()
    tracemalloc.start()
    try:
        items = [make(number) for number in range(5000)]
        return items, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_only_a_few_of_many_are_looked_into() -> None:
    asked = []

    class Asked:
        def __sizeof__(self) -> int:
            asked.append(1)
            return 1000

    assert 1000 * 10_000 < weigh([Asked() for _ in range(10_000)]) < 1500 * 10_000
    assert len(asked) <= 8
    nested = [[[[Asked() for _ in range(30)] for _ in range(30)] for _ in range(30)] for _ in range(30)]
    asked.clear()
    weigh(nested)
    assert len(asked) <= 8 * 4**3


def test_what_looks_alike_at_even_steps_is_not_taken_for_all() -> None:
    items = [list(range(1000, 1100)) if number % 128 == 0 else None for number in range(1024)]
    assert weigh(items) < 1024 * 2000


class Hostile:
    def __sizeof__(self) -> int:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_items_whose_own_code_raises_weigh_something() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert weight(Hostile()) > 0
    assert weigh([Hostile(), b"x", loop]) > 0
    assert weigh([b"x"] * 8 + [Hostile()]) > 0  # type: ignore[list-item]
    assert weigh([]) == 0


def test_an_image_weighs_its_pixels() -> None:
    assert decoded_pixels(4000, 3000) == 36_000_000
    assert decoded_pixels(9, 2, channels=1, bits=1) == 4
    assert decoded_pixels(10, 10, channels=4, bits=16) == 800
