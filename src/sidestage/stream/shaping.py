"""What a user writes to change the shape of a stream: columns and rows, ways that part, ways that join."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    TypedDict,
    TypeGuard,
    TypeVar,
    Unpack,
    get_args,
    overload,
)

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.retry import Retry
from sidestage.stream.columns.frames import rows_of
from sidestage.stream.demands import require_library, require_one_of
from sidestage.stream.failing import DeadLetter, Default, OnError, SetAside
from sidestage.stream.joins.joining import Joining
from sidestage.stream.nodes import (
    BatchNode,
    FlatMapNode,
    KeyNode,
    Manner,
    MergeNode,
    Place,
    SourceNode,
    name_of,
)
from sidestage.stream.routing import two_ways
from sidestage.stream.shape_nodes import (
    FAILED,
    BatchMapNode,
    GatherNode,
    Library,
    RouteNode,
    SideNode,
    port_to,
)

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from sidestage.stream.stream import Stream

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
N = TypeVar("N", bound=str)
T_co = TypeVar("T_co", covariant=True)

_NEVER_FAIL = (SourceNode, MergeNode, BatchNode, KeyNode, SideNode)


class BatchSize(msgspec.Struct, frozen=True, kw_only=True):
    """How large the tables or lists are that a stage gets.

    At most ``rows``, and at most ``bytes`` of columns (but at least one row); smaller when the first row is
    ``within`` seconds old, and at the end. Without either, tables are as they come.

    Raises DefinitionError for what makes no sense.
    """

    rows: int | None = None
    bytes: int | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        counts = [each for each in (self.rows, self.bytes) if each is not None]
        if any(each < 1 for each in counts) or not (self.within is None or self.within > 0):
            raise DefinitionError(
                f"{self} makes no sense.",
                hint="rows and bytes are counted, within is seconds; all are greater than 0.",
            )
        if self.within is not None and not counts:
            raise DefinitionError(f"{self} says no size.", hint="Give rows or bytes: without, nothing waits.")


class BatchTerms(TypedDict, total=False):
    """How ``map_batches`` does its work: as for ``map``, with a table or list for an item.

    With ``on="process"`` tables go to a process and come back. One may take ``timeout`` seconds; in a thread
    the time of the call counts, not that of an iterator that it returns.
    """

    name: str
    workers: int | None
    on_error: OnError | None
    retry: Retry | None
    on: Place
    timeout: float | None


class Routes(Mapping[N, "Stream[T]"], Generic[N, T]):
    """The ways that items take, by name: each item is on one of them."""

    __slots__ = ("_ways",)

    def __init__(self, ways: "Mapping[N, Stream[T]]") -> None:
        self._ways = ways

    def __getitem__(self, name: N) -> "Stream[T]":
        return self._ways[name]

    def __iter__(self) -> Iterator[N]:
        return iter(self._ways)

    def __len__(self) -> int:
        return len(self._ways)


class Shaping(Joining[T_co]):
    """The methods of a stream that change its shape."""

    __slots__ = ()

    @overload
    def tables(
        self,
        size: int | BatchSize | None = None,
        *,
        of: Literal["arrow"] = "arrow",
        schema: "pa.Schema | None" = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[pa.Table]": ...
    @overload
    def tables(
        self,
        size: int | BatchSize | None = None,
        *,
        of: Literal["polars"],
        schema: "pa.Schema | None" = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[pl.DataFrame]": ...
    def tables(
        self,
        size: int | BatchSize | None = None,
        *,
        of: Library = "arrow",
        schema: "pa.Schema | None" = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[Any]":
        """Make tables of ``size`` rows, of rows or of tables of other sizes.

        Rows are mappings, structs, named tuples or dataclasses. A ``schema`` says which columns there are and
        of which types; without one they are what pyarrow sees in the values, and where types change so that
        no column can hold both a table ends early. What is no row is an error of this stage. Keys end here.
        """
        require_one_of("tables(of)", of, get_args(Library))
        require_library(of)
        if isinstance(on_error, Default):
            raise DefinitionError(
                "tables() has no default to put in place of a row.", hint="Skip it, or set it aside."
            )
        wanted = size if isinstance(size, BatchSize) else BatchSize(rows=size)
        return self._then(
            GatherNode(
                name or "tables",
                (self.node,),
                Manner(on_error=on_error),
                size=wanted.rows,
                most_bytes=wanted.bytes,
                within=wanted.within,
                library=of,
                schema=schema,
            )
        )

    def rows(self, *, name: str = "", workers: int | None = None) -> "Stream[dict[str, Any]]":
        """Make a dict of each row of each table. An item that is no table is an error of this stage."""
        return self._then(FlatMapNode(name or "rows", (self.node,), Manner(workers), function=rows_of))

    @overload
    def map_batches(
        self,
        function: "Callable[[pl.DataFrame], pl.DataFrame]",
        size: int | BatchSize | None = None,
        *,
        of: Literal["polars"],
        splittable: bool = False,
        **terms: Unpack[BatchTerms],
    ) -> "Stream[pl.DataFrame]": ...
    @overload
    def map_batches(
        self,
        function: "Callable[[pl.DataFrame], list[R] | tuple[R, ...] | Iterator[R]]",
        size: int | BatchSize | None = None,
        *,
        of: Literal["polars"],
        splittable: bool = False,
        **terms: Unpack[BatchTerms],
    ) -> "Stream[R]": ...
    @overload
    def map_batches(
        self,
        function: "Callable[[list[T_co]], list[R] | tuple[R, ...] | Iterator[R]]",
        size: int | BatchSize,
        *,
        of: Literal["list"],
        splittable: bool = False,
        **terms: Unpack[BatchTerms],
    ) -> "Stream[R]": ...
    @overload
    def map_batches(
        self,
        function: "Callable[[pa.Table], Any]",
        size: int | BatchSize | None = None,
        *,
        of: Literal["arrow"] = "arrow",
        splittable: bool = False,
        **terms: Unpack[BatchTerms],
    ) -> "Stream[Any]": ...
    def map_batches(
        self,
        function: Callable[..., Any],
        size: int | BatchSize | None = None,
        *,
        of: Library | Literal["list"] = "arrow",
        splittable: bool = False,
        **terms: Unpack[BatchTerms],
    ) -> "Stream[Any]":
        """Give a function tables, or lists, of ``size`` rows; go on with the tables or items it returns.

        It returns one table, or a list or an iterator of tables or of items. What comes are rows or tables,
        as for ``tables``, which see for schemas. If it raises, the whole table is decided about; a function
        that looks at rows singly may be ``splittable``: then only its bad rows are. ``name``,
        ``workers``, ``on_error``, ``retry``, ``on`` and ``timeout`` are as for map, with a table for an item.
        """
        manner, name = _batch_manner(**terms)
        wanted = size if isinstance(size, BatchSize) else BatchSize(rows=size)
        require_one_of("map_batches(of)", of, (*get_args(Library), "list"))
        before: Stream[Any]
        if of != "list":
            kept = None if isinstance(manner.on_error, Default) else manner.on_error
            before = self.tables(wanted, of=of, on_error=kept)
        elif wanted.rows is None or wanted.bytes is not None:
            raise DefinitionError(
                'map_batches(of="list") needs a size in items.', hint="Give it one, or take tables."
            )
        else:
            before = self._then(BatchNode("batch", (self.node,), size=wanted.rows, within=wanted.within))
        node_name = name or name_of(function, "map_batches")
        return self._then(
            BatchMapNode(node_name, (before.node,), manner, function=function, splittable=splittable)
        )

    def route(
        self,
        function: Callable[[T_co], N],
        names: Iterable[N],
        *,
        name: str = "",
        on_error: OnError | None = None,
    ) -> "Routes[N, T_co]":
        """Give each item to one of several streams: to the one whose name ``function`` returns.

        It is called once for each item. What goes to a stream that leads to no sink has been dealt with.
        """
        ways = tuple(dict.fromkeys(names))
        if not ways:
            raise DefinitionError("route() has no ways.", hint="Name those that the function can return.")
        node = RouteNode(
            name or name_of(function, "route"),
            (self.node,),
            Manner(on_error=on_error),
            function=function,
            names=ways,
        )
        return Routes({way: self._then(SideNode(way, (node,), port=port_to(way))) for way in ways})

    @overload
    def split(
        self, function: Callable[[T_co], TypeGuard[R]], *, name: str = "", on_error: OnError | None = None
    ) -> "tuple[Stream[R], Stream[T_co]]": ...
    @overload
    def split(
        self, function: Callable[[T_co], object], *, name: str = "", on_error: OnError | None = None
    ) -> "tuple[Stream[T_co], Stream[T_co]]": ...
    def split(
        self, function: Callable[[Any], object], *, name: str = "", on_error: OnError | None = None
    ) -> "tuple[Stream[Any], Stream[Any]]":
        """Part the items for which ``function`` returns something true from all others."""
        ways = self.route(
            two_ways(function), ("yes", "no"), name=name or name_of(function, "split"), on_error=on_error
        )
        return ways["yes"], ways["no"]

    def failures(self, *, name: str = "") -> "Stream[DeadLetter]":
        """Return what the last stage sets aside as a stream, in place of the dead letters of the run.

        The stage sets aside what it fails on as soon as this leads to a sink. Raises DefinitionError for a
        stage that calls no function, or says something else about what it fails on.
        """
        node = self.node
        if isinstance(node, _NEVER_FAIL) or not isinstance(node.manner.on_error, SetAside | None):
            raise DefinitionError(
                f"{node.name!r} sets nothing aside.",
                hint="Call failures() right after a stage with a function, with SetAside() or no on_error.",
            )
        sides = [self._then(SideNode(name or f"{node.name} failed", (node,), port=FAILED))]
        gathered = node.before[0] if isinstance(node, BatchMapNode) else None
        if isinstance(gathered, GatherNode):
            sides.append(self._then(SideNode(f"{gathered.name} failed", (gathered,), port=FAILED)))
        return sides[0] if len(sides) == 1 else sides[0].merge(*sides[1:])


def _batch_manner(
    *,
    name: str = "",
    workers: int | None = None,
    on_error: OnError | None = None,
    retry: Retry | None = None,
    on: Place = "thread",
    timeout: float | None = None,
) -> tuple[Manner, str]:
    return Manner(workers, on_error=on_error, retry=retry, on=on, timeout=timeout), name
