"""The digest: what changes it, and what must not."""

import datetime as dt
import struct
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.data.digest import ALGORITHM, DigestBuilder
from sidestage.data.value_hash import LONG
from sidestage.errors import OutputError

UTC = dt.UTC
SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "small": pa.int16(),
        "real": pa.float64(),
        "text": pa.string(),
        "raw": pa.binary(),
        "flag": pa.bool_(),
        "day": pa.date32(),
        "at": pa.timestamp("us", "UTC"),
        "clock": pa.time64("us"),
        "money": pa.decimal128(20, 4),
        "items": pa.list_(pa.int32()),
        "pair": pa.struct({"a": pa.int8(), "b": pa.string()}),
        "tags": pa.map_(pa.string(), pa.int8()),
    }
)
ROW = st.fixed_dictionaries(
    {
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "small": st.none() | st.integers(-3, 3),
        "real": st.none() | st.floats(),
        "text": st.none() | st.text(max_size=20),
        "raw": st.none() | st.binary(max_size=LONG + 20),
        "flag": st.none() | st.booleans(),
        "day": st.none() | st.dates(),
        "at": st.none() | st.datetimes(timezones=st.just(UTC)),
        "clock": st.none() | st.times(),
        "money": st.none() | st.decimals(-(10**12), 10**12, places=4),
        "items": st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=4),
        "pair": st.none()
        | st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.none() | st.text(max_size=3)}),
        "tags": st.none() | st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=2),
    }
)


def batch_of(rows, schema=SCHEMA):
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def digest(*batches):
    builder = DigestBuilder(batches[0].schema)
    for batch in batches:
        builder.add(batch)
    return builder.finish()


def digest_of(values, kind):
    return digest(pa.record_batch({"x": pa.array(values, kind)}))


def column_hash(values, kind):
    return digest_of(values, kind).columns[0].hash


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=12), st.data())
def test_order_chunks_and_slices_do_not_matter(rows, data):
    whole = digest(batch_of(rows))
    shuffled = batch_of(data.draw(st.permutations(rows)))
    cut = data.draw(st.integers(0, len(rows)))
    assert digest(shuffled.slice(0, cut), shuffled.slice(cut)) == whole
    padded = pa.concat_batches([shuffled, shuffled, shuffled])
    assert digest(padded.slice(len(rows), len(rows))) == whole


