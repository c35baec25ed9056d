"""Comparison of files: against a slow, obvious oracle on random tables, and on hand-made cases."""

import functools
import json
import math
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.checks import compare as engine
from sidestage.checks import (
    ignore,
    max_changed,
    max_extra,
    max_missing,
    null_equals,
    same_total,
    suspects,
    tolerance,
)
from sidestage.checks.compare import Pair, Side, compare_dataset
from sidestage.checks.result import DatasetComparison
from sidestage.checks.suspects import find_suspects
from sidestage.data.version import ColumnDigest, Digest
from sidestage.errors import DataError, DefinitionError


def side(directory: Path, name: str, table: pa.Table, content: str | None = None) -> Side:
    """Write a table and describe it with a digest that is equal only where a test says so."""
    path = directory / f"{name}.parquet"
    pq.write_table(table, path)
    columns = tuple(ColumnDigest(one.name, str(one.type), 0, "") for one in table.schema)
    return Side(name, str(path), Digest("test", table.num_rows, content or name, columns), table.num_rows)


def compare(directory: Path, base: pa.Table, candidate: pa.Table, key=("k",), rules=(), **options):
    pair = Pair("2024-01-01", side(directory, "base", base), side(directory, "candidate", candidate))
    return compare_dataset("shop/orders", [pair], key, rules, temp_dir=directory / "spill", **options)


def column(result: DatasetComparison, name: str):
    return next(one for one in result.columns if one.name == name)


# --- the oracle -----------------------------------------------------------------------------------------

SCHEMA = pa.schema([("k", pa.int64()), ("j", pa.string()), ("f", pa.float64()), ("s", pa.string())])
floats = st.sampled_from([None, 0.0, -0.0, 1.0, 1.0000001, 2.0, -3.0, math.nan, math.inf, -math.inf, 1e300])
texts = st.sampled_from([None, "a", "b", "'; DROP TABLE parts; --"])
rows = st.tuples(
    st.sampled_from([None, 1, 2, 3, 4, 5]), st.sampled_from(["x", "x", "x", "y", None]), floats, texts
)


@st.composite
def versions(draw):
    """Draw production's rows, and a candidate's that mostly are the same."""
    base, candidate = [], []
    for row in draw(st.lists(rows, max_size=6)):
        base += [row] * draw(st.sampled_from([1, 1, 1, 2]))
        match draw(st.sampled_from(["same", "same", "twice", "missing", "other f", "other s"])):
            case "same":
                candidate.append(row)
            case "twice":
                candidate += [row, row]
            case "other f":
                candidate.append((*row[:2], draw(floats), row[3]))
            case "other s":
                candidate.append((*row[:3], draw(texts)))
    candidate += draw(st.lists(rows, max_size=2))
    return base, draw(st.permutations(candidate))


ABSOLUTE, RELATIVE = 1e-9, 1e-6


def same(one, other) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return one == other


def degree(base, candidate, tolerated: bool) -> int:
    if same(base, candidate):
        return 0
    if not tolerated or base is None or candidate is None:
        return 2
    if not (math.isfinite(base) and math.isfinite(candidate)):
        return 2
    return 1 if abs(candidate - base) <= ABSOLUTE + RELATIVE * abs(base) else 2


def canonical(row):
    return tuple("nan" if isinstance(v, float) and math.isnan(v) else (v, v is None) for v in row)


def expected(base, candidate, width: int, tolerated: bool) -> Counter:
    """Count by pairing each key's rows one key at a time; ``width`` is the number of key columns."""
    counts: Counter = Counter()
    for key in {row[:width] for row in [*base, *candidate]}:
        ours = [row for row in base if row[:width] == key]
        theirs = [row for row in candidate if row[:width] == key]
        if width and None in key:
            counts["nulls_base"] += len(ours)
            counts["nulls_candidate"] += len(theirs)
            counts["new"] += max(0, len(theirs) - len(ours))
        elif width:
            counts["duplicates_base"] += len(ours) > 1
            counts["duplicates_candidate"] += len(theirs) > 1
            counts["new"] += len(theirs) > 1 and len(ours) <= 1
        if width and None not in key and len(ours) == len(theirs) == 1:
            pairs = zip(ours[0][width:], theirs[0][width:], strict=True)
            degrees = [degree(b, c, tolerated and isinstance(b, float)) for b, c in pairs]
            counts["changed"] += max(degrees) == 2
            counts["within_tolerance"] += max(degrees) == 1
            for name, found in zip(SCHEMA.names[width:], degrees, strict=True):
                counts[f"{name} changed"] += found == 2
                counts[f"{name} within"] += found == 1
            continue
        left, right = Counter(map(canonical, ours)), Counter(map(canonical, theirs))
        counts["missing"] += (left - right).total()
        counts["extra"] += (right - left).total()
    return counts


