"""SQL tables as sinks of a stream. PostgreSQL and SQLite; nothing is loaded here before a sink is opened.

Items are mappings from column to value, or sequences of values in the order of ``columns``.
"""

from typing import TYPE_CHECKING

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.contract import Progress

if TYPE_CHECKING:
    from sidestage.connectors.sql_transactions import SqlTransactionalWriter
    from sidestage.connectors.sql_writer import SqlWriter


class SqlTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table that rows are written to, each list of them in a transaction of its own.

    ``url`` is such as ``postgresql://user@host/name`` (which needs the extra ``postgres``) or
    ``sqlite:///path``. With a ``key``, on which the table must have a primary key or a unique constraint, a
    row replaces the one with the same key: writing it again makes no difference. Without one rows are added,
    and those that are written again after a failure are there twice. ``columns`` are those that are written;
    all that are not generated, if none are named. A statement may take ``timeout`` seconds.
    """

    url: str
    table: str
    key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.key, str) or isinstance(self.columns, str) or not self.table:
            raise DefinitionError(
                "An SQL table needs a name, and tuples of columns.", hint='Say table="orders", key=("id",).'
            )
        if self.columns and not set(self.key) <= set(self.columns):
            raise DefinitionError(
                f"The columns of {self.name} do not have its key {', '.join(self.key)}.",
                hint="Add the key's columns.",
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"  # the URL may hold a password

    @property
    def name(self) -> str:
        """What people call it."""
        return f"sql:{self.table}"

    def open(self) -> "SqlWriter":
        """Connect, and look at the table. Raises ConnectorError, and DefinitionError if it does not fit."""
        from sidestage.connectors.sql_writer import SqlWriter  # noqa: PLC0415 - slow to import

        return SqlWriter(self)


class SqlTransactionalTable(SqlTable, frozen=True, kw_only=True):
    """A table that rows are written to in transactions that also keep how far the stream has come.

    So each item has its effect in the table exactly once, with a key and without. ``stream`` names what is
    kept, in the table ``sidestage_stream_progress`` beside this one, which is made if it is not there.
    Opening it ends whoever wrote under this name before. Opening waits for ``patience`` seconds for a server
    that is away.
    """

    stream: str
    patience: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stream:
            raise DefinitionError(f"{self.name} needs the name of its stream.", hint='Say stream="orders".')

    def open(self) -> "SqlTransactionalWriter":
        """Connect, and fence off whoever wrote before. Raises ConnectorError, DefinitionError."""
        from sidestage.connectors.sql_transactions import (  # noqa: PLC0415 - slow to import
            SqlTransactionalWriter,
        )

        return SqlTransactionalWriter(self)

    def progress(self) -> Progress:
        """Return what was committed last; with number 0 if nothing was. Raises ConnectorError.

        Waits, for a few seconds, for a commit that is under way.
        """
        from sidestage.connectors.sql_progress import read_progress  # noqa: PLC0415 - slow to import

        return read_progress(self)
