import msgspec
import pytest

from sidestage.checks import columns
from sidestage.checks.ready import AnyCheck
from sidestage.data.version import ColumnDigest, Digest
from sidestage.errors import DefinitionError


def digest(**types: str) -> Digest:
    described = tuple(ColumnDigest(name, kind, 0, "0" * 16) for name, kind in types.items())
    return Digest("a", 1, "0" * 32, described)


def test_columns_as_declared_pass() -> None:
    finding = columns({"id": "int64", "name": "string"}).from_digest(digest(name="string", id="int64"))
    assert finding.passed
    assert finding.blocking


def test_every_fault_is_named() -> None:
    finding = columns({"id": "int64", "amount": "double"}).from_digest(digest(id="string", extra="int64"))
    assert not finding.passed
    assert finding.message == "amount is missing; id is string, not int64; extra is new."


def test_others_may_be_there_where_it_is_not_exact() -> None:
    assert columns({"id": "int64"}, exact=False).from_digest(digest(id="int64", extra="int64")).passed


def test_no_column_is_refused_and_json_carries_it() -> None:
    with pytest.raises(DefinitionError):
        columns({})
    check = columns({"id": "int64"}, blocking=False)
    assert msgspec.json.decode(msgspec.json.encode(check), type=AnyCheck) == check
