"""Rows of an SQL table as a source of a stream, read in pages in the order of their key.

A page is ``WHERE key > last ORDER BY key LIMIT n``: the index leads straight to it, however far one has come,
and nothing is held open between two pages. A position is the key of the last row, as JSON; a part is a range
of keys, so that several runs can share a table. Nothing is loaded here before a source is opened.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from sidestage.errors import DefinitionError
from sidestage.stream.contract import Positions

if TYPE_CHECKING:
    from sidestage.connectors.keyset_reader import KeysetReader

Key = tuple[Any, ...]


class KeyRange(msgspec.Struct, frozen=True):
    """The keys after one key, up to and including another; an end that is None is open.

    A key is a tuple with a value for each key column: ``KeyRange(after=(1000,), up_to=(2000,))``.
    """

    after: Key | None = None
    up_to: Key | None = None

    @property
    def name(self) -> str:
        """The part that the range is: ``after 1000 up to 2000``."""
        ends = (("after", self.after), ("up to", self.up_to))
        words = [f"{word} {', '.join(map(str, key))}" for word, key in ends if key is not None]
        return " ".join(words) or "all"


class KeysetPages(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table, or of a query, each as a dict by column. PostgreSQL and SQLite.

    ``url`` is such as ``postgresql://user@host/name`` (which needs the extra ``postgres``) or
    ``sqlite:///path``. ``key`` names the columns that rows are read in the order of; together they must be
    unique and never null. Of a table the catalog is asked whether they are; of a ``query`` you say so, and
    what shows the contrary is refused. ``columns`` are those to read, all by default.

    ``page`` counts rows. A statement may take ``timeout`` seconds, and a server may be away for ``patience``
    seconds. With ``follow`` the source does not end, but looks for new rows every ``every`` seconds. A row
    with a lower key may be committed after one with a higher key; so new rows are passed on only when they
    have been there for ``settle`` seconds, and, on PostgreSQL, all transactions have ended that had begun to
    write by then. Raises DefinitionError.
    """

    url: str
    key: tuple[str, ...]
    table: str = ""
    query: str = ""
    columns: tuple[str, ...] = ()
    ranges: tuple[KeyRange, ...] = (KeyRange(),)
    page: int = 10_000
    timeout: float = 60.0
    patience: float = 60.0
    follow: bool = False
    every: float = 1.0
    settle: float = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.key, str) or not self.key or bool(self.table) == bool(self.query):
            raise DefinitionError(
                "Pages of rows need a key, and either a table or a query.",
                hint='Say table="orders", key=("id",).',
            )
        if self.columns and not set(self.key) <= set(self.columns):
            raise DefinitionError(
                f"The columns of {self.name} do not have its key {', '.join(self.key)}.",
                hint="Add the key's columns: positions are made of them.",
            )
        widths = {len(end) for each in self.ranges for end in (each.after, each.up_to) if end is not None}
        names = {each.name for each in self.ranges}
        if widths - {len(self.key)} or not names or len(names) != len(self.ranges):
            raise DefinitionError(
                f"The ranges of {self.name} do not fit its key {', '.join(self.key)}.",
                hint="Each end is a tuple with a value for each column of the key; no range is there twice.",
            )
        times = (self.timeout, self.patience, self.every, self.settle)
        if self.page < 1 or not all(seconds >= 0 for seconds in times):
            raise DefinitionError(f"The settings of {self.name} make no sense.", hint="page counts rows.")

    def __repr__(self) -> str:
        return f"KeysetPages({self.name!r})"  # the URL may hold a password

    @property
    def name(self) -> str:
        """What people call it."""
        return f"sql:{self.table or 'query'}"

    def open(self, resume: Positions) -> "KeysetReader":
        """Begin to read each range, after the key in ``resume`` if there is one.

        Raises ConnectorError if the database cannot be reached or refuses us, DefinitionError if the key is
        not unique, may be null or is of a type that no position can be made of, and for a position that is
        none of this source.
        """
        from sidestage.connectors.keyset_reader import KeysetReader  # noqa: PLC0415 - slow to import

        return KeysetReader(self, resume)
