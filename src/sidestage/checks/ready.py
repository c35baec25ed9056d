"""Ready-made checks of one version.

``not_null``, ``row_count`` and, for numbers and times, ``between`` are answered from the digest, without
reading; the others by SQL, all checks of a dataset in one scan. NULL breaks only ``not_null``, and
``expect`` where it makes the expression NULL.
"""

from collections.abc import Callable, Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from sidestage.checks.columns import Columns
from sidestage.checks.sql import Literal, identifier, literal
from sidestage.data.check import Finding
from sidestage.data.version import Digest
from sidestage.errors import DefinitionError

_NUMERIC = ("int", "uint", "float", "double", "halffloat", "decimal")
_TEMPORAL = ("date", "timestamp")


def _absent(name: str, columns: Collection[str], digest: Digest) -> Finding | None:
    there = [column.name for column in digest.columns]
    absent = [column for column in columns if column not in there]
    if not absent:
        return None
    message = f"There is no column {', '.join(absent)}; the columns are: {', '.join(there) or 'none'}."
    return Finding(name, passed=False, blocking=True, message=message, observed="no such column")


def _counted(name: str, blocking: bool, values: tuple[object, ...], what: str) -> Finding:
    count = int(str(values[0]))
    return Finding(name, count == 0, blocking, f"{what}: {count:,}.", observed=str(count))


class NotNull(msgspec.Struct, frozen=True, tag="not_null"):
    """No NULL in the columns."""

    columns: tuple[str, ...]
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``not_null(carrier)``."""
        return f"not_null({', '.join(self.columns)})"

    def from_digest(self, digest: Digest) -> Finding:
        """Answer from the counts of nulls."""
        if absent := _absent(self.name, self.columns, digest):
            return absent
        nulls = {one.name: one.nulls for one in digest.columns if one.name in self.columns and one.nulls}
        observed = ", ".join(f"{column}: {count}" for column, count in nulls.items()) or "0"
        message = f"NULLs in {observed}." if nulls else "No NULL."
        return Finding(
            self.name, passed=not nulls, blocking=self.blocking, message=message, observed=observed
        )

    def aggregates(self) -> tuple[str, ...]:
        """Nothing has to be read."""
        return ()

    def judge(self, values: tuple[object, ...]) -> Finding:  # noqa: ARG002 -- the contract's shape
        """Never asked: the digest answers."""
        return Finding(self.name, passed=False, blocking=self.blocking, message="Not answered by the digest.")


class RowCount(msgspec.Struct, frozen=True, tag="row_count"):
    """The number of rows lies between two bounds; None is no bound."""

    at_least: int | None = None
    at_most: int | None = None
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``row_count(at_least=1)``."""
        bounds = (("at_least", self.at_least), ("at_most", self.at_most))
        return f"row_count({', '.join(f'{what}={bound}' for what, bound in bounds if bound is not None)})"

    def from_digest(self, digest: Digest) -> Finding:
        """Answer from the number of rows."""
        low = self.at_least if self.at_least is not None else 0
        passed = digest.rows >= low and (self.at_most is None or digest.rows <= self.at_most)
        message = f"{digest.rows:,} rows."
        return Finding(self.name, passed, self.blocking, message, observed=str(digest.rows))

    def aggregates(self) -> tuple[str, ...]:
        """Nothing has to be read."""
        return ()

    def judge(self, values: tuple[object, ...]) -> Finding:  # noqa: ARG002 -- the contract's shape
        """Never asked: the digest answers."""
        return Finding(self.name, passed=False, blocking=self.blocking, message="Not answered by the digest.")


class Between(msgspec.Struct, frozen=True, tag="between"):
    """Values lie between two bounds, both included; None is no bound, texts bound times or texts."""

    column: str
    low: int | float | str | None = None
    high: int | float | str | None = None
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``between(delay, 0, 1440)``."""
        return f"between({self.column}, {self.low}, {self.high})"

    def from_digest(self, digest: Digest) -> Finding | None:
        """Answer from the smallest and largest value, if the column holds numbers or times."""
        if absent := _absent(self.name, (self.column,), digest):
            return absent
        column = next(one for one in digest.columns if one.name == self.column)
        if digest.rows == column.nulls:
            return Finding(self.name, passed=True, blocking=self.blocking, message="No value to check.")
        if column.min is None or column.max is None:
            return None
        passed = _inside(column.type, (column.min, column.max), (self.low, self.high))
        if passed is None:
            return None
        observed = f"{column.min} to {column.max}"
        return Finding(self.name, passed, self.blocking, f"Values lie from {observed}.", observed=observed)

    def aggregates(self) -> tuple[str, ...]:
        """Count the values outside."""
        column = identifier(self.column)
        tests = [f"{column} < {literal(self.low)}"] if self.low is not None else []
        tests += [f"{column} > {literal(self.high)}"] if self.high is not None else []
        return (f"count(*) FILTER (WHERE {' OR '.join(tests) or 'FALSE'})",)

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Require that none is outside."""
        return _counted(self.name, self.blocking, values, "Values outside")


def _inside(
    kind: str, ends: tuple[str, str], bounds: tuple[int | float | str | None, int | float | str | None]
) -> bool | None:
    """Whether the smallest and largest value lie within the bounds, or None if the texts cannot tell."""
    if not kind.startswith((*_NUMERIC, *_TEMPORAL)):
        return None
    parse: Callable[[str], Any] = Decimal if kind.startswith(_NUMERIC) else datetime.fromisoformat
    try:
        smallest, largest = map(parse, ends)
        low, high = (None if bound is None else parse(str(bound)) for bound in bounds)
        return bool((low is None or low <= smallest) and (high is None or largest <= high))
    except (ArithmeticError, ValueError, TypeError):  # no number, NaN, no date; aware against naive
        return None


