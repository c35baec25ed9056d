"""Values: what is one, how it is kept, how it is read again."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.lake import Lake
from sidestage.errors import DataError, OutputError
from sidestage.run.messages import InputFiles
from sidestage.run.values import ALGORITHM, MOST_BYTES, from_input, to_stored

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


class Row(msgspec.Struct):
    name: str
    seen: datetime


@dataclass
class Point:
    x: int
    y: int


def read(value, annotation=object):
    return from_input(InputFiles("it", (), (("all", to_stored(value).value),)), annotation)


@steady
@given(PLAIN)
def test_plain_values_come_back_as_they_were(value):
    assert read(value) == value


@steady
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), NUMBERS))
def test_the_order_of_keys_does_not_matter(value):
    turned = dict(reversed(value.items()))
    assert to_stored(value).digest.proves_equal(to_stored(turned).digest)


@steady
@given(PLAIN, PLAIN)
def test_digests_are_equal_where_the_text_is(one, other):
    first, second = to_stored(one), to_stored(other)
    assert first.digest.proves_equal(second.digest) == (first.value == second.value)


def test_what_is_kept_says_what_it_is(tmp_path):
    stored = to_stored({"b": 1, "a": "ü"})
    text = '{"a":"ü","b":1}'
    assert (stored.path, stored.value, stored.bytes) == ("", text, len(text.encode()))
    assert (stored.digest.algorithm, stored.digest.rows, stored.digest.columns) == (ALGORITHM, 1, ())
    assert stored.digest.content == stored.checksum == xxhash.xxh3_128_hexdigest(text.encode())
    lake = Lake(tmp_path)
    lake.verify(stored)
    with pytest.raises(DataError, match="has the checksum"):
        lake.verify(msgspec.structs.replace(stored, value=text.replace("1", "2")))
    with pytest.raises(DataError):
        lake.path(stored)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (date(2026, 1, 1), date),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime),
        (Decimal("1.10"), Decimal),
        (b"bytes", bytes),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (Row("a", datetime(2026, 1, 1, tzinfo=UTC)), Row),
        (Point(1, 2), Point),
        ([Point(1, 2)], list[Point]),
        (2**70, int),
        (None, int | None),
    ],
)
def test_what_is_annotated_comes_back_in_its_type(value, annotation):
    assert read(value, annotation) == value


def endless():
    made: list[object] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        {(1, 2): 3},
        (n for n in range(3)),
        len,
        endless(),
        math.nan,
        [1.0, {"deep": (math.inf,)}],
        Row("\udce9", datetime(2026, 1, 1, tzinfo=UTC)),
        {"none": None, "nan": [math.nan]},
    ],
)
def test_what_is_no_value_is_refused(value):
    with pytest.raises(OutputError, match="which is no value") as caught:
        to_stored(value)
    assert caught.value.hint


def test_values_may_be_as_large_as_they_may_be_and_no_larger():
    assert to_stored("x" * (MOST_BYTES - 2)).bytes == MOST_BYTES
    with pytest.raises(OutputError, match=r"The value is 65,537 bytes of JSON; a value may have 65,536\."):
        to_stored("x" * (MOST_BYTES - 1))


def test_several_partitions_come_as_a_mapping_in_their_order():
    received = InputFiles("it", (), (('quo"te', "1"), ("b", "2"), ("a", "[3]")), single=False)
    found = from_input(received, dict[str, object])
    assert found == {'quo"te': 1, "b": 2, "a": [3]}
    assert list(found) == ['quo"te', "b", "a"]
    assert from_input(InputFiles("it", (), (), single=False), dict[str, int]) == {}


def test_a_single_partition_that_is_not_there_is_none():
    assert from_input(InputFiles("it", ()), int | None) is None


def test_what_does_not_fit_its_annotation_names_the_parameter():
    with pytest.raises(DataError, match="The value of 'it' does not fit its annotation: Expected `int`"):
        read("text", int)
    with pytest.raises(DataError, match="The value of 'it' does not fit its annotation"):
        read("text", lambda: None)
