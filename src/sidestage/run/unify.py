"""One schema for data that was written with several."""

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from sidestage.data.value_hash import logical_name, plain
from sidestage.errors import SidestageError


class Misfit(Exception):
    """Two types that cannot become one, or a value that does not fit; says which column."""


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return a schema that holds the columns of all: by name, in order of first sight, in the wider type.

    Raises Misfit, naming the column, where types cannot be reconciled.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else _wider(known, field)
    return pa.schema(list(fields.values()))


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with the schema's columns: missing ones are NULL, types are cast if no value changes.

    Raises Misfit.
    """
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(batch.num_rows, field.type))
        else:
            columns.append(_cast(batch.column(index), field))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def refuse_other_columns(
    found: pa.Schema, expected: pa.Schema, error: Callable[[str], SidestageError]
) -> None:
    """Raise ``error`` unless both schemas have columns of the same names, in any order."""
    missing = [name for name in expected.names if name not in found.names]
    extra = [name for name in found.names if name not in expected.names]
    if missing or extra:
        parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has {', '.join(map(repr, extra))} too"] if extra else []
        raise error(" and ".join(parts))


def _wider(one: pa.Field, other: pa.Field) -> pa.Field:
    if one.type == other.type:
        return one.with_nullable(one.nullable or other.nullable)
    plain_one, plain_other = one.with_type(plain(one.type)), other.with_type(plain(other.type))
    if _same_family(plain_one.type, plain_other.type):
        return plain_one if kinds.is_large_string(plain_one.type) else plain_other
    try:
        merged = pa.unify_schemas(
            [pa.schema([plain_one]), pa.schema([plain_other])], promote_options="permissive"
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Misfit(f"column {one.name!r} is {one.type} in one and {other.type} in another") from error
    return merged.field(0)


def _same_family(one: pa.DataType, other: pa.DataType) -> bool:
    return logical_name(one) == logical_name(other) == "string"


def _cast(array: Any, field: pa.Field) -> Any:
    if array.type == field.type:
        return array
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    try:
        return array.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise Misfit(
            f"column {field.name!r} cannot become {field.type} from {array.type}: {error}"
        ) from error