class Unique(msgspec.Struct, frozen=True, tag="unique"):
    """No two rows have the same values in the columns; NULLs count as the same."""

    columns: tuple[str, ...]
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``unique(carrier, day)``."""
        return f"unique({', '.join(self.columns)})"

    def from_digest(self, digest: Digest) -> Finding | None:
        """Answer only if a column does not exist."""
        return _absent(self.name, self.columns, digest)

    def aggregates(self) -> tuple[str, ...]:
        """Count the rows beyond the first of each value."""
        return (f"count(*) - count(DISTINCT row({', '.join(identifier(one) for one in self.columns)}))",)

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Require that no row repeats another."""
        return _counted(self.name, self.blocking, values, "Rows that repeat another's key")


class Matches(msgspec.Struct, frozen=True, tag="matches"):
    """Whole values, as text, match a regular expression (RE2)."""

    column: str
    regex: str
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``matches(code, [A-Z]{3})``."""
        return f"matches({self.column}, {self.regex})"

    def from_digest(self, digest: Digest) -> Finding | None:
        """Answer only if the column does not exist."""
        return _absent(self.name, (self.column,), digest)

    def aggregates(self) -> tuple[str, ...]:
        """Count the values that do not match."""
        match = f"regexp_full_match(CAST({identifier(self.column)} AS VARCHAR), {literal(self.regex)})"
        return (f"count(*) FILTER (WHERE NOT {match})",)

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Require that all match."""
        return _counted(self.name, self.blocking, values, "Values that do not match")


class Allowed(msgspec.Struct, frozen=True, tag="allowed"):
    """Values are among those listed."""

    column: str
    values: tuple[str | int | float | bool, ...]
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``allowed(state, open, closed)``."""
        return f"allowed({', '.join([self.column, *map(str, self.values)])})"

    def from_digest(self, digest: Digest) -> Finding | None:
        """Answer only if the column does not exist."""
        return _absent(self.name, (self.column,), digest)

    def aggregates(self) -> tuple[str, ...]:
        """Count the other values."""
        listed = ", ".join(literal(value) for value in self.values)
        return (f"count(*) FILTER (WHERE {identifier(self.column)} NOT IN ({listed}))",)

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Require that there is no other."""
        return _counted(self.name, self.blocking, values, "Values that are not allowed")


class Expect(msgspec.Struct, frozen=True, tag="expect"):
    """An expression of DuckDB's SQL is true for every row."""

    name: str
    sql: str
    blocking: bool = True

    def from_digest(self, digest: Digest) -> Finding | None:  # noqa: ARG002 -- the contract's shape
        """The data has to be read."""
        return None

    def aggregates(self) -> tuple[str, ...]:
        """Count the rows for which the expression is false or NULL."""
        # The line break ends a comment the expression may end with.
        return (f"count(*) FILTER (WHERE ({self.sql}\n) IS NOT TRUE)",)

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Require that there is no such row."""
        return _counted(self.name, self.blocking, values, "Rows for which it is not true")


AnyCheck = Columns | NotNull | RowCount | Between | Unique | Matches | Allowed | Expect


def not_null(*columns: str, blocking: bool = True) -> NotNull:
    """Require that the columns hold no NULL. Raises DefinitionError without a column."""
    return NotNull(_some("not_null", columns), blocking)


def row_count(*, at_least: int | None = None, at_most: int | None = None, blocking: bool = True) -> RowCount:
    """Require a number of rows between two bounds. Raises DefinitionError without a bound."""
    if at_least is None and at_most is None:
        raise DefinitionError("row_count has no bound.", hint="Give at_least, at_most or both.")
    return RowCount(at_least, at_most, blocking)


def between(
    column: str,
    low: float | str | date | datetime | None = None,
    high: float | str | date | datetime | None = None,
    *,
    blocking: bool = True,
) -> Between:
    """Require values between two bounds, both included. Raises DefinitionError without a bound."""
    if low is None and high is None:
        raise DefinitionError(f"between({column}) has no bound.", hint="Give a low or a high bound or both.")
    return Between(column, _bound(low), _bound(high), blocking)


def unique(*columns: str, blocking: bool = True) -> Unique:
    """Require that no two rows agree in all the columns. Raises DefinitionError without a column."""
    return Unique(_some("unique", columns), blocking)


def matches(column: str, regex: str, *, blocking: bool = True) -> Matches:
    """Require that whole values, as text, match a regular expression of RE2's syntax."""
    return Matches(column, regex, blocking)


def allowed(column: str, values: Collection[Literal], *, blocking: bool = True) -> Allowed:
    """Require values among those listed. Raises DefinitionError if none is."""
    if not values:
        raise DefinitionError(f"allowed({column}) lists no value.", hint="List the values that may occur.")
    return Allowed(column, tuple(values), blocking)


def expect(name: str, sql: str, *, blocking: bool = True) -> Expect:
    """Require that an SQL expression over the columns is true for every row."""
    return Expect(name, sql, blocking)


def _some(what: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    if not columns:
        raise DefinitionError(f"{what}() names no column.", hint="Name at least one column.")
    return columns


def _bound(value: float | str | date | datetime | None) -> float | str | None:
    return value.isoformat() if isinstance(value, date) else value
