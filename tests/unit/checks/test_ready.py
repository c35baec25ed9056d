"""Ready-made checks: what they say of a version, from its digest or from its file."""

import subprocess
import sys
from datetime import UTC, date, datetime

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidestage.checks import allowed, between, expect, matches, not_null, row_count, unique
from sidestage.checks.audit import audit
from sidestage.checks.ready import AnyCheck
from sidestage.data.check import Check
from sidestage.data.version import ColumnDigest, Digest
from sidestage.errors import DataError, DefinitionError

TRICKY = 'b "x'
TABLE = pa.table({"a": [1, 2, 2, None], TRICKY: ["u", "v", "w", None], "ok": [1, 1, 1, 1]})
DIGEST = Digest(
    "test",
    4,
    "",
    (
        ColumnDigest("a", "int64", 1, "", "1", "2"),
        ColumnDigest(TRICKY, "string", 1, "", "u", "w"),
        ColumnDigest("ok", "int64", 0, "", "1", "1"),
    ),
)
ALL = [
    not_null("a", "ok"),
    row_count(at_least=1, at_most=3, blocking=False),
    between("a", 0, 1.5),
    unique("a", TRICKY),
    matches(TRICKY, "[a-z]"),
    allowed("a", [1, "x", True, 2.5]),
    expect("positive", "a > 0"),
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "it's [1]*.parquet"
    pq.write_table(TABLE, path)
    return path


def one(path, check):
    (finding,) = audit(path, DIGEST, [check])
    return finding


@pytest.mark.parametrize(
    ("check", "passed", "observed"),
    [
        (not_null("ok"), True, "0"),
        (not_null("ok", "a"), False, "a: 1"),
        (row_count(at_least=4), True, "4"),
        (row_count(at_least=5), False, "4"),
        (row_count(at_most=3), False, "4"),
        (between("a", 1, 2), True, "1 to 2"),
        (between("a", low=1.5), False, "1 to 2"),
        (between("a", high=1), False, "1 to 2"),
        (between(TRICKY, "u", "v"), False, "1"),
        (between(TRICKY, "a", "z"), True, "0"),
        (unique("a"), False, "1"),
        (unique(TRICKY), True, "0"),
        (unique("a", TRICKY), True, "0"),
        (matches(TRICKY, "[uvw]"), True, "0"),
        (matches(TRICKY, "u|v"), False, "1"),
        (allowed(TRICKY, ["u", "v", "w"]), True, "0"),
        (allowed("a", [1]), False, "2"),
        (expect("positive", "ok > 0 -- always"), True, "0"),
        (expect("null is not true", "a > 0"), False, "1"),
        (expect("a query of its own", "(SELECT count(*) FROM data) = 4"), True, "0"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_findings(path, check, passed, observed):
    finding = one(path, check)
    assert (finding.passed, finding.observed, finding.check) == (passed, observed, check.name)
    assert finding.blocking


def test_digest_is_enough_for_some(tmp_path):
    checks = [not_null("a"), row_count(at_least=1), between("a", 1, 2)]
    assert len(audit(tmp_path / "absent", DIGEST, checks)) == 3


@pytest.mark.parametrize(
    ("kind", "smallest", "largest", "low", "high", "passed"),
    [
        (
            "timestamp[us]",
            "2024-01-01T00:00:00",
            "2024-01-02T12:00:00",
            date(2024, 1, 1),
            "2024-01-03T00:00:00",
            True,
        ),
        ("timestamp[us]", "2024-01-01T00:00:00", "2024-01-02T12:00:00", None, "2024-01-02", False),
        ("date32[day]", "2024-01-01", "2024-01-31", "2024-01-01", "2024-01-31", True),
        ("decimal(30, 2)", "0.01", "12345678901234567890.01", None, "12345678901234567890", False),
        ("double", "0.0", "nan", 0, 1, None),
        ("timestamp[us]", "2024-01-01", "2024-01-02", datetime(2024, 1, 1, tzinfo=UTC), None, None),
        ("string", "a", "b", "a", "b", None),
        ("int64", "1", "2", "one", None, None),
    ],
)
def test_between_answers_from_the_digest_where_it_can(kind, smallest, largest, low, high, passed):
    digest = Digest("test", 2, "", (ColumnDigest("c", kind, 0, "", smallest, largest),))
    finding = between("c", low, high).from_digest(digest)
    assert (finding.passed if finding else None) is passed


def test_between_of_nothing_but_nulls_holds():
    digest = Digest("test", 2, "", (ColumnDigest("c", "int64", 2, ""),))
    assert between("c", 1, 2).from_digest(digest).passed


@pytest.mark.parametrize(
    "check", [not_null("z"), between("z", 1), unique("a", "z"), matches("z", "x"), allowed("z", [1])]
)
def test_an_unknown_column_is_a_blocking_finding(path, check):
    finding = one(path, msgspec.structs.replace(check, blocking=False))
    assert not finding.passed
    assert finding.blocking
    assert "no column z" in finding.message
    assert TRICKY in finding.message


def test_a_wrong_expression_spoils_only_its_own_finding(path):
    checks = [
        unique("a"),
        expect("typo", "nope > 0", blocking=False),
        expect("two", "1) ; SELECT (1"),
        unique("ok"),
    ]
    findings = audit(path, DIGEST, checks)
    assert [finding.observed for finding in findings] == ["1", "SQL error", "SQL error", "3"]
    assert findings[1].blocking
    assert "nope" in findings[1].message


def test_an_expression_can_read_nothing_else(path, tmp_path):
    other = tmp_path / "other.parquet"
    pq.write_table(TABLE, other)
    finding = one(path, expect("peek", f"(SELECT count(*) FROM read_parquet('{other}')) > 0"))
    assert (finding.passed, finding.observed) == (False, "SQL error")


def test_an_own_connection_may_be_given(path):
    with duckdb.connect() as connection:
        (finding,) = audit(path, DIGEST, [unique("a")], connection)
    assert not finding.passed


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="absent"):
        audit(tmp_path / "absent.parquet", DIGEST, [unique("a")])


def test_checks_encode_and_keep_the_contract():
    assert msgspec.json.decode(msgspec.json.encode(ALL), type=list[AnyCheck]) == ALL
    assert all(isinstance(check, Check) for check in ALL)
    assert len({check.name for check in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "declare",
    [not_null, unique, row_count, lambda: between("a"), lambda: allowed("a", [])],
)
def test_checks_that_say_nothing_are_refused(declare):
    with pytest.raises(DefinitionError):
        declare()


def test_the_face_is_light():
    program = "import sys, sidestage.checks; print({'duckdb', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