def table(rows) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[]] * 4
    return pa.table(
        [pa.array(list(one), field.type) for one, field in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


@contextmanager
def patched(way: str):
    """Choose how suspects are found; small tables are grouped of their own accord."""
    with ExitStack() as stack:
        small = 1000 if way == "group" else 0
        stack.enter_context(
            mock.patch.object(engine, "find_suspects", functools.partial(find_suspects, small=small))
        )
        if way == "join without a sample":
            stack.enter_context(mock.patch.object(suspects, "_repeats", return_value=False))
        yield


@pytest.mark.parametrize("way", ["join", "join without a sample", "group"])
@pytest.mark.parametrize("key", [(), ("k",), ("k", "j")], ids=["whole rows", "one column", "two columns"])
@settings(max_examples=30, deadline=None)
@given(parts=st.lists(versions(), min_size=1, max_size=3), tolerated=st.booleans())
def test_agrees_with_the_oracle(way, key, parts, tolerated):
    rules = [tolerance("f", absolute=ABSOLUTE, relative=RELATIVE)] if tolerated else []
    with TemporaryDirectory() as name:
        directory = Path(name)
        pairs = [
            Pair(f"p{n}", side(directory, f"b{n}", table(ours)), side(directory, f"c{n}", table(theirs)))
            for n, (ours, theirs) in enumerate(parts)
        ]
        with patched(way):
            result = compare_dataset(
                "d", pairs, key, rules, temp_dir=directory / "spill", discrepancies=directory / "all.parquet"
            )
        written = pq.read_table(directory / "all.parquet").num_rows if result.discrepancies else 0
    counts = sum((expected(ours, theirs, len(key), tolerated) for ours, theirs in parts), Counter())
    for what in ("changed", "within_tolerance", "missing", "extra"):
        assert getattr(result, what) == counts[what], what
        assert sum(getattr(one, what) for one in result.partitions) == counts[what]
    for what in ("duplicates_base", "duplicates_candidate", "nulls_base", "nulls_candidate", "new"):
        assert getattr(result.keys, what) == counts[what], what
    for what in SCHEMA.names[len(key) :]:
        assert column(result, what).changed == counts[f"{what} changed"]
        assert column(result, what).within_tolerance == counts[f"{what} within"]
    cells = sum(one.changed + one.within_tolerance for one in result.columns)
    assert written == cells + result.missing + result.extra
    assert result.rows_base == result.matched + result.missing
    assert result.rows_candidate == result.matched + result.extra
    assert result.passed == (counts["new"] == 0)


# --- digests first --------------------------------------------------------------------------------------

ONE = pa.table({"k": [1, 2, 3], "amount": [1.0, 2.0, 3.0]})


def test_equal_digests_and_versions_read_nothing(tmp_path):
    gone = [
        Side("v1", "/nowhere/a", Digest("x", 3, "same", ()), 3),
        Side("v2", "/nowhere/b", Digest("x", 3, "same", ()), 3),
    ]
    pairs = [Pair("a", gone[0], gone[1]), Pair("b", gone[0], gone[0]), Pair("c", None, None)]
    result = compare_dataset("d", pairs, ("k",), (), temp_dir=tmp_path / "spill")
    assert (result.verdict, result.passed, result.bytes_read, result.unread) == ("identical", True, 0, 2)
    assert [one.how for one in result.partitions] == ["equal digest", "same version"]
    assert (result.rows_base, result.matched) == (6, 6)
    assert not (tmp_path / "spill").exists()


def test_a_rule_about_an_unread_column_still_holds(tmp_path):
    pair = Pair("a", side(tmp_path, "b", ONE, "same"), side(tmp_path, "c", ONE, "same"))
    rules = [same_total("amount"), max_changed(0.0, column="amount"), same_total("nope")]
    result = compare_dataset("d", [pair], ("k",), rules, temp_dir=tmp_path)
    assert [rule.passed for rule in result.rules] == [True, True, False]
    assert result.verdict == "broken"


def test_only_unequal_partitions_are_read(tmp_path):
    equal = Side("v1", "/nowhere/a", Digest("x", 3, "same", ()), 3)
    other = pa.table({"k": [1, 2, 3], "amount": [1.0, 2.5, 3.0]})
    pairs = [
        Pair("a", equal, equal),
        Pair("b", side(tmp_path, "b1", ONE), side(tmp_path, "c1", other)),
        Pair("c", side(tmp_path, "b2", ONE), side(tmp_path, "c2", ONE)),
    ]
    result = compare_dataset("d", pairs, ("k",), (), temp_dir=tmp_path)
    assert [(one.partition, one.how, one.changed) for one in result.partitions] == [
        ("a", "same version", 0),
        ("b", "compared", 1),
        ("c", "compared", 0),
    ]
    assert result.matched == 9
    assert column(result, "amount").rate == 1 / 9


def test_partitions_on_one_side_only(tmp_path):
    pairs = [Pair("a", side(tmp_path, "b1", ONE), None), Pair("b", None, side(tmp_path, "c1", ONE))]
    result = compare_dataset("d", pairs, ("k",), (), temp_dir=tmp_path)
    assert (result.missing, result.extra, result.matched) == (3, 3, 0)
    only = compare_dataset("d", pairs[1:], ("k",), (), temp_dir=tmp_path)
    assert (only.extra, [one.role for one in only.columns]) == (3, ["key", "compared"])


# --- columns --------------------------------------------------------------------------------------------


def test_column_figures(tmp_path):
    base = pa.table({"k": [1, 2, 3, 4, 5], "amount": [10.0, 20.0, None, 40.0, 50.0]})
    candidate = pa.table({"k": [1, 2, 3, 4, 6], "amount": [10.0, 25.0, 30.0, None, 60.0]})
    amount = column(compare(tmp_path, base, candidate), "amount")
    assert (amount.changed, amount.rate, amount.became_null, amount.became_value) == (3, 0.75, 1, 1)
    assert (amount.max_absolute, amount.max_relative, amount.difference) == (5.0, 0.25, 5.0)
    assert amount.total_difference == (10 + 25 + 30 + 60) - (10 + 20 + 40 + 50)


def test_types_columns_and_order(tmp_path):
    base = pa.table({"k": [1, 2], "n": pa.array([1, 2], pa.int32()), "gone": ["x", "y"], "t": ["1", "z"]})
    candidate = pa.table({"t": [1, 2], "n": [1.0, 2.5], "k": [1, 2], "new": [True, False]})
    result = compare(tmp_path, base, candidate)
    roles = {one.name: (one.role, one.type_changed, one.changed) for one in result.columns}
    assert roles == {
        "k": ("key", False, 0),
        "n": ("compared", True, 1),
        "gone": ("removed", False, 0),
        "t": ("compared", True, 1),
        "new": ("added", False, 0),
    }
    assert result.verdict == "different"


def test_a_type_change_alone_is_a_difference(tmp_path):
    wider = ONE.set_column(1, "amount", ONE["amount"].cast(pa.float32()))
    result = compare(tmp_path, ONE, wider)
    assert (result.verdict, result.changed) == ("different", 0)


def test_drift_within_a_side_is_unified_by_name(tmp_path):
    early = pa.table({"k": [1], "amount": pa.array([1], pa.int32())})
    late = pa.table({"note": ["n"], "amount": [2.0], "k": [2]})
    now = pa.table({"k": [1], "amount": [1.0], "note": pa.array([None], pa.string())})
    pairs = [
        Pair("a", side(tmp_path, "b1", early), side(tmp_path, "c1", now)),
        Pair("b", side(tmp_path, "b2", late), side(tmp_path, "c2", late)),
    ]
    result = compare_dataset("d", pairs, ("k",), (), temp_dir=tmp_path)
    assert (result.verdict, result.matched) == ("identical", 2)


# --- rules ----------------------------------------------------------------------------------------------


def test_tolerance_of_times_is_in_seconds(tmp_path):
    stamp = pa.timestamp("us")
    base = pa.table({"k": [1, 2], "at": pa.array([0, 0], stamp)})
    candidate = pa.table({"k": [1, 2], "at": pa.array([999_000, 1_500_000], stamp)})
    result = compare(tmp_path, base, candidate, rules=[tolerance("at", absolute=1)])
    assert (result.changed, result.within_tolerance) == (1, 1)


def test_ignore_and_null_equals(tmp_path):
    base = pa.table({"k": [1, 2], "a": pa.array([None, 5]), "b": ["x", "y"]})
    candidate = pa.table({"k": [1, 2], "a": [0, 5], "b": ["p", "q"]})
    result = compare(tmp_path, base, candidate, rules=[null_equals("a", 0), ignore("b")])
    assert (result.verdict, result.passed) == ("identical", True)
    with pytest.raises(DefinitionError, match="null_equals"):
        compare(tmp_path, base, candidate, rules=[null_equals("a", "zero")])


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (same_total("amount", within=0.5), True),
        (same_total("amount", within=0.01), False),
        (max_changed(0.5), True),
        (max_changed(0.4), False),
        (max_changed(0.4, column="k2"), True),
        (max_missing(0.34), True),
        (max_missing(0.3), False),
        (max_extra(0.34), True),
        (max_extra(0.3), False),
    ],
)
def test_rules_decide(tmp_path, rule, passed):
    base = pa.table({"k": [1, 2, 3], "amount": [1.0, 2.0, 3.0], "k2": [1, 1, 1]})
    candidate = pa.table({"k": [1, 2, 4], "amount": [1.0, 2.5, 3.0], "k2": [1, 1, 1]})
    result = compare(tmp_path, base, candidate, rules=[rule])
    assert result.passed is passed
    assert result.verdict == ("different" if passed else "broken")