def canonical(value):
    """Return a value in a form whose equality is the digest's equality."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value + 0.0)  # noqa: PLR0124
    if isinstance(value, list | tuple):
        return tuple(canonical(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted(value.items()))  # a struct: its fields lie as the schema says
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.data())
def test_any_changed_cell_changes_the_content_and_its_column_only(rows, data):
    row = data.draw(st.integers(0, len(rows) - 1))
    name = data.draw(st.sampled_from(SCHEMA.names))
    replacement = data.draw(ROW)[name]
    changed = [dict(one) for one in rows]
    changed[row][name] = replacement
    before, after = digest(batch_of(rows)), digest(batch_of(changed))
    is_same = canonical(rows[row][name]) == canonical(replacement)
    assert before.proves_equal(after) == is_same
    for old, new in zip(before.columns, after.columns, strict=True):
        assert (old.hash == new.hash) == (is_same or old.name != name)


def test_values_must_stay_in_their_rows():
    one = pa.record_batch({"a": [1, 2], "b": ["x", "y"]})
    other = pa.record_batch({"a": [1, 2], "b": ["y", "x"]})
    assert not digest(one).proves_equal(digest(other))
    assert [c.hash for c in digest(one).columns] == [c.hash for c in digest(other).columns]
    swapped = pa.record_batch({"a": ["x", "y"], "b": [1, 2]})
    assert not digest(one).proves_equal(digest(swapped))


def test_values_must_stay_in_their_columns():
    one, other = (pa.record_batch({"a": [1], "b": [2]}), pa.record_batch({"a": [2], "b": [1]}))
    assert not digest(one).proves_equal(digest(other))


def test_duplicates_count():
    assert not digest_of([1, 1, 2], pa.int64()).proves_equal(digest_of([1, 2, 2], pa.int64()))
    assert not digest_of([1], pa.int64()).proves_equal(digest_of([1, 1], pa.int64()))
    assert not digest_of([], pa.int64()).proves_equal(digest_of([None], pa.int64()))


def test_names_types_and_order_of_columns_belong_to_the_content():
    base = pa.record_batch({"a": pa.array([1]), "b": pa.array([2])})
    renamed = base.rename_columns(["a", "c"])
    assert not digest(base).proves_equal(digest(renamed))
    assert digest(base).columns[1].hash == digest(renamed).columns[1].hash
    assert not digest(base).proves_equal(digest(base.select(["b", "a"])))
    assert not digest_of([1], pa.int64()).proves_equal(digest_of([1], pa.int32()))
    assert not digest_of([0], pa.timestamp("us")).proves_equal(digest_of([0], pa.timestamp("us", "UTC")))


STRINGS = ["", "a", "eight...", "nine.....", None, "ü" * 40, "x" * LONG, "x" * (LONG + 1), "a"]


@pytest.mark.parametrize(
    "layout", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_layouts_of_strings_are_one_type(layout):
    assert digest_of(STRINGS, layout) == digest_of(STRINGS, pa.string())


@pytest.mark.parametrize(
    ("values", "kind", "other"),
    [
        ([b"ab", None], pa.binary(), pa.large_binary()),
        ([b"ab", None], pa.binary(), pa.binary_view()),
        ([dt.date(1969, 12, 31), None], pa.date32(), pa.date64()),
        ([dt.datetime(1, 1, 1, tzinfo=UTC), None], pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")),
        ([dt.datetime(2013, 1, 1, 5, 0, 0, 1500, UTC)], pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")),
        ([dt.time(23, 59, 1), None], pa.time32("s"), pa.time64("ns")),
        ([dt.timedelta(seconds=-1), None], pa.duration("s"), pa.duration("ns")),
        ([Decimal("1.50"), None], pa.decimal128(9, 2), pa.decimal256(9, 2)),
        ([Decimal("1.50"), None], pa.decimal128(9, 2), pa.decimal32(9, 2)),
        ([[1, None], [], None], pa.list_(pa.int8()), pa.large_list(pa.int8())),
        ([[1, None], [], None], pa.list_(pa.int8()), pa.list_view(pa.int8())),
        ([["a"], None], pa.list_(pa.string()), pa.list_(pa.large_string())),
    ],
)
def test_layouts_of_other_types_are_one_type(values, kind, other):
    assert digest_of(values, kind) == digest_of(values, other)


def test_extension_types_are_their_storage():
    raw = pa.array([b"0123456789abcdef", None], pa.binary(16))
    wrapped = pa.ExtensionArray.from_storage(pa.uuid(), raw)
    assert digest(pa.record_batch({"x": raw})) == digest(pa.record_batch({"x": wrapped}))


def test_polars_pandas_duckdb_and_arrow_agree():
    duckdb = pytest.importorskip("duckdb")
    pl = pytest.importorskip("polars")
    pytest.importorskip("pandas")
    table = pa.table(
        {"n": [1, 2], "s": ["a", None], "t": pa.array([0, 1], pa.timestamp("us")), "f": [0.5, -0.0]}
    )
    expected = digest(*table.to_batches())
    assert digest(*pl.from_arrow(table).to_arrow().to_batches()) == expected
    assert (
        digest(*pa.Table.from_pandas(table.to_pandas()).replace_schema_metadata(None).to_batches())
        == expected
    )
    with duckdb.connect() as connection:
        assert digest(*connection.from_arrow(table).to_arrow_table().to_batches()) == expected


def test_all_zeros_and_all_nans_are_equal_but_null_is_not():
    payload = np.array([0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    assert digest_of(payload, pa.float64()) == digest_of([float("nan")] * 2, pa.float64())
    assert digest_of([-0.0], pa.float64()) == digest_of([0.0], pa.float64())
    assert column_hash([float("nan")], pa.float64()) != column_hash([None], pa.float64())
    assert column_hash([0], pa.int64()) != column_hash([None], pa.int64())
    assert column_hash([""], pa.string()) != column_hash([None], pa.string())
    assert column_hash([[]], pa.list_(pa.int8())) != column_hash([None], pa.list_(pa.int8()))
    assert column_hash([[]], pa.list_(pa.int8())) != column_hash([[None]], pa.list_(pa.int8()))


def test_what_lies_under_a_null_does_not_matter():
    values = pa.array([1, 2, 3], mask=np.array([False, True, False]))
    assert digest(pa.record_batch({"x": values})) == digest_of([1, None, 3], pa.int64())


def test_boundaries_between_values_matter():
    assert column_hash(["ab", "c"], pa.string()) != column_hash(["a", "bc"], pa.string())
    assert column_hash(["a\0"], pa.string()) != column_hash(["a"], pa.string())
    assert column_hash([[1], [2]], pa.list_(pa.int8())) != column_hash([[1, 2], []], pa.list_(pa.int8()))
    assert column_hash(["x" * 8 + "y" * 8], pa.string()) != column_hash(["y" * 8 + "x" * 8], pa.string())


def test_short_values_hash_alike_beside_long_ones():
    from sidestage.data.value_hash import hasher

    short = ["", "a", "\0", "1234567", "12345678"]
    hashed = hasher(pa.string())
    alone, beside = hashed(pa.array(short)), hashed(pa.array([*short, "123456789", "x" * 200]))
    assert list(alone) == list(beside)[: len(short)]


def test_nulls_and_lists_are_hashed_without_loading_pandas():
    code = """
