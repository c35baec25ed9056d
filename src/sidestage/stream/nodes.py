"""The parts of a description: each knows what it is made from, and nothing of how it is run."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, get_args

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Breaker
from sidestage.policy.rate import Rate
from sidestage.policy.retry import Retry
from sidestage.policy.surge import Surge
from sidestage.stream.contract import Sink, Source
from sidestage.stream.demands import is_count, require_a, require_function, require_one_of
from sidestage.stream.failing import Default, OnError, shown
from sidestage.stream.guarding.guard import Guard
from sidestage.stream.keys.spill import Spill
from sidestage.stream.keys.spreading import require_key
from sidestage.stream.lookups.cache import Cache, Found
from sidestage.stream.observing.spans import Incoming
from sidestage.stream.windows.plan import WindowPlan

Place = Literal["thread", "process"]
"""What a worker is: a thread; a process, for Python code that keeps a processor busy."""


@dataclass(frozen=True)
class Manner:
    """How a stage does its work. Raises DefinitionError for what makes no sense.

    ``workers``: how many do it at once; None leaves it to the stage before, whose worker does both. Chunks
    leave an ``ordered`` stage in the order in which they came. ``timeout``: seconds that one item may take;
    in a thread, where nobody can end a function, that of a call which takes longer is written off.
    ``guard``: what stands before the calls of a plain or coroutine function. ``surge``: which errors are too
    many here, instead of what the settings say.
    """

    workers: int | None = None
    ordered: bool = True
    on_error: OnError | None = None
    retry: Retry | None = None
    on: Place = "thread"
    timeout: float | None = None
    guard: Guard | None = None
    surge: Surge | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not is_count(self.workers):
            raise DefinitionError(
                f"A stage cannot have {shown(self.workers)} workers.",
                hint="Give it one or more, or leave them out.",
            )
        if self.timeout is not None and not self.timeout > 0:
            raise DefinitionError(
                f"A timeout of {self.timeout} s makes no sense.", hint="Give seconds above zero."
            )
        require_one_of("on", self.on, get_args(Place))
        decisions = "Skip(), SetAside(), Default(value) or Raise()"
        require_a("on_error", self.on_error, get_args(OnError), decisions)
        require_a("retry", self.retry, (Retry,), "Retry(...)")


@dataclass(frozen=True, eq=False)
class Node:
    """A part of a description, by its identity. ``name`` is unique within a stream once it is laid out."""

    name: str
    before: tuple["Node", ...] = ()
    manner: Manner = field(default_factory=Manner)


@dataclass(frozen=True, eq=False)
class SourceNode(Node):
    """Where items come from; ``size`` says how many bytes one takes, if somebody knows better."""

    source: Source[Any] = field(kw_only=True)
    size: Callable[[Any], float] | None = field(default=None, kw_only=True)
    incoming: Incoming | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class MapNode(Node):
    """One item of each."""

    function: Callable[[Any], Any] = field(kw_only=True)

    @property
    def is_async(self) -> bool:
        """Whether its function is a coroutine function."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 - of an object that is called
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)


@dataclass(frozen=True, eq=False)
class FilterNode(Node):
    """Those items for which a function says so."""

    function: Callable[[Any], Any] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class FlatMapNode(Node):
    """Any number of items of each. Raises DefinitionError for a default that is not several items."""

    function: Callable[[Any], Any] = field(kw_only=True)

    def __post_init__(self) -> None:
        on_error = self.manner.on_error
        if isinstance(on_error, Default) and not isinstance(on_error.value, Collection):
            raise DefinitionError(
                f"The default of {self.name!r}, {shown(on_error.value)}, is not several items.",
                hint="Give Default([...]): what flat_map goes on with in place of what it would have made.",
            )


@dataclass(frozen=True, eq=False)
class LookupNode(Node):
    """One item of each and of what is found for its key."""

    key: Callable[[Any], Any] = field(kw_only=True)
    function: Callable[[Any], Any] = field(kw_only=True)
    put: Callable[[Any, Found[Any]], Any] = field(kw_only=True)
    cache: Cache = field(kw_only=True)
    many: bool = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class KeyNode(Node):
    """Items with a key: those of one key stay in order from here on, whoever works on them.

    Raises DefinitionError for a default that is no key.
    """

    key: Callable[[Any], Any] = field(kw_only=True)
    into: int = field(kw_only=True)
    spill: Spill | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        on_error = self.manner.on_error
        if isinstance(on_error, Default):
            require_key(on_error.value, hash, self.name)


@dataclass(frozen=True, eq=False)
class BatchNode(Node):
    """Lists of ``size`` items; fewer after ``within`` seconds, and at the end."""

    size: int = field(kw_only=True)
    within: float | None = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class LimitNode(Node):
    """Items at a rate: all of them, or those of each key. At most ``held`` wait while other keys pass."""

    rate: Rate = field(kw_only=True)
    by: Callable[[Any], Any] | None = field(kw_only=True)
    held: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class RevocableNode(Node):
    """Items that can be taken back, by their key, from here on."""

    by: Callable[[Any], Any] = field(kw_only=True)
    clean_up: Callable[[Any], Any] | None = field(kw_only=True)
    keep: float = field(kw_only=True)
    most: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class WindowNode(Node):
    """Results of windows, as they close."""

    plan: WindowPlan = field(kw_only=True)
    beside: Sink[Any] | None = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class MergeNode(Node):
    """The items of several streams, as they come."""


@dataclass(frozen=True, eq=False)
class SinkNode(Node):
    """Where items go."""

    sink: Sink[Any] = field(kw_only=True)
    breaker: Breaker | None = field(default=None, kw_only=True)


def key_before(node: Node) -> Callable[[Any], Any] | None:
    """Return what tells the key of an item that a stage gets; None if it has none, or is another by then."""
    while node.before:
        node = node.before[0]
        if isinstance(node, KeyNode):
            return node.key
        if isinstance(node, WindowNode):
            return attrgetter("key")
        if not isinstance(node, FilterNode | LimitNode):
            return None
    return None


def sources_before(node: Node) -> list[SourceNode]:
    """Return the sources that something can come from to a stage, or the stage itself if it is one."""
    found: dict[Node, None] = {}
    stack = [node]
    while stack:
        each = stack.pop()
        if each not in found:
            found[each] = None
            stack += each.before
    return [each for each in found if isinstance(each, SourceNode)]


def name_of(function: Callable[..., Any], kind: str) -> str:
    """Return what people would call a stage: as its function, or as what it does if that has no name.

    Raises DefinitionError if it is no function.
    """
    require_function(kind, function)
    name: str = getattr(function, "__name__", type(function).__name__)
    return kind if name == "<lambda>" else name