def test_totals_cover_partitions_that_are_not_compared(tmp_path):
    big = pa.table({"k": [1], "amount": [1000.0]})
    other = pa.table({"k": [1, 2, 3], "amount": [1.0, 3.0, 3.0]})
    pairs = [
        Pair("a", side(tmp_path, "b1", big, "same"), side(tmp_path, "c1", big, "same")),
        Pair("b", side(tmp_path, "b2", ONE), side(tmp_path, "c2", other)),
    ]
    result = compare_dataset("d", pairs, ("k",), [same_total("amount", within=0.001)], temp_dir=tmp_path)
    assert result.passed  # 1 of 1006; of the compared partition alone it would be 1 of 6


# --- keys -----------------------------------------------------------------------------------------------


def test_new_duplicates_break_and_old_ones_do_not(tmp_path):
    twice = pa.table({"k": [1, 2, 2], "amount": [1.0, 2.0, 3.0]})
    assert compare(tmp_path, ONE, twice).verdict == "broken"
    result = compare(tmp_path, twice, twice)
    assert (result.verdict, result.keys.duplicates_candidate) == ("identical", 1)
    assert result.notes


def test_a_key_column_that_is_gone_breaks(tmp_path):
    result = compare(tmp_path, ONE, ONE.rename_columns(["key", "amount"]))
    assert (result.verdict, result.passed) == ("broken", False)
    assert "k in the candidate" in result.keys.problem


