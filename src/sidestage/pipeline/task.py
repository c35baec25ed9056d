"""A task: a plain function of a partition and its inputs that returns its output and never writes."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidestage.data.dataset import Dataset, Read
from sidestage.data.names import check_task_name
from sidestage.errors import DefinitionError
from sidestage.pipeline.terms import Terms
from sidestage.policy.retry import Retry

Reads = Dataset | Read | Sequence[Dataset | Read] | Mapping[str, Dataset | Read]
"""What a task may read: one dataset, several by position, or several by parameter name."""


_LONGEST_PATH = 200
"""Longer text that ends in ``.sql`` is a query."""


class Location:
    """Where something was declared, for messages."""

    __slots__ = ("file", "line")

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line

    @classmethod
    def of_caller(cls, depth: int) -> "Location":
        """Return the place ``depth`` calls above the function that asks."""
        frame = inspect.stack(context=0)[depth + 1]
        return cls(frame.filename, frame.lineno)

    @classmethod
    def of_function(cls, function: Callable[..., Any]) -> "Location":
        """Return where a function was written. Raises DefinitionError for anything else than a function."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is None:
            raise DefinitionError(
                f"{cls.of_caller(2)}: {function!r} is not a plain function, so it cannot be a task.",
                hint="Write a function that calls it.",
            )
        return cls(code.co_filename, code.co_firstlineno)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Task:
    """A task as declared: a function, or a SQL query, with its inputs by parameter and its output.

    ``query`` is the SQL text of a SQL task and None for a function. Made by Pipeline.task and Pipeline.sql.
    """

    __slots__ = ("function", "location", "name", "query", "reads", "retry", "terms", "writes")

    def __init__(
        self,
        name: str,
        *,
        reads: Reads,
        writes: Dataset,
        location: Location,
        function: Callable[..., Any] | None = None,
        query: str | None = None,
        retry: Retry | None = None,
        terms: Terms = Terms(),  # noqa: B008  # a frozen value
    ) -> None:
        self.name = check_task_name(name)
        self.location = location
        self.function = function
        self.query = query
        self.writes = _only_dataset(writes, name, location)
        if self.writes.is_value and function is None:
            raise DefinitionError(
                f"{location}: the SQL task {name!r} writes {self.writes.name!r}, which is no rows.",
                hint="A query makes rows: declare a Dataset.",
            )
        self.retry = retry
        self.terms = terms
        self.reads = _by_parameter(reads, function, name, location)

    def annotations(self) -> tuple[dict[str, Any], Any]:
        """Return the annotation of each input parameter, and of the result. Raises DefinitionError."""
        if self.function is None:
            return dict.fromkeys(self.reads, Any), Any
        try:
            hints = typing.get_type_hints(self.function)
        except Exception as error:
            raise DefinitionError(
                f"{self.location}: the annotations of task {self.name!r} cannot be resolved: {error}."
            ) from error
        return {name: hints.get(name, Any) for name in self.reads}, hints.get("return", Any)


def read_query(query: str, relative_to: Path, location: Location) -> str:
    """Return SQL text: what was given, or the contents of the ``.sql`` file that it names.

    A relative path is looked up beside the declaring file, then in every folder above it.
    Raises DefinitionError if there is no such file.
    """
    path = query.strip()
    if not path.lower().endswith(".sql") or "\n" in path or len(path) > _LONGEST_PATH:
        return query
    for folder in (relative_to, *relative_to.parents):
        candidate = folder / path
        if candidate.is_file():
            return _text_of(candidate, location)
    raise DefinitionError(
        f"{location}: there is no SQL file {query!r} beside {relative_to} or in a folder above it.",
        hint="Correct the path, or give the query itself.",
    )


def _text_of(path: Path, location: Location) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(
            f"{location}: the SQL file {path} cannot be read: {error}.", hint="Save it as UTF-8."
        ) from error


def _only_dataset(writes: object, name: str, location: Location) -> Dataset:
    if not isinstance(writes, Dataset):
        raise DefinitionError(
            f"{location}: task {name!r} must write exactly one Dataset, not {type(writes).__name__}.",
            hint="Make one task for each dataset; tasks may share functions.",
        )
    return writes


def _by_parameter(
    reads: Reads, function: Callable[..., Any] | None, name: str, location: Location
) -> dict[str, Read]:
    if isinstance(reads, Mapping):
        named = {parameter: _read(value, name, location) for parameter, value in reads.items()}
        if function is None:
            for read in named.values():
                _refuse_value(read, name, location)
        else:
            # Inputs are passed by position, so they stand in the order of the parameters.
            return {each: named[each] for each in _matched_parameters(named, function, name, location)}
        return named
    listed = list(reads) if isinstance(reads, Sequence) else [reads]
    values = [_read(value, name, location) for value in listed]
    if function is None:
        return _by_last_part(values, name, location)
    parameters = _input_parameters(function, name, location)
    if len(parameters) != len(values):
        raise DefinitionError(
            f"{location}: task {name!r} reads {len(values)} dataset(s) but its function takes "
            f"{len(parameters)} input(s) after the partition: ({', '.join(parameters)}).",
            hint="Give the function one parameter for the partition, then one for each dataset in reads=.",
        )
    return dict(zip(parameters, values, strict=True))


def _by_last_part(reads: Sequence[Read], name: str, location: Location) -> dict[str, Read]:
    named: dict[str, Read] = {}
    for read in reads:
        _refuse_value(read, name, location)
        relation = read.dataset.name.rsplit("/", 1)[-1].replace("-", "_")
        other = named.setdefault(relation, read)
        if other is not read:
            raise DefinitionError(
                f"{location}: task {name!r} reads {other.dataset.name!r} and {read.dataset.name!r}, which "
                f"would both be named {relation!r}.",
                hint=f'Name them: reads={{"{relation}": ..., "other": ...}}.',
            )
    return named


def _refuse_value(read: Read, name: str, location: Location) -> None:
    if read.dataset.is_value:
        raise DefinitionError(
            f"{location}: the SQL task {name!r} reads {read.dataset.name!r}, which is a value and no rows.",
            hint="Read it in a Python task, or make it a Dataset.",
        )


def _input_parameters(function: Callable[..., Any], name: str, location: Location) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or any(parameter.kind not in positional for parameter in parameters):
        raise DefinitionError(
            f"{location}: task {name!r} must be a function of a partition and its inputs, all positional.",
            hint="Write: def task(day: Partition, rows: pyarrow.Table) -> pyarrow.Table",
        )
    return [parameter.name for parameter in parameters[1:] if parameter.default is inspect.Parameter.empty]


def _matched_parameters(
    reads: Mapping[str, Read], function: Callable[..., Any], name: str, location: Location
) -> list[str]:
    parameters = _input_parameters(function, name, location)
    if set(parameters) != set(reads):
        raise DefinitionError(
            f"{location}: task {name!r} takes ({', '.join(parameters)}) but reads= names "
            f"({', '.join(reads)}).",
            hint="Use the parameter names of the function as the keys of reads=.",
        )
    return parameters


def _read(value: object, name: str, location: Location) -> Read:
    if isinstance(value, Read):
        return value
    if isinstance(value, Dataset):
        return Read(value)
    raise DefinitionError(
        f"{location}: task {name!r} reads {value!r}, which is not a Dataset.",
        hint="List datasets in reads=, or wrap one: all_of(dataset), window(dataset, before=6).",
    )
