"""Tables of Arrow made of items, and which items no table can be made of."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from sidestage.errors import DefinitionError
from sidestage.stream.contract import Refused

Row = Mapping[str, Any]


class Tables:
    """Makes tables of one schema: the one given, else that of the first rows.

    An item is a row (a mapping by column), a list of rows, or a table or record batch.
    """

    def __init__(self, schema: pa.Schema | None) -> None:
        self._schema = schema

    def of(self, items: Sequence[Any]) -> tuple[list[pa.Table], Refused | None]:
        """Return tables of items in their order, and which of these are refused.

        Raises DefinitionError if the first rows do not say what the types are.
        """
        tables: list[pa.Table] = []
        errors: dict[int, Exception] = {}
        rows: list[tuple[int, Sequence[Row]]] = []
        for index, item in enumerate(items):
            if isinstance(item, pa.Table | pa.RecordBatch):
                tables += self._of_rows(rows, errors)
                rows = []
                try:
                    tables.append(self._of_table(item))
                except (pa.ArrowException, ValueError) as error:
                    errors[index] = error
            else:
                try:
                    rows.append((index, _rows_of(item)))
                except TypeError as error:
                    errors[index] = error
        tables += self._of_rows(rows, errors)
        return [table for table in tables if table.num_rows], Refused(errors) if errors else None

    def _of_rows(
        self, given: Sequence[tuple[int, Sequence[Row]]], errors: dict[int, Exception]
    ) -> list[pa.Table]:
        """Return one table of all rows that fit; if some do not, each item is tried alone."""
        rows = [row for _, some in given for row in some]
        if not rows:
            return []
        if self._schema is None:
            self._schema = _schema_of(rows)
        try:
            return [self._table(rows)]
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            made = []
            for index, some in given:
                try:
                    made.append(self._table(some))
                except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                    errors[index] = error
            return made

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        assert self._schema is not None
        names = set(self._schema.names)
        for row in rows:
            if not row.keys() <= names:
                raise ValueError(f"There is no column {min(map(str, row.keys() - names))!r}.")
        columns = {field.name: [row.get(field.name) for row in rows] for field in self._schema}
        for field in self._schema:
            _require_kept(field.name, columns[field.name], field.type)
        return self._checked(pa.table(columns, schema=self._schema))

    def _of_table(self, given: pa.Table | pa.RecordBatch) -> pa.Table:
        table = pa.Table.from_batches([given]) if isinstance(given, pa.RecordBatch) else given
        if self._schema is None:
            self._schema = table.schema
        if set(table.column_names) != set(self._schema.names):
            raise ValueError(f"The table has the columns {', '.join(table.column_names)}.")
        return self._checked(table.select(self._schema.names).cast(self._schema))

    def _checked(self, table: pa.Table) -> pa.Table:
        for field in table.schema:
            if not field.nullable and table.column(field.name).null_count:
                raise ValueError(f"The column {field.name!r} must not be empty.")
        return table


def _rows_of(item: object) -> Sequence[Row]:
    rows: list[Any] = item if isinstance(item, list) else [item]
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"A row is a mapping by column, not {type(row).__name__}.")
    return rows


def _require_kept(name: str, values: Sequence[Any], kind: pa.DataType) -> None:
    """Raise ValueError for what Arrow would cut silently: fractions of numbers, unknown fields of records."""
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        types = set(map(type, values))
        if any(issubclass(each, Real) and not issubclass(each, Integral) for each in types):
            raise ValueError(f"The column {name!r} is of {kind}, which has no fractions.")
    elif pa.types.is_struct(kind):
        known = {field.name for field in kind}
        records = [value for value in values if isinstance(value, Mapping)]
        for unknown in (record.keys() - known for record in records):
            if unknown:
                raise ValueError(f"{name!r} has no field {min(map(str, unknown))!r}.")
        for field in kind:
            _require_kept(f"{name}.{field.name}", [record.get(field.name) for record in records], field.type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        some = [value for value in values if isinstance(value, list | tuple)]
        _require_kept(name, [each for value in some for each in value], kind.value_type)


def _schema_of(rows: Sequence[Row]) -> pa.Schema:
    """Return the schema of rows, or of the first if together they have none."""
    try:
        schema = _inferred(rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        schema = _inferred(rows[:1])
    unknown = [field.name for field in schema if pa.types.is_null(field.type)]
    if unknown:
        raise DefinitionError(
            f"The first {len(rows):,} rows do not say what the column {unknown[0]!r} holds: all are None.",
            hint="Say schema=pyarrow.schema(...).",
        )
    return schema


def _inferred(rows: Iterable[Row]) -> pa.Schema:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name in row:
            columns.setdefault(name, [])
    for row in rows:
        for name, column in columns.items():
            column.append(row.get(name))
    return pa.schema([(name, pa.array(column).type) for name, column in columns.items()])
