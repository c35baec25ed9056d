"""Which columns are compared, and how: both sides' schemas brought together under the rules.

Inside the engine columns have numbers instead of names: the key's are k0, k1, ... and the compared ones
v0, v1, ... so no name a user chose can clash or break out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from sidestage.checks.rules import AnyRule, Ignore, NullEquals, Tolerance
from sidestage.checks.sql import identifier, literal, text
from sidestage.errors import DefinitionError

Schema = dict[str, str]
"""Column names and DuckDB types, in the order of the file."""

_FLOATING = {"FLOAT", "DOUBLE"}
_INTEGER = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_INTEGER |= {f"U{kind}" for kind in _INTEGER}


@dataclass(frozen=True)
class Field:
    """A column both sides have: its name, types, and the type in which values are compared."""

    name: str
    base_type: str
    candidate_type: str
    common: str
    tolerance: Tolerance | None = None
    null_as: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether values have a sum."""
        return is_numeric(self.common)

    @property
    def temporal(self) -> bool:
        """Whether values are dates or times, measured in seconds."""
        return self.common == "DATE" or self.common.startswith("TIME")

    def compared(self, column: str) -> str:
        """Return the expression that is compared, NULL replaced where a rule says so."""
        return column if self.null_as is None else f"coalesce({column}, {self.null_as})"

    def number(self, column: str) -> str:
        """Return the value as a float: seconds for times."""
        return f"CAST(epoch({column}) AS DOUBLE)" if self.temporal else f"CAST({column} AS DOUBLE)"

    def degree(self, base: str, candidate: str) -> str:
        """Return an expression: 0 where values are equal, 1 within tolerance, 2 beyond."""
        one, other = self.compared(base), self.compared(candidate)
        same = f"{one} IS NOT DISTINCT FROM {other}"
        rule = self.tolerance
        if rule is None or not (self.numeric or self.temporal):
            return f"CASE WHEN {same} THEN 0 ELSE 2 END"
        b, a = self.number(one), self.number(other)
        within = f"abs({a} - {b}) <= {literal(rule.absolute)} + {literal(rule.relative)} * abs({b})"
        return f"CASE WHEN {same} THEN 0 WHEN isfinite({a}) AND isfinite({b}) AND {within} THEN 1 ELSE 2 END"


@dataclass(frozen=True)
class Layout:
    """The columns of a comparison. ``key`` is empty if whole rows are compared."""

    key: tuple[Field, ...]
    compared: tuple[Field, ...]
    base: Schema
    candidate: Schema
    ignored: frozenset[str]

    @property
    def keys(self) -> list[str]:
        """The key's columns in the engine; for whole rows their hash is the key."""
        return [f"k{number}" for number in range(max(1, len(self.key)))]

    @property
    def values(self) -> list[str]:
        """The compared columns in the engine."""
        return [f"v{number}" for number in range(len(self.compared))]

    def hash(self, prefix: str = "") -> str:
        """Return the expression of the 64-bit hash of the compared values of one row."""
        pairs = zip(self.compared, self.values, strict=True)
        columns = ", ".join(field.compared(prefix + column) for field, column in pairs)
        return f"hash({columns})" if columns else "CAST(0 AS UBIGINT)"

    def select(self, schema: Schema) -> str:
        """Return the select list that gives one side's columns their numbers and common types."""
        fields = [*zip(self.key, self.keys, strict=False), *zip(self.compared, self.values, strict=True)]
        items = []
        for field, column in fields:
            same = schema.get(field.name) == field.common
            source = identifier(field.name) if same else f"CAST({identifier(field.name)} AS {field.common})"
            items.append(f"{source} AS {column}")
        return ", ".join(items)


def is_integer(kind: str) -> bool:
    """Whether a DuckDB type is a whole number."""
    return kind in _INTEGER


def is_numeric(kind: str) -> bool:
    """Whether a DuckDB type is a number."""
    return kind in _FLOATING or kind in _INTEGER or kind.startswith("DECIMAL")


def bring_together(
    connection: duckdb.DuckDBPyConnection,
    schemas: tuple[Schema, Schema],
    key: Sequence[str],
    rules: Sequence[AnyRule],
) -> Layout:
    """Decide how to compare two sides whose columns and types are given: production's and the candidate's.

    Raises DefinitionError if a value of ``null_equals`` does not fit its column.
    """
    base, candidate = schemas
    ignored = frozenset(rule.column for rule in rules if isinstance(rule, Ignore)) - set(key)
    shared = [name for name in base if name in candidate and name not in ignored]
    tolerances = {rule.column: rule for rule in rules if isinstance(rule, Tolerance)}
    nulls = {rule.column: rule for rule in rules if isinstance(rule, NullEquals)}

    def field(name: str) -> Field:
        common = _common(connection, base[name], candidate[name])
        null_as = _null_as(connection, nulls.get(name), common)
        return Field(name, base[name], candidate[name], common, tolerances.get(name), null_as)

    paired = all(name in shared for name in key)
    return Layout(
        key=tuple(field(name) for name in key) if paired else (),
        compared=tuple(field(name) for name in shared if not paired or name not in key),
        base=base,
        candidate=candidate,
        ignored=ignored,
    )


def _common(connection: duckdb.DuckDBPyConnection, one: str, other: str) -> str:
    """Return the type in which values of two types are compared: text if they have nothing in common."""
    if one == other:
        return one
    if is_numeric(one) and is_numeric(other):
        if {one, other} & _FLOATING:
            return "DOUBLE"
        return _union(connection, one, other)
    times = [kind == "DATE" or kind.startswith("TIMESTAMP") for kind in (one, other)]
    return _union(connection, one, other) if all(times) else "VARCHAR"


def _union(connection: duckdb.DuckDBPyConnection, one: str, other: str) -> str:
    query = f"DESCRIBE SELECT CAST(NULL AS {one}) AS c UNION ALL SELECT CAST(NULL AS {other})"
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[1])


def _null_as(connection: duckdb.DuckDBPyConnection, rule: NullEquals | None, kind: str) -> str | None:
    if rule is None:
        return None
    value = f"CAST({text(str(rule.value))} AS {kind})"
    try:
        connection.execute(f"SELECT {value}")
    except duckdb.Error as error:
        raise DefinitionError(
            f"The rule {rule.name} does not fit: the column's type is {kind}.",
            hint="Give a value of that type.",
        ) from error
    return value
