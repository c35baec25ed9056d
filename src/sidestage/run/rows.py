"""Rows as Python objects: which columns their class announces, and how they become record batches."""

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.types as kinds

from sidestage.errors import OutputError
from sidestage.pipeline.annotations import is_row_class

_TYPES: dict[object, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us"),
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
    Decimal: pa.decimal128(38, 9),
}
_KEPT = (bytes, datetime, date, time, timedelta, Decimal)
_BAD_VALUE = (pa.ArrowException, ValueError, TypeError, OverflowError)
_SHOWN_VALUE = 80


class RowField(msgspec.Struct, frozen=True):
    """One column that a class of rows announces.

    ``attribute`` is where the value is found in an instance. ``type`` is None where the class does not say;
    ``required`` is False where a row may do without; ``nested`` says that values hold rows themselves.
    """

    name: str
    attribute: str
    type: Any
    nullable: bool
    required: bool
    nested: bool = False


def fields_of(row: type) -> tuple[RowField, ...]:
    """Return the columns that a dataclass, TypedDict or msgspec.Struct announces."""
    if issubclass(row, msgspec.Struct):
        return tuple(
            _field(field.encode_name, field.name, field.type, required=field.required)
            for field in msgspec.structs.fields(row)
        )
    hints = typing.get_type_hints(row, include_extras=True)
    if typing.is_typeddict(row):
        needed = row.__required_keys__  # type: ignore[attr-defined]  # every TypedDict has it
        return tuple(_field(name, name, hint, required=name in needed) for name, hint in hints.items())
    return tuple(
        _field(field.name, field.name, hints[field.name], required=_has_no_default(field))
        for field in dataclasses.fields(row)  # type: ignore[arg-type]  # nothing else is left
        if field.init
    )


def schema_of(fields: Sequence[RowField]) -> pa.Schema | None:
    """Return the schema that fields announce, or None if one of them does not say its type."""
    if any(field.type is None for field in fields):
        return None
    return pa.schema([(field.name, field.type) for field in fields])


