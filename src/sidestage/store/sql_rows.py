"""Between rows and records.

Digests are kept as JSON arrays without field names: a catalog holds hundreds of thousands of them, most of
one shape. A later field is appended with a default, which older rows then take.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, starmap
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row

from sidestage.data.check import Finding
from sidestage.data.version import Column, ColumnDigest, Digest, InputVersion, Stored, Version
from sidestage.store.records import Attempt, CodeChange, ComparisonRecord, Environment, Move, Run, Step

T = TypeVar("T")

AT_ONCE = 500
"""How many values go into one IN list: well below every database's limit of parameters."""


_digest_decoder = msgspec.json.Decoder(tuple[str, int, str, tuple[tuple[Any, ...], ...]])
_columns_decoder = msgspec.json.Decoder(tuple[tuple[str, str], ...])
_inputs_decoder = msgspec.json.Decoder(tuple[tuple[str, str, str], ...])
_findings_decoder = msgspec.json.Decoder(tuple[Finding, ...])
_code_decoder = msgspec.json.Decoder(tuple[CodeChange, ...])


def batches(items: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """Yield the items in lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def as_json(value: Any) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


def version_row(version: Version, run: int, task: str) -> dict[str, Any]:
    """Return the row of a version that ``task`` made in ``run``."""
    stored, digest = version.stored, version.stored.digest
    figures = tuple((c.name, c.type, c.nulls, c.hash, c.min, c.max) for c in digest.columns)
    same = [(c.name, c.type) for c in stored.schema] == [each[:2] for each in figures]
    return {
        "id": version.id,
        "dataset": version.dataset,
        "partition": version.partition,
        "environment": version.environment,
        "run": run,
        "step": version.step,
        "task": task,
        "code": version.code,
        "path": stored.path,
        "bytes": stored.bytes,
        "checksum": stored.checksum,
        "columns": None if same else as_json([(c.name, c.type) for c in stored.schema]),
        "digest": as_json((digest.algorithm, digest.rows, digest.content, figures)),
        "inputs": as_json([(i.dataset, i.partition, i.version) for i in version.inputs]),
        "created_at": version.created_at,
        "seconds": version.seconds,
        "value": stored.value,
    }


def version_of(row: Row[Any]) -> Version:
    """Return the version that a row of the whole table holds."""
    # In the order of the table's columns: asking a row for each by name takes as long as all the rest.
    values: tuple[Any, ...] = tuple(row)
    id_, dataset, partition, environment, run, step, _task, code, path, size, checksum, *values_left = values
    columns, digest, inputs, created_at, seconds, _gone, value = values_left
    algorithm, rows, content, figures = _digest_decoder.decode(digest)
    pairs = (each[:2] for each in figures) if columns is None else _columns_decoder.decode(columns)
    kept = Digest(algorithm, rows, content, tuple(starmap(ColumnDigest, figures)))
    return Version(
        id=id_,
        dataset=dataset,
        partition=partition,
        stored=Stored(path, size, checksum, tuple(starmap(Column, pairs)), kept, value),
        environment=environment,
        run=str(run),
        step=step,
        code=code,
        inputs=tuple(starmap(InputVersion, _inputs_decoder.decode(inputs))),
        created_at=created_at,
        seconds=seconds,
    )


def environment_of(row: Row[Any]) -> Environment:
    """Return the environment that a row holds."""
    return Environment(row.name, row.base, row.code, row.state, row.created_at)


def run_of(row: Row[Any], plan: str) -> Run:
    """Return the run that a row holds, with the given plan."""
    return Run(
        row.id,
        row.pipeline,
        row.environment,
        row.state,
        row.code,
        row.by,
        row.reason,
        plan,
        row.created_at,
        row.ended_at,
        row.driver,
    )


def step_of(row: Row[Any]) -> Step:
    """Return the step that a row holds."""
    return Step(
        row.run,
        row.id,
        row.task,
        row.dataset,
        row.partition,
        row.state,
        row.attempt,
        row.fence,
        row.owner,
        row.version,
        row.failure_class,
        row.message,
        row.seconds,
        row.queue,
        row.pool,
        row.slots,
        row.ready_at,
    )


def attempt_of(row: Row[Any]) -> Attempt:
    """Return the attempt that a row, with its step's id, holds."""
    return Attempt(
        row.run,
        row.id,
        row.number,
        row.owner,
        row.state,
        row.started_at,
        row.ended_at,
        row.failure_class,
        row.message,
        row.details,
        findings_of(row.findings),
        row.isolation or "",
    )


def findings_json(findings: Sequence[Finding]) -> str | None:
    """Return findings as JSON text, or None if there are none."""
    return as_json(findings) if findings else None


def findings_of(text: str | None) -> tuple[Finding, ...]:
    """Return the findings that ``findings_json`` wrote."""
    return _findings_decoder.decode(text) if text else ()


def move_of(row: Row[Any]) -> Move:
    """Return the move that a row holds, without its pointer changes."""
    return Move(
        id=row.id,
        kind=row.kind,
        environment=row.environment,
        at=row.at,
        by=row.by,
        reason=row.reason,
        source=row.source,
        pointers=row.pointers,
        undone_by=row.undone_by,
        undoes=row.undoes,
        code=_code_decoder.decode(row.code),
        old_code_name=row.old_code_name,
        new_code_name=row.new_code_name,
    )


def comparison_of(row: Row[Any]) -> ComparisonRecord:
    """Return the comparison that a row holds."""
    return ComparisonRecord(
        row.id,
        row.environment,
        row.base,
        row.at,
        row.passed,
        row.verdict,
        row.world,
        row.summary,
        row.report,
    )
