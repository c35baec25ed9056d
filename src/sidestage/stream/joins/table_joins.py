"""A stage that joins items with a table that all of its workers share."""

from collections.abc import Hashable, Mapping
from time import perf_counter
from typing import Any

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk
from sidestage.stream.joins.side_tables import LoadedTable, TableTooOld
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step
from sidestage.stream.shape_nodes import TableJoinNode

_NONE = object()


class TableJoinOperator(Onward):
    """Puts each item together with the row of its key. All items of a chunk see one version of the table."""

    def __init__(
        self, node: TableJoinNode, table: LoadedTable, desk: Desk, meter: Meter, following: Step
    ) -> None:
        super().__init__(meter, following)
        self._key = node.key
        self._put = node.put
        self._inner = node.how == "inner"
        self._table = table
        self._desk = desk
        table.ensure()

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        items, key, put, inner = chunk.items, self._key, self._put, self._inner
        rows = self._rows(len(items))
        made: list[Any] = []
        keep = made.append
        gone: list[int] = []
        for index, item in enumerate(items):
            try:
                if isinstance(rows, TableTooOld):
                    raise rows  # noqa: TRY301 - each item is decided about
                row = rows.get(key(item), _NONE)
                if row is _NONE and inner:
                    gone.append(index)
                else:
                    keep(put(item, None if row is _NONE else row))
            except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
                kept = self._desk.meet(chunk, index, item, error, self._one)
                if kept.gone or kept.value is _NONE:
                    gone.append(index)
                else:
                    keep(kept.value)
        chunk.become(made, gone)
        self._hand_on(chunk, len(items), began)

    def due(self) -> float | None:
        """Return when the table is to be loaded again, or something is due further on."""
        further, mine = self._next.due(), self._table.due()
        if further is None or mine is None:
            return mine if further is None else further
        return min(further, mine)

    def tick(self, now: float) -> None:
        """Have the table loaded again if it is time."""
        self._table.tick(now)
        self._next.tick(now)

    def _rows(self, items: int) -> Mapping[Hashable, Any] | TableTooOld:
        try:
            return self._table.rows(items)
        except TableTooOld as error:
            return error

    def _one(self, item: Any) -> Any:
        row = self._table.rows(1).get(self._key(item), _NONE)
        if row is _NONE and self._inner:
            return _NONE
        return self._put(item, None if row is _NONE else row)
