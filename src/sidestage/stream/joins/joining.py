"""What a user writes to join a stream with a table, or with another stream."""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, overload

from sidestage.stream.demands import require_one_of
from sidestage.stream.failing import OnError
from sidestage.stream.joins.interval_nodes import At, joined
from sidestage.stream.joins.interval_plan import Unjoined, Waiting
from sidestage.stream.joins.side_tables import SideTable
from sidestage.stream.nodes import Manner, Node
from sidestage.stream.shape_nodes import How, TableJoinNode
from sidestage.stream.windows.watermarks import EventTime

if TYPE_CHECKING:
    from sidestage.stream.stream import LateStream, Stream

R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
T_co = TypeVar("T_co", covariant=True)


class Joining(Generic[T_co]):
    """The methods of a stream that join it with something else."""

    __slots__ = ()
    node: Node

    def _then(self, node: Node) -> "Stream[Any]":
        raise NotImplementedError

    def _with_late(self, node: Node) -> "LateStream[Any, Any]":
        raise NotImplementedError

    @overload
    def join_table(
        self,
        table: SideTable[K, V] | Mapping[K, V],
        key: Callable[[T_co], K],
        put: Callable[[T_co, V], R],
        *,
        how: Literal["inner"] = "inner",
        workers: int | None = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[R]": ...
    @overload
    def join_table(
        self,
        table: SideTable[K, V] | Mapping[K, V],
        key: Callable[[T_co], K],
        put: Callable[[T_co, V | None], R],
        *,
        how: Literal["left"],
        workers: int | None = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[R]": ...
    def join_table(
        self,
        table: SideTable[Any, Any] | Mapping[Any, Any],
        key: Callable[[T_co], Any],
        put: Callable[[T_co, Any], R],
        *,
        how: How = "inner",
        workers: int | None = None,
        on_error: OnError | None = None,
        name: str = "",
    ) -> "Stream[R]":
        """Put each item together with the row of its key in a table, which is kept in memory as a whole.

        An item without a row is left out (``inner``), or put together with None (``left``).
        """
        require_one_of("join_table(how)", how, get_args(How))
        node = TableJoinNode(
            name or "join_table",
            (self.node,),
            Manner(workers, on_error=on_error),
            key=key,
            put=put,
            table=table if isinstance(table, SideTable) else SideTable(table),
            how=how,
        )
        return self._then(node)

    @overload
    def join(
        self,
        right: "Stream[R]",
        *,
        on: tuple[Callable[[T_co], Hashable], Callable[[R], Hashable]],
        within: tuple[float, float],
        time: tuple[EventTime | At[T_co], EventTime | At[R]],
        how: Literal["inner"] = "inner",
        waiting: Waiting | None = None,
        manner: Manner | None = None,
        name: str = "",
    ) -> "LateStream[tuple[T_co, R], Unjoined]": ...
    @overload
    def join(
        self,
        right: "Stream[R]",
        *,
        on: tuple[Callable[[T_co], Hashable], Callable[[R], Hashable]],
        within: tuple[float, float],
        time: tuple[EventTime | At[T_co], EventTime | At[R]],
        how: Literal["left"],
        waiting: Waiting | None = None,
        manner: Manner | None = None,
        name: str = "",
    ) -> "LateStream[tuple[T_co, R | None], Unjoined]": ...
    def join(
        self,
        right: "Stream[Any]",
        *,
        on: tuple[Callable[[Any], Hashable], Callable[[Any], Hashable]],
        within: tuple[float, float],
        time: tuple[EventTime | At[Any], EventTime | At[Any]],
        how: How = "inner",
        waiting: Waiting | None = None,
        manner: Manner | None = None,
        name: str = "",
    ) -> "LateStream[Any, Any]":
        """Pair items of two streams that have one key, and times that lie near each other.

        ``on`` and ``time`` are of the left and the right. ``within=(before, after)``: the time of the right
        lies from ``before`` seconds before that of the left to ``after`` seconds after it. A left join gives
        out what found nothing, with None, as soon as nothing can come. What waits survives the process only
        with a checkpoint. What comes too late is in the stream ``late`` of what this returns, or is lost.
        """
        return self._with_late(
            joined(
                (self.node, right.node), on, within, time, how, waiting or Waiting(), manner or Manner(), name
            )
        )