def test_a_key_shared_by_many_rows_does_not_explode(tmp_path):
    many = 300_000
    base = pa.table({"k": pa.array([7] * many), "n": pa.array(range(many))})
    candidate = pa.table({"k": pa.array([7] * many), "n": pa.array(range(1, many + 1))})
    result = compare(tmp_path, base, candidate)
    assert (result.missing, result.extra, result.keys.duplicates_base) == (1, 1, 1)


# --- what people see ------------------------------------------------------------------------------------

HOSTILE = 'a"; DROP TABLE detail; -- <script>alert(1)</script> \N{GRINNING FACE}'


def test_hostile_names_and_values(tmp_path):
    folder = tmp_path / "what?[is] this*=1"
    folder.mkdir()
    base = pa.table(
        {HOSTILE: [HOSTILE, "b"], "p": [1, 2], "k0": [1, 1], "file": ["x", "<b>"], "'": [None, HOSTILE]}
    )
    candidate = base.set_column(3, "file", pa.array(["x", HOSTILE]))
    pairs = [
        Pair(HOSTILE, side(folder, "b'1", base), side(folder, "c'1", candidate)),
        Pair("q", side(folder, "b'2", base), side(folder, "c'2", base)),
    ]
    result = compare_dataset(
        HOSTILE, pairs, (HOSTILE,), (), temp_dir=tmp_path / "it's", discrepancies=folder / "all'.parquet"
    )
    assert result.changed == 1
    (sample,) = result.samples
    assert (sample.key, sample.before, sample.after) == ({HOSTILE: "b"}, {"file": "<b>"}, {"file": HOSTILE})
    (line,) = pq.read_table(folder / "all'.parquet", partitioning=None).to_pylist()
    assert json.loads(line.pop("key")) == {HOSTILE: "b"}
    assert line == {
        "dataset": HOSTILE,
        "partition": HOSTILE,
        "class": "changed",
        "column": "file",
        "base": "<b>",
        "candidate": HOSTILE,
        "within_tolerance": False,
    }
    assert msgspec.json.decode(msgspec.json.encode(result), type=DatasetComparison) == result


