"""What a user writes: a stream, from its source to its sinks. Nothing happens until it is run."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast, overload

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Breaker
from sidestage.policy.rate import Rate
from sidestage.policy.retry import Retry
from sidestage.policy.surge import Surge
from sidestage.stream.contract import Sink, Source
from sidestage.stream.demands import is_count, require_function, require_sink
from sidestage.stream.failing import OnError
from sidestage.stream.flow import Flow
from sidestage.stream.guarding.guard import Guard
from sidestage.stream.keys.spill import Spill
from sidestage.stream.lookups.cache import Cache, Found
from sidestage.stream.nodes import (
    BatchNode,
    FilterNode,
    FlatMapNode,
    KeyNode,
    LimitNode,
    LookupNode,
    Manner,
    MapNode,
    MergeNode,
    Node,
    Place,
    RevocableNode,
    SinkNode,
    WindowNode,
    name_of,
)
from sidestage.stream.places.asynchronous import AsyncHandOver
from sidestage.stream.places.entrance import way_in
from sidestage.stream.places.iteration import HandOver
from sidestage.stream.places.sources import source_of
from sidestage.stream.shape_nodes import LATE, SideNode
from sidestage.stream.shaping import Shaping
from sidestage.stream.windows.plan import EarlyItem, LateItem, Windowed, WindowPlan

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
L = TypeVar("L")
T_co = TypeVar("T_co", covariant=True)


class Stream(Shaping[T_co]):
    """Items on their way through stages. Immutable: every method returns a new description.

    ``source`` is anything that can be iterated over, or a ``Source``. Used twice, a stream gives all its
    items to both. ``trace`` returns the W3C ``traceparent`` that an item came with, if any: the spans of a
    traced chunk then link to it. ``size`` says how many bytes an item takes at most on its way, where that is
    not what it seems to take: the pixels of a compressed image. It is asked only if
    ``Settings(memory=...)`` is given.

    >>> list(Stream([1, 2, 3]).map(lambda n: n * n).filter(lambda n: n > 1))
    [4, 9]
    """

    __slots__ = ("node",)

    def __init__(
        self,
        source: Source[T_co] | Iterable[T_co] | AsyncIterable[T_co],
        *,
        name: str = "",
        trace: Callable[[T_co], str | None] | None = None,
        size: Callable[[T_co], float] | None = None,
    ) -> None:
        self.node: Node = way_in(source_of(source, name), trace, size)

    @overload
    def map(
        self,
        function: Callable[[T_co], Awaitable[R]],
        *,
        name: str = "",
        workers: int | None = None,
        ordered: bool = True,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        on: Place = "thread",
        timeout: float | None = None,
    ) -> "Stream[R]": ...
    @overload
    def map(
        self,
        function: Callable[[T_co], R],
        *,
        name: str = "",
        workers: int | None = None,
        ordered: bool = True,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        on: Place = "thread",
        timeout: float | None = None,
    ) -> "Stream[R]": ...
    def map(
        self,
        function: Callable[[T_co], Any],
        *,
        name: str = "",
        workers: int | None = None,
        ordered: bool = True,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        on: Place = "thread",
        timeout: float | None = None,
    ) -> "Stream[Any]":
        """Make one item of each.

        A coroutine function may be at work on as many at once as ``workers``. With ``on="process"`` each
        worker is a process. An item may take ``timeout`` seconds; a call in a thread that takes longer is
        written off, with its thread, of which no more than eight may be lost.
        """
        manner = Manner(workers, ordered, on_error, retry, on, timeout)
        return self._then(MapNode(name or name_of(function, "map"), (self.node,), manner, function=function))

    def filter(
        self,
        function: Callable[[T_co], object],
        *,
        name: str = "",
        workers: int | None = None,
        ordered: bool = True,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        on: Place = "thread",
        timeout: float | None = None,
    ) -> "Stream[T_co]":
        """Keep the items for which ``function`` returns something true; ``on``, ``timeout``: as for map."""
        manner = Manner(workers, ordered, on_error, retry, on, timeout)
        return self._then(
            FilterNode(name or name_of(function, "filter"), (self.node,), manner, function=function)
        )

    def flat_map(
        self,
        function: Callable[[T_co], Iterable[R]],
        *,
        name: str = "",
        workers: int | None = None,
        ordered: bool = True,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        on: Place = "thread",
        timeout: float | None = None,
    ) -> "Stream[R]":
        """Make any number of items of each.

        ``on`` and ``timeout`` are as for map. A process makes all of an item's before any goes on, and the
        time of that counts; in a thread, only the time of the call that returns them.
        """
        manner = Manner(workers, ordered, on_error, retry, on, timeout)
        return self._then(
            FlatMapNode(name or name_of(function, "map"), (self.node,), manner, function=function)
        )

    def look_up(
        self,
        key: Callable[[T_co], K],
        function: Callable[..., Any],
        put: Callable[[T_co, Found[Any]], R],
        *,
        cache: Cache | None = None,
        many: bool = False,
        name: str = "",
        manner: Manner | None = None,
    ) -> "Stream[R]":
        """Ask ``function`` for the key of each item, remember that, and ``put`` item and answer together.

        The function returns a value, None for an unknown key, or raises. With ``many`` it is given all keys
        of a chunk that are not remembered, and returns a mapping. While it fails, the last known value is
        given, marked as stale, within the cache's failure budget. All workers share what is remembered.
        """
        node = LookupNode(
            name or name_of(function, "look_up"),
            (self.node,),
            manner or Manner(),
            key=key,
            function=function,
            put=put,
            cache=cache or Cache(),
            many=many,
        )
        return self._then(node)

    def guarded(self, guard: Guard | None = None, *, surge: Surge | None = None) -> "Stream[T_co]":
        """Put a guard before what the last stage calls, and say which errors are too many there.

        The stage is a map, filter, flat_map, map_batches or look_up. With a breaker, failures of what it
        calls are waited out, and all behind waits, instead of being tried again or set aside; a lookup gives
        what it has instead. This is a new stage in place of the last: use what is returned, not both.
        """
        node = self.node
        manner = replace(node.manner, guard=guard or node.manner.guard, surge=surge or node.manner.surge)
        return self._then(replace(node, manner=manner))

    def revocable(
        self,
        by: Callable[[T_co], object],
        *,
        clean_up: Callable[[T_co], object] | None = None,
        keep: float = 3600.0,
        most: int = 10_000,
        name: str = "",
        on_error: OnError | None = None,
        retry: Retry | None = None,
    ) -> "Stream[T_co]":
        """Have items that can be taken back from here on: ``engine.revoke(key)``, of what ``by`` gives.

        A revoked item is taken out before the next work on it begins. A coroutine at work on it is cancelled,
        a process is ended; a thread finishes its call, of which nothing comes. Then ``clean_up`` is called
        with the item as it was here, once. It counts as dealt with. Items go one by one from here on, which
        costs microseconds each, and are beyond being revoked once they are put together or given to a sink.
        A revocation holds for ``keep`` seconds, for items that come later, and at most ``most`` are kept.
        """
        if not (keep > 0 and most >= 1):
            raise DefinitionError(
                f"revocable(keep={keep}, most={most}) makes no sense.",
                hint="Revocations are kept for seconds above 0, and at least one of them.",
            )
        manner = Manner(on_error=on_error, retry=retry)
        node = RevocableNode(
            name or "revocable", (self.node,), manner, by=by, clean_up=clean_up, keep=keep, most=most
        )
        return self._then(node)

    def by_key(
        self,
        key: Callable[[T_co], object],
        *,
        into: int = 16,
        name: str = "",
        on_error: OnError | None = None,
        spill: Spill | None = None,
    ) -> "Stream[T_co]":
        """Keep items of one key in order from here on, while up to ``into`` workers share the keys.

        Keys wait in ``into`` lines, each of which one worker at a time works on: a key that takes long holds
        up those in its line. With ``spill`` what there is no room for is put aside while workers are idle.
        Keys must be hashable; an item whose key is not is an error of this stage.
        """
        require_function("by_key", key)
        if not is_count(into):
            raise DefinitionError(f"Keys cannot be shared among {into}.", hint="Give into=1 or more.")
        manner = Manner(on_error=on_error)
        return self._then(KeyNode(name or "by_key", (self.node,), manner, key=key, into=into, spill=spill))

    def limit(
        self,
        rate: Rate,
        *,
        by: Callable[[T_co], object] | None = None,
        held: int = 10_000,
        name: str = "",
        on_error: OnError | None = None,
    ) -> "Stream[T_co]":
        """Let items pass at a rate: all of them together, or with ``by`` those of each key.

        What must wait makes all behind it wait, up to the source; with ``by`` it is held back, in order by
        key, and other keys pass it, until more than ``held`` items are. Nothing is dropped: what is under
        way at the end still passes at its rate. Where checkpoints wait until nothing is under way (windows,
        transactional sinks), all behind waits also while an item would be held for more than ten seconds.
        """
        if held < 1:
            raise DefinitionError(f"A limit cannot hold {held} items.", hint="Give held=1 or more.")
        manner = Manner(on_error=on_error)
        return self._then(LimitNode(name or "limit", (self.node,), manner, rate=rate, by=by, held=held))

    def batch(self, size: int, *, within: float | None = None, name: str = "") -> "Stream[list[T_co]]":
        """Put ``size`` items together; fewer when the first is ``within`` seconds old, and at the end."""
        if not is_count(size) or not (within is None or within > 0):
            raise DefinitionError(
                f"batch(size={size}, within={within}) makes no sense.",
                hint="size counts items and within seconds, both greater than 0.",
            )
        return self._then(BatchNode(name or "batch", (self.node,), size=size, within=within))

    def window(
        self, plan: WindowPlan, *, beside: Sink[LateItem | EarlyItem] | None = None, name: str = ""
    ) -> "LateStream[Windowed[Any, Any], LateItem | EarlyItem]":
        """Put items together by key and time, and give out the results of windows as they close.

        ``beside`` is written the items that came too late or too early to count; they are also the items of
        the stream ``late`` of what this returns. Without either they are lost.
        What is open survives the process only with a checkpoint.
        """
        node = WindowNode(name or "window", (self.node,), plan=plan, beside=beside)
        return self._with_late(node)

    def merge(self, *others: "Stream[T]", name: str = "") -> "Stream[T_co | T]":
        """Put items of several streams on one way, as they come. Keys end here, also without others."""
        nodes = (self.node, *(other.node for other in others))
        return self._then(MergeNode(name or "merge", nodes))

    def to(
        self,
        sink: Sink[T_co],
        *,
        name: str = "",
        workers: int | None = None,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        timeout: float | None = None,
    ) -> Flow:
        """Have all items written somewhere: what can be run.

        With a ``breaker`` failures of the place are waited out, instead of being tried again or set aside.
        A call that takes more than ``timeout`` seconds has failed; its writer is given up, and another one
        opened, so that what it was writing may be there twice.
        """
        require_sink(sink)
        manner = Manner(workers, ordered=True, on_error=on_error, retry=retry, timeout=timeout)
        return Flow((SinkNode(name or sink.name, (self.node,), manner, sink=sink, breaker=breaker),))

    def __iter__(self) -> Iterator[T_co]:
        """Run it, and yield what comes out. A chunk counts as written when the item after it is asked for.

        Raises as ``Flow.run`` does. Whoever does not go on to the end closes the iterator, or leaves it to be
        collected: the stream is cancelled.
        """
        sink = HandOver()
        engine = self.to(cast("Sink[T_co]", sink)).engine()
        return sink.iterate(engine)

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Run it, and yield what comes out, to coroutines, without blocking their event loop.

        All else is as for ``__iter__``; whoever does not go on to the end calls ``aclose``.
        """
        sink = AsyncHandOver()
        return sink.iterate(self.to(cast("Sink[T_co]", sink)).engine())

    def _with_late(self, node: Node) -> "LateStream[Any, Any]":
        stream: LateStream[Any, Any] = object.__new__(LateStream)
        stream.node = node
        return stream

    def _then(self, node: Node) -> "Stream[Any]":
        stream: Stream[Any] = object.__new__(Stream)
        stream.node = node
        return stream

    def __repr__(self) -> str:
        return f"Stream({self.node.name!r})"


class LateStream(Stream[T_co], Generic[T_co, L]):
    """Results of a stage that cannot use what comes too late; ``late`` is a stream of that."""

    __slots__ = ()

    @property
    def late(self) -> "Stream[L]":
        """What came too late, or too early."""
        return self._then(SideNode(f"{self.node.name} late", (self.node,), port=LATE))