class RowEncoder:
    """Makes record batches of rows; the first rows decide what their class leaves open.

    ``row`` is the class of rows, or None if it is not known before. Raises OutputError, with the number of
    the row (from 1) and the column, for rows that do not fit.
    """

    def __init__(self, row: type | None) -> None:
        self._row = row
        self._fields = None if row is None else fields_of(row)
        self._kind: type | None = None
        self._schema: pa.Schema | None = None
        self._rows = 0

    def encode(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Return the next rows, one at least, as a batch."""
        if self._kind is None:
            self._kind = type(rows[0])
            _refuse_other_class(self._kind, self._row)
            if self._fields is None:
                self._fields = _fields_of_first(rows[0])
        fields = self._fields or ()
        read = self._reader(fields)
        table = [read(row, self._rows + number) for number, row in enumerate(rows, 1)]
        columns = list(zip(*table, strict=True)) if fields else []
        arrays = [self._array(field, values) for field, values in zip(fields, columns, strict=True)]
        if self._schema is None:
            names = [field.name for field in fields]
            self._schema = pa.schema([pa.field(n, a.type) for n, a in zip(names, arrays, strict=True)])
        self._rows += len(rows)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _reader(self, fields: tuple[RowField, ...]) -> Callable[[Any, int], tuple[Any, ...]]:
        names = frozenset(field.name for field in fields)
        needed = frozenset(field.name for field in fields if field.required)
        is_mapping = self._kind is not None and issubclass(self._kind, dict)

        def read(row: Any, number: int) -> tuple[Any, ...]:
            _refuse_mixed(row, self._kind, number)
            if not is_mapping:
                return tuple(getattr(row, field.attribute) for field in fields)
            keys = row.keys()
            if keys != names and not (keys <= names and keys >= needed):
                raise _other_keys(number, keys, names, needed)
            return tuple(row.get(field.name) for field in fields)

        return read

    def _array(self, field: RowField, values: Sequence[Any]) -> Any:
        known = None if self._schema is None else self._schema.field(field.name).type
        if field.nested:
            values = [msgspec.to_builtins(value, builtin_types=_KEPT) for value in values]
        kind = known or field.type
        if known is None and kind is not None and kinds.is_timestamp(kind) and kind.tz is None:
            aware = any(isinstance(value, datetime) and value.tzinfo is not None for value in values)
            kind = pa.timestamp(kind.unit, "UTC") if aware else kind
        try:
            array = _converted(values, kind)
        except _BAD_VALUE as error:
            raise self._misfit(field, values, kind, error) from error
        if array.null_count and not field.nullable:
            number = self._rows + 1 + array.is_null().to_pylist().index(True)
            raise OutputError(
                f"Row {number}: {field.name!r} is None, but its type does not allow that.",
                hint="Annotate it as optional, or leave the row out.",
            )
        return array

    def _misfit(self, field: RowField, values: Sequence[Any], kind: Any, error: Exception) -> OutputError:
        hint = "Annotate the result with a dataclass or TypedDict that names the type of every field."
        if kind is None:
            return OutputError(f"Field {field.name!r} has values of no common type: {error}", hint=hint)
        for number, value in enumerate(values, self._rows + 1):
            try:
                _converted([value], kind)
            except _BAD_VALUE:
                shown = ascii(value)[:_SHOWN_VALUE]
                return OutputError(
                    f"Row {number}: {field.name!r} is {shown}, which is not {kind}.", hint=hint
                )
        return OutputError(f"Field {field.name!r} does not fit {kind}: {error}", hint=hint)


def _converted(values: Sequence[Any], kind: pa.DataType | None) -> Any:
    """Return values as an array, refusing every change that Arrow would make without a word."""
    if kind is None:
        array = pa.array(values)
        kind = array.type
    elif kinds.is_integer(kind):
        # Given the type, Arrow would cut off the fraction of a float.
        array = pa.array(values)
        if not (kinds.is_integer(array.type) or kinds.is_floating(array.type) or kinds.is_null(array.type)):
            raise TypeError(f"these are {array.type}")
        array = array.cast(kind)
    else:
        array = pa.array(values, kind)
    if kinds.is_timestamp(kind):
        # Arrow would take a naive time for UTC, and drop the zone of an aware one.
        is_naive = kind.tz is None
        for value in values:
            if isinstance(value, datetime) and (value.tzinfo is None) != is_naive:
                raise ValueError("some times have a zone and some do not")
    return array


def _field(name: str, attribute: str, annotation: Any, *, required: bool) -> RowField:
    kind, nullable = _arrow_type(annotation)
    return RowField(name, attribute, kind, nullable or not required, required, _is_nested(annotation))


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _arrow_type(annotation: Any) -> tuple[pa.DataType | None, bool]:
    """Return the Arrow type of an annotation (None: it does not say) and whether it allows None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        kind, nullable = _arrow_type(arguments[0])
        given = [extra for extra in arguments[1:] if isinstance(extra, pa.DataType)]
        return (given[0] if given else kind), nullable
    if origin in (typing.Required, typing.NotRequired):
        return _arrow_type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        kind = _arrow_type(members[0])[0] if len(members) == 1 else None
        return kind, len(members) < len(arguments)
    kind = _simple_type(annotation) if origin is None else _composed_type(origin, arguments)
    return kind, annotation in (Any, object)


def _composed_type(origin: Any, arguments: tuple[Any, ...]) -> pa.DataType | None:
    if origin is typing.Literal:
        classes = {type(value) for value in arguments}
        return _TYPES.get(classes.pop()) if len(classes) == 1 else None
    item = _arrow_type(arguments[0])[0] if origin is list else None
    return None if item is None else pa.list_(item)


def _simple_type(annotation: Any) -> pa.DataType | None:
    if is_row_class(annotation):
        schema = schema_of(fields_of(annotation))
        return None if schema is None else pa.struct(list(schema))
    return _TYPES.get(annotation)


def _is_nested(annotation: Any) -> bool:
    return is_row_class(annotation) or any(_is_nested(argument) for argument in typing.get_args(annotation))


def _refuse_other_class(found: type, promised: type | None) -> None:
    if promised is None or issubclass(found, dict):
        return
    if typing.is_typeddict(promised) or not issubclass(found, promised):
        raise OutputError(
            f"Row 1 is a {found.__name__}, but the task promises rows of {promised.__name__}.",
            hint="Correct the annotation of the result, or return what it says.",
        )


def _fields_of_first(row: Any) -> tuple[RowField, ...]:
    if not isinstance(row, dict):
        return fields_of(type(row))
    for key in row:
        if not isinstance(key, str):
            raise OutputError(
                f"Row 1 has the key {ascii(key)[:_SHOWN_VALUE]}, which is not a string.",
                hint="Name columns by strings.",
            )
    return tuple(RowField(name, name, None, nullable=True, required=True) for name in row)


def _other_keys(number: int, keys: Any, names: frozenset[str], needed: frozenset[str]) -> OutputError:
    missing, extra = sorted(needed - keys), sorted(map(str, keys - names))
    parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"has {', '.join(map(repr, extra))}, which no row before has"] if extra else []
    return OutputError(
        f"Row {number} {' and '.join(parts)[:500]}.",
        hint="Give every row the same keys; use None for no value.",
    )


def _refuse_mixed(row: object, kind: type | None, number: int) -> None:
    if type(row) is not kind:
        before = "nothing" if kind is None else kind.__name__
        raise OutputError(
            f"Row {number} is a {type(row).__name__}, but the rows before are {before}.",
            hint="Return rows of one type.",
        )