def test_samples_are_few_and_stable(tmp_path):
    base = pa.table({"k": range(1000), "n": [0] * 1000})
    candidate = pa.table({"k": range(5, 1005), "n": [1] * 1000})
    first = compare(tmp_path, base, candidate, samples=7)
    again = compare(tmp_path, base.slice(0).take(list(range(999, -1, -1))), candidate, samples=7)
    assert Counter(one.kind for one in first.samples) == {"changed": 7, "missing": 5, "extra": 5}
    assert first.samples == again.samples


def test_segments_name_where_changes_concentrate(tmp_path):
    size = 10_000
    carrier = ["AA", "BB", None, "DD"] * (size // 4)
    base = pa.table(
        {"k": range(size), "carrier": carrier, "day": [i % 7 for i in range(size)], "n": [0] * size}
    )
    changed = [1 if one is None and i % 10 == 2 else 0 for i, one in enumerate(carrier)]
    result = compare(tmp_path, base, base.set_column(3, "n", pa.array(changed)))
    top = result.segments[0]
    assert (top.column, top.value, top.differing, top.rows) == ("carrier", None, result.changed, size // 4)
    assert top.lift == pytest.approx(4.0)
    assert {one.column for one in result.segments} == {"carrier"}


def test_truncated_discrepancies_say_so(tmp_path, monkeypatch):
    base = pa.table({"k": range(100), "n": [0] * 100})
    candidate = pa.table({"k": range(100), "n": [1] * 100})
    monkeypatch.setattr(engine, "write_discrepancies", functools.partial(engine.write_discrepancies, most=10))
    result = compare(tmp_path, base, candidate, discrepancies=tmp_path / "all.parquet")
    assert pq.read_metadata(tmp_path / "all.parquet").num_rows == result.discrepancies.written == 10
    assert result.discrepancies.total == 100
    assert any("10 of 100" in note for note in result.notes)


def test_a_damaged_file_is_a_data_error(tmp_path):
    broken = side(tmp_path, "b", ONE)
    Path(broken.path).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="2024"):
        compare_dataset("d", [Pair("2024", broken, side(tmp_path, "c", ONE))], ("k",), (), temp_dir=tmp_path)


def test_spilled_files_are_gone_and_memory_is_bounded(tmp_path):
    rows = 400_000
    base = tmp_path / "base.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT i AS k, md5(i::VARCHAR) AS a, i * 1.5 AS b FROM range({rows}) t(i)) TO '{base}'"
        )
        connection.execute(
            f"COPY (SELECT k, a || 'x' AS a, b FROM '{base}') TO '{tmp_path / 'candidate.parquet'}'"
        )
    sides = [
        Side(name, str(tmp_path / f"{name}.parquet"), Digest("x", rows, name, ()), rows)
        for name in ("base", "candidate")
    ]
    result = compare_dataset(
        "d", [Pair("p", *sides)], ("k",), (), temp_dir=tmp_path / "spill", memory_limit="100MB", threads=2
    )
    assert result.changed == rows
    assert list((tmp_path / "spill").rglob("*")) == []
