"""Answer all checks of one version: from its digest where that is enough, the rest in one scan."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from sidestage.checks.ready import AnyCheck
from sidestage.checks.sql import parquet, unpatterned
from sidestage.data.check import Finding
from sidestage.data.version import Digest
from sidestage.errors import DataError


def audit(
    path: Path,
    digest: Digest,
    checks: Sequence[AnyCheck],
    connection: duckdb.DuckDBPyConnection | None = None,
) -> tuple[Finding, ...]:
    """Return one finding per check, in the order of the checks.

    ``path`` is the version's Parquet file; it is opened only if a check cannot be answered by the digest.
    A check whose SQL fails is a failed, blocking finding. Without a ``connection`` one is opened that can
    read this file and nothing else. Raises DataError if the file cannot be read.
    """
    answered = [check.from_digest(digest) for check in checks]
    open_checks = [check for check, finding in zip(checks, answered, strict=True) if finding is None]
    if not open_checks:
        return tuple(finding for finding in answered if finding is not None)
    if connection is not None:
        read = iter(_scan(connection, path, open_checks))
    else:
        with _confined(path) as own:
            read = iter(_scan(own, path, open_checks))
    return tuple(finding if finding is not None else next(read) for finding in answered)


def _confined(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a database in memory that may read one file: a check never looks at anything else."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET allowed_paths = $1", [[str(path), unpatterned(str(path))]])
    connection.execute("SET enable_external_access = false")
    return connection


def _scan(connection: duckdb.DuckDBPyConnection, path: Path, checks: Sequence[AnyCheck]) -> list[Finding]:
    try:
        return _ask(connection, path, checks)
    except duckdb.Error:
        # One bad expression spoils the whole query: ask one by one, to name the one that is wrong.
        _require_readable(connection, path)
        return [_ask_alone(connection, path, check) for check in checks]


def _ask(connection: duckdb.DuckDBPyConnection, path: Path, checks: Sequence[AnyCheck]) -> list[Finding]:
    asked = [check.aggregates() for check in checks]
    expressions = [expression for expressions in asked for expression in expressions]
    relation = parquet([str(path)])
    query = f"WITH data AS (SELECT * FROM {relation}) SELECT {', '.join(expressions)} FROM data"  # noqa: S608
    row = connection.execute(query).fetchone()
    assert row is not None
    values = iter(row)
    return [
        check.judge(tuple(next(values) for _ in expressions))
        for check, expressions in zip(checks, asked, strict=True)
    ]


def _ask_alone(connection: duckdb.DuckDBPyConnection, path: Path, check: AnyCheck) -> Finding:
    try:
        return _ask(connection, path, [check])[0]
    except duckdb.Error as error:
        message = f"The check could not be answered: {str(error).splitlines()[0]}"
        return Finding(check.name, passed=False, blocking=True, message=message, observed="SQL error")


def _require_readable(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    try:
        connection.execute(f"SELECT * FROM {parquet([str(path)])} LIMIT 0")  # noqa: S608
    except duckdb.Error as error:
        raise DataError(
            f"Cannot read {path}: {str(error).splitlines()[0]}", hint="Run the step that makes it again."
        ) from error
