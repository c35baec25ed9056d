"""Names, values and files as SQL text that cannot be mistaken for SQL."""

from collections.abc import Sequence

Literal = str | int | float | bool


def identifier(name: str) -> str:
    """Return a column's name, quoted."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string literal."""
    return "'" + value.replace("'", "''") + "'"


def literal(value: Literal) -> str:
    """Return a literal of the value's own type."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            return str(value)
        case float():
            return f"CAST({text(repr(value))} AS DOUBLE)"
        case str():
            return text(value)


def parquet(paths: Sequence[str], *, filename: str | None = None) -> str:
    """Return a table function over Parquet files, unified by column name.

    Characters that DuckDB would take for a pattern are escaped, and directories called ``a=b`` add no
    columns. ``filename`` names a column that holds the path of each row's file.
    """
    files = ", ".join(text(unpatterned(path)) for path in paths)
    extra = f", filename={text(filename)}" if filename is not None else ""
    return f"read_parquet([{files}], union_by_name=true, hive_partitioning=false{extra})"


def unpatterned(path: str) -> str:
    """Return a path in which nothing is taken for a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