import sys, pyarrow as pa
from sidestage.data.value_hash import hasher
values = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(bytes([5])), pa.py_buffer(bytes(24))])
offsets = pa.Array.from_buffers(pa.int32(), 3, [None, pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 3)))])
for array in (values, pa.ListArray.from_arrays(offsets, values)):
    hasher(array.type)(array)
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_similar_strings_do_not_collide():
    for width in (6, 12, 24):
        names = [f"{n:0{width}d}" for n in range(20_000)]
        hashes = {column_hash([name], pa.string()) for name in names[:200]}
        assert len(hashes) == 200
        from sidestage.data.value_hash import hasher

        assert len(np.unique(hasher(pa.string())(pa.array(names)))) == len(names)


def test_hash_bits_are_balanced():
    from sidestage.data.value_hash import hasher

    for array in (pa.array(range(20_000)), pa.array([str(n) for n in range(20_000)])):
        hashes = hasher(array.type)(array)
        ones = [int(((hashes >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(64)]
        assert all(9_500 < count < 10_500 for count in ones)


def test_large_batches_are_hashed_block_by_block():
    rows = 100_000
    batch = pa.record_batch({"n": np.arange(rows), "s": [f"row {n}" for n in range(rows)]})
    assert digest(batch) == digest(*(batch.slice(start, 7_001) for start in range(0, rows, 7_001)))


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [
        ([3, None, -1], pa.int64(), "-1", "3"),
        ([2**64 - 1, 0], pa.uint64(), "0", str(2**64 - 1)),
        ([0.5, float("nan"), -0.0], pa.float64(), "0.0", "0.5"),
        ([float("nan")], pa.float64(), None, None),
        (["b", "a", None], pa.string(), "a", "b"),
        (["x" * 300], pa.string(), None, None),
        ([True, False], pa.bool_(), "false", "true"),
        ([Decimal("0.00000001"), Decimal(1)], pa.decimal128(20, 8), "0.00000001", "1.00000000"),
        ([dt.date(2013, 1, 2)], pa.date64(), "2013-01-02", "2013-01-02"),
        ([0], pa.timestamp("ns"), "1970-01-01T00:00:00", "1970-01-01T00:00:00"),
        ([1_500], pa.timestamp("ms", "UTC"), "1970-01-01T00:00:01.5Z", "1970-01-01T00:00:01.5Z"),
        ([dt.time(5, 0, 0, 250_000)], pa.time64("us"), "05:00:00.25", "05:00:00.25"),
        ([-1_500, 60_000], pa.duration("ms"), "-PT1.5S", "PT60S"),
        ([b"a"], pa.binary(), None, None),
        ([[1]], pa.list_(pa.int8()), None, None),
        ([None], pa.null(), None, None),
        ([], pa.int64(), None, None),
    ],
)
def test_minimum_and_maximum_as_text(values, kind, low, high):
    column = digest_of(values, kind).columns[0]
    assert (column.min, column.max) == (low, high)


def test_extremes_and_nulls_over_several_batches():
    batches = [
        pa.record_batch({"x": pa.array(values, pa.int64())}) for values in ([5, None], [None, None], [-2, 9])
    ]
    column = digest(*batches).columns[0]
    assert (column.min, column.max, column.nulls) == ("-2", "9", 3)


def test_digest_names_its_algorithm_and_types():
    found = digest(batch_of([]))
    assert (found.algorithm, found.rows, len(found.content)) == (ALGORITHM, 0, 32)
    assert [column.type for column in found.columns][-6:] == [
        "timestamp[tz=UTC]",
        "time",
        "decimal(20, 4)",
        "list<int32>",
        "struct<a: int8, b: string>",
        "map<string, int8>",
    ]


def test_the_method_is_pinned():
    """Digests are kept in catalogs: a change of the method needs a new name of the algorithm."""
    rows = [
        {
            "number": 1,
            "small": None,
            "real": 0.5,
            "text": "carrier",
            "raw": b"\x00" * 200,
            "flag": True,
            "day": dt.date(2013, 1, 1),
            "at": dt.datetime(2013, 1, 1, 5, tzinfo=UTC),
            "clock": dt.time(5),
            "money": Decimal("1.2500"),
            "items": [1, None],
            "pair": {"a": 1, "b": "x"},
            "tags": [("k", 1)],
        }
    ]
    assert digest(batch_of(rows)).content == "216a7270b07acce317b5a85adf8f4571"


def test_types_that_cannot_be_stored_are_refused():
    with pytest.raises(OutputError, match="cannot be stored"):
        DigestBuilder(pa.schema({"x": pa.month_day_nano_interval()}))
