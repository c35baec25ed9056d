"""Items that can be taken back on their way: somebody revokes their key, and no work on them begins any more.

From a revocable stage on items move alone, each with a ticket of its own: a passage, which knows its key and
whether it is revoked. Whatever becomes of an item has its passage, so nothing else needs to know of keys.
Where items are put together, or given to a sink, they are beyond being revoked; the first step there says so.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Literal

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Listener
from sidestage.policy.news import News
from sidestage.stream.chunk import NOWHERE, Chunk, Ticket
from sidestage.stream.columns.frames import weight_of
from sidestage.stream.failing import Desk, shown
from sidestage.stream.layout import Layout
from sidestage.stream.life.phases import ItemRevoked
from sidestage.stream.nodes import (
    FilterNode,
    FlatMapNode,
    KeyNode,
    LimitNode,
    LookupNode,
    MapNode,
    MergeNode,
    Node,
    RevocableNode,
)
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step
from sidestage.stream.shape_nodes import RouteNode, SideNode, TableJoinNode

KEEP_ITEMS_APART = (
    MapNode,
    FilterNode,
    FlatMapNode,
    LookupNode,
    KeyNode,
    LimitNode,
    MergeNode,
    RouteNode,
    SideNode,
    TableJoinNode,
)
"""Stages that never put items of several chunks into one."""


class Revocation(msgspec.Struct, frozen=True):
    """What came of revoking a key.

    ``taken`` items under way are taken out, and not written. ``beyond`` are under way, too, and are written
    all the same: they were being written already, or had been put together with others. ``written`` says
    whether an item of this key was written lately. Items of the key that come later are taken out as well, as
    long as the revocation is kept.
    """

    taken: int
    beyond: int
    written: bool

    def __add__(self, other: "Revocation") -> "Revocation":
        return Revocation(self.taken + other.taken, self.beyond + other.beyond, self.written or other.written)


class Passage(Ticket):
    """The ticket of one item on its way: settled when nothing that came of it is under way any more."""

    __slots__ = ("_heeding", "_parents", "_stage", "item", "key", "state")

    def __init__(
        self, stage: "RevocableStage", key: Hashable, item: Any, parents: tuple[Ticket, ...]
    ) -> None:
        for name in Ticket.__slots__:  # all else that a ticket tells is its parent's
            setattr(self, name, getattr(parents[0], name, None))
        self.pending = 1
        self.key = key
        self.item = item
        self.state: Literal["moving", "revoked", "beyond"] = "moving"
        self._stage = stage
        self._parents = parents
        self._heeding: tuple[Callable[[], object], ...] = ()

    @property
    def is_revoked(self) -> bool:
        """Whether it is to be taken out."""
        return self.state == "revoked"

    @property
    def is_several(self) -> bool:
        """Whether nobody can say any more where the item came from."""
        return len(self._parents) > 1 or self._parents[0].is_several

    @property
    def parents(self) -> tuple[Ticket, ...]:
        """The tickets that it is a part of."""
        return self._parents

    def claim(self) -> bool:
        """Have it beyond being revoked; return whether it was not revoked before."""
        with self._stage.lock:
            if self.state == "moving":
                self.state = "beyond"
            return self.state == "beyond"

    @contextmanager
    def heeded_by(self, call: Callable[[], object]) -> Iterator[None]:
        """Have something called if it is revoked meanwhile, or is already."""
        with self._stage.lock:
            self._heeding += (call,)
            is_revoked = self.is_revoked
        if is_revoked:
            call()
        try:
            yield
        finally:
            with self._stage.lock:
                self._heeding = tuple(each for each in self._heeding if each is not call)

    def revoke(self) -> tuple[Callable[[], object], ...]:
        """Take it back, holding the lock; return what is to be called then, without the lock."""
        self.state = "revoked"
        return self._heeding

    def hold(self, times: int = 1) -> None:
        """Wait for so many chunks more."""
        with self._stage.lock:
            self.pending += times

    def settle(self) -> None:
        """Note that one chunk has been dealt with; the last one cleans up, if the item was revoked."""
        with self._stage.lock:
            self.pending -= 1
            if self.pending:
                return
            self._stage.leave(self)
        if self.is_revoked:
            self._stage.clean_up(self)
        for parent in self._parents:
            parent.settle()


class RevocableStage:
    """What is under way of one revocable stage, and which keys are revoked. Safe for threads."""

    def __init__(self, name: str, node: RevocableNode, desk: Desk, clock: Clock, news: News) -> None:
        self.name = name
        self.count = 0
        """How many items were revoked."""
        self.lock = threading.Lock()
        self._node = node
        self._desk = desk
        self._clock = clock
        self._news = news
        self._moving: dict[Hashable, set[Passage]] = {}
        self._revoked: OrderedDict[Hashable, float] = OrderedDict()  # until when, the oldest first
        self._written: OrderedDict[Hashable, None] = OrderedDict()

    def enter(self, key: Hashable, item: Any, parents: tuple[Ticket, ...]) -> Passage:
        """Return the passage of an item that begins its way. Raises TypeError if a key cannot be hashed."""
        passage = Passage(self, key, item, parents)
        with self.lock:
            until = self._revoked.get(key) if self._revoked else None
            if until is not None and self._clock.monotonic() < until:
                passage.state = "revoked"
            self._moving.setdefault(key, set()).add(passage)
        return passage

    def leave(self, passage: Passage) -> None:
        """Forget a passage that has come to its end, holding the lock."""
        under_way = self._moving[passage.key]
        under_way.discard(passage)
        if not under_way:
            del self._moving[passage.key]
        if passage.state == "beyond":
            self._written[passage.key] = None
            self._written.move_to_end(passage.key)
            if len(self._written) > self._node.most:
                self._written.popitem(last=False)

    def revoke(self, key: Hashable) -> Revocation:
        """Take back all items of a key that are not beyond it, and those that come. Returns at once."""
        taken = beyond = 0
        calls: list[Callable[[], object]] = []
        with self.lock:
            self._remember(key)
            for passage in self._moving.get(key, ()):
                if passage.state == "moving":
                    taken += 1
                    calls += passage.revoke()
                elif passage.state == "beyond":
                    beyond += 1
            written = key in self._written
        for call in calls:
            call()
        return Revocation(taken, beyond, written)

    def clean_up(self, passage: Passage) -> None:
        """Clean up after an item that was taken out, and tell of it. Raises what the desk raises."""
        clean_up = self._node.clean_up
        if clean_up is not None:
            try:
                clean_up(passage.item)
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
                parents = passage.parents
                chunk = Chunk([passage.item], parents, self._clock.monotonic(), [NOWHERE])
                self._desk.meet(chunk, 0, passage.item, error, clean_up)
        with self.lock:
            self.count += 1
            self._news.note(ItemRevoked(self._clock.now(), self.name, shown(passage.key)))
        self._news.tell()

    def _remember(self, key: Hashable) -> None:
        now = self._clock.monotonic()
        self._revoked[key] = now + self._node.keep
        self._revoked.move_to_end(key)
        while self._revoked and (
            len(self._revoked) > self._node.most or next(iter(self._revoked.values())) <= now
        ):
            self._revoked.popitem(last=False)


class RevocableOperator(Onward):
    """Lets each item go on alone, with a passage. One whose key cannot be had is an error of this stage."""

    def __init__(
        self, by: Callable[[Any], Any], stage: RevocableStage, desk: Desk, meter: Meter, following: Step
    ) -> None:
        super().__init__(meter, following)
        self._by = by
        self._stage = stage
        self._desk = desk

    def push(self, chunk: Chunk) -> None:
        """Take a chunk apart."""
        began = perf_counter()
        single = len(chunk.tickets) == 1
        alone: list[Chunk] = []
        for index, item in enumerate(chunk.items):
            passage = self._passage(chunk, index, item)
            if passage is None:
                continue
            origin = index if chunk.origins is None else chunk.origins[index]
            part = Chunk([item], (passage,), chunk.born, [origin] if single else None)
            part.weight = weight_of([item]) if chunk.weight else 0
            alone.append(part)
        self._meter.took(len(chunk.items), perf_counter() - began)
        chunk.hold(len(alone))
        trail = self._meter.trail(chunk)
        for number, part in enumerate(alone):
            part.trail = trail if number == 0 else None  # a trace is that of one item
            self._meter.follow(part.trail)
            if part.is_revoked:
                part.settle()
            else:
                self._next.push(part)
        chunk.settle()

    def _passage(self, chunk: Chunk, index: int, item: Any) -> Passage | None:
        def enter(item: Any) -> Passage:
            return self._stage.enter(self._by(item), item, chunk.tickets)

        try:
            return enter(item)
        except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
            kept = self._desk.meet(chunk, index, item, error, enter)
        if kept.gone:
            return None
        is_one = isinstance(kept.value, Passage)
        return kept.value if is_one else self._stage.enter(kept.value, item, chunk.tickets)


class Sieve(Onward):
    """Takes out what is revoked, before a stage; one that ``claims`` makes the rest irrevocable."""

    def __init__(self, following: Step, *, claims: bool) -> None:
        super().__init__(Meter(), following)
        self._claims = claims

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        if self._claims:
            if not all(ticket.claim() for ticket in chunk.tickets if isinstance(ticket, Passage)):
                chunk.settle()
                return
        elif chunk.is_revoked:
            chunk.settle()
            return
        self._next.push(chunk)


class Revoking:
    """The revocable stages of one run. Raises DefinitionError for one after another."""

    def __init__(
        self, layout: Layout, desks: dict[Node, Desk], clock: Clock, listener: Listener | None
    ) -> None:
        news = News(listener)
        self.stages: dict[Node, RevocableStage] = {}
        self._after: set[Node] = set()
        for node in layout.nodes:
            is_after = any(before in self.stages or before in self._after for before in node.before)
            if is_after:
                self._after.add(node)
            if isinstance(node, RevocableNode):
                if is_after:
                    raise DefinitionError(
                        f"Items are revocable already where {layout.names[node]!r} makes them so.",
                        hint="Leave out one of the two.",
                    )
                self.stages[node] = RevocableStage(layout.names[node], node, desks[node], clock, news)

    def sifted(self, node: Node, step: Step) -> Step:
        """Return the way into a stage, past a sieve if items can be revoked there."""
        if node not in self._after:
            return step
        return Sieve(step, claims=not isinstance(node, KEEP_ITEMS_APART))

    def revoke(self, key: Hashable) -> Revocation:
        """Take back all items of a key. Raises DefinitionError if no stage is revocable."""
        if not self.stages:
            raise DefinitionError(
                "Nothing of this stream can be revoked.", hint="Say from where on: stream.revocable(by=...)."
            )
        found = [stage.revoke(key) for stage in self.stages.values()]
        return sum(found[1:], found[0])
