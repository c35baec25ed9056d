"""Which types a task may annotate, told from the annotation alone: no library is imported to find out."""

import collections.abc
import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Any, Literal

import msgspec

from sidestage.errors import DefinitionError

Kind = Literal[
    "table", "batch", "reader", "dataset", "polars", "lazy", "pandas", "duckdb", "path", "row", "dict"
]
Holder = Literal["one", "list", "iterable", "iterator", "stream"]

ACCEPTED_INPUTS = (
    "pyarrow.Table, pyarrow.RecordBatchReader, Iterator[pyarrow.RecordBatch], pyarrow.dataset.Dataset, "
    "polars.DataFrame, polars.LazyFrame, pandas.DataFrame, duckdb.DuckDBPyRelation, Path, list[Path], "
    "or list, Iterable or Iterator of a dataclass, TypedDict, msgspec.Struct or dict"
)
ACCEPTED_OUTPUTS = (
    "a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a polars DataFrame or LazyFrame, a pandas "
    "DataFrame, a duckdb relation, the Path of a Parquet file, or a list, generator or Stream of those or of "
    "rows (dataclass, TypedDict, msgspec.Struct or dict)"
)

_KINDS: dict[tuple[str, str], Kind] = {
    ("pyarrow", "Table"): "table",
    ("pyarrow", "RecordBatch"): "batch",
    ("pyarrow", "RecordBatchReader"): "reader",
    ("pyarrow", "Dataset"): "dataset",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "lazy",
    ("pandas", "DataFrame"): "pandas",
    ("duckdb", "DuckDBPyRelation"): "duckdb",
}
_HOLDERS: dict[object, Holder] = {
    list: "list",
    collections.abc.Iterable: "iterable",
    collections.abc.Iterator: "iterator",
    collections.abc.Generator: "iterator",
    typing.Iterable: "iterable",
    typing.Iterator: "iterator",
    typing.Generator: "iterator",
}
_INPUT_KINDS: dict[Holder, frozenset[Kind]] = {
    "one": frozenset({"table", "reader", "dataset", "polars", "lazy", "pandas", "duckdb", "path"}),
    "list": frozenset({"batch", "path", "row", "dict"}),
    "iterable": frozenset({"batch", "row", "dict"}),
    "iterator": frozenset({"batch", "row", "dict"}),
    "stream": frozenset(),
}
_OUTPUT_KINDS: dict[Holder, frozenset[Kind]] = {
    "one": _INPUT_KINDS["one"] | {"batch"},
    "list": frozenset({"table", "batch", "polars", "pandas", "path", "row", "dict"}),
    "iterable": frozenset({"table", "batch", "polars", "pandas", "path", "row", "dict"}),
    "iterator": frozenset({"table", "batch", "polars", "pandas", "path", "row", "dict"}),
    "stream": frozenset({"table", "batch", "polars", "pandas", "path", "row", "dict"}),
}


class Shape(msgspec.Struct, frozen=True):
    """What an annotation asks for: a kind of thing, alone or in a holder; ``row`` is the class of rows."""

    kind: Kind
    holder: Holder = "one"
    row: Any = None


def kind_of_class(cls: type) -> Kind | None:
    """Return what kind of data instances of a class are, or None.

    Goes by the names of the class and its bases, so that nothing has to be imported.
    """
    if isinstance(cls, type) and issubclass(cls, Path):
        return "path"
    if is_row_class(cls):
        return "row"
    for base in getattr(cls, "__mro__", ()):
        library = base.__module__.partition(".")[0].lstrip("_")
        kind = _KINDS.get((library, base.__name__))
        if kind is not None:
            return kind
    return "dict" if isinstance(cls, type) and issubclass(cls, dict) else None


def is_row_class(cls: object) -> bool:
    """Return whether a class describes rows: a dataclass, a TypedDict or a msgspec.Struct."""
    return isinstance(cls, type) and (
        dataclasses.is_dataclass(cls) or typing.is_typeddict(cls) or issubclass(cls, msgspec.Struct)
    )


def input_shape(annotation: object) -> Shape:
    """Return what a parameter's annotation asks for. Raises DefinitionError."""
    shape = _shape(annotation)
    if shape is None or shape.kind not in _INPUT_KINDS[shape.holder]:
        raise DefinitionError(
            f"An input cannot be given as {_shown(annotation)}.", hint=f"Annotate {ACCEPTED_INPUTS}."
        )
    return shape


def check_input_annotation(annotation: object) -> None:
    """Refuse a parameter's annotation that no input can be given as. Raises DefinitionError."""
    input_shape(annotation)


def check_output_annotation(annotation: object) -> None:
    """Refuse a result's annotation that cannot be written. Raises DefinitionError."""
    for member in _members(annotation):
        shape = _shape(member)
        if shape is None or shape.kind not in _OUTPUT_KINDS[shape.holder]:
            raise DefinitionError(
                f"A task cannot return {_shown(annotation)}.", hint=f"Return {ACCEPTED_OUTPUTS}."
            )


def row_class(annotation: object) -> type | None:
    """Return the class of rows that a result's annotation promises, if it promises one."""
    for member in _members(annotation):
        shape = _shape(member)
        if shape is not None and shape.kind == "row" and shape.holder != "one":
            found: type = shape.row
            return found
    return None


def _members(annotation: object) -> tuple[object, ...]:
    annotation = _unwrapped(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _shape(annotation: object) -> Shape | None:
    annotation = _unwrapped(annotation)
    if annotation is Any or annotation is inspect.Parameter.empty:
        return Shape("table")
    origin = typing.get_origin(annotation) or annotation
    holder = "stream" if _is_stream(origin) else _HOLDERS.get(origin)
    if holder is None:
        kind = _kind(annotation)
        return None if kind is None else Shape(kind, row=annotation)
    arguments = typing.get_args(annotation)
    item = _unwrapped(arguments[0]) if arguments else dict
    kind = _kind(dict if item is Any else item)
    return None if kind is None else Shape(kind, holder, row=item)


def _is_stream(cls: object) -> bool:
    """Whether a class is that of streams, told by its name: a task without one should not load it."""
    place = getattr(cls, "__module__", ""), getattr(cls, "__name__", "")
    return place == ("sidestage.stream.stream", "Stream")


def _kind(annotation: object) -> Kind | None:
    origin = typing.get_origin(annotation) or annotation
    return kind_of_class(origin) if isinstance(origin, type) else None


def _unwrapped(annotation: object) -> object:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _shown(annotation: object) -> str:
    name = annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
    return f"{name[:200]!r}"
