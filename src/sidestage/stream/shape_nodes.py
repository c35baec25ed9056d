"""Parts of a description that change the shape of a stream: columns, ways that part, and two that join."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sidestage.stream.nodes import Node

if TYPE_CHECKING:
    import pyarrow as pa

    from sidestage.stream.joins.interval_plan import IntervalPlan
    from sidestage.stream.joins.side_tables import SideTable

Library = Literal["arrow", "polars"]
"""What tables are made of: ``pyarrow.Table`` or ``polars.DataFrame``."""

How = Literal["inner", "left"]
"""inner: only what has something on both sides; left: all of the left, with None where there is nothing."""

LATE = "late"
"""The port by which a stage of windows, or a join, lets go of what came too late, or too early."""

FAILED = "failed"
"""The port by which a stage lets go of what it sets aside."""


def port_to(name: str) -> str:
    """Return the port by which items leave a stage that parts them, for the way of this name."""
    return f"to {name}"


@dataclass(frozen=True, eq=False)
class GatherNode(Node):
    """Tables of a declared size, of rows or of tables. ``size`` counts rows, ``most_bytes`` their bytes."""

    size: int | None = field(kw_only=True)
    most_bytes: int | None = field(kw_only=True)
    within: float | None = field(kw_only=True)
    library: Library = field(kw_only=True)
    schema: "pa.Schema | None" = field(kw_only=True)

    @property
    def holds_back(self) -> bool:
        """Whether anything waits here for more."""
        return self.size is not None or self.most_bytes is not None


@dataclass(frozen=True, eq=False)
class BatchMapNode(Node):
    """Whatever a function makes of each table, or of each list. ``splittable``: it looks at rows singly."""

    function: Callable[[Any], Any] = field(kw_only=True)
    splittable: bool = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class RouteNode(Node):
    """Each item to one of several ways, which are called ``names``."""

    function: Callable[[Any], Any] = field(kw_only=True)
    names: Sequence[str] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class SideNode(Node):
    """What leaves the stage before by another way than its results; ``port`` is which."""

    port: str = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class TableJoinNode(Node):
    """One item of each and of the row of its key in a table."""

    key: Callable[[Any], Any] = field(kw_only=True)
    put: Callable[[Any, Any], Any] = field(kw_only=True)
    table: "SideTable[Any, Any]" = field(kw_only=True)
    how: How = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class IntervalNode(Node):
    """Pairs of items of two streams, of one key and of times that lie near each other."""

    plan: "IntervalPlan" = field(kw_only=True)
