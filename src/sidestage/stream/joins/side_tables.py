"""Tables that items are joined with: loaded as a whole, and again while the one before is used."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from sidestage.clock import Clock
from sidestage.errors import DataError, DefinitionError, MemoryRefused, StreamFailed
from sidestage.events import Event, Listener
from sidestage.policy.fallback import FailureBudget, Spending
from sidestage.policy.limits import size_text
from sidestage.policy.news import News
from sidestage.stream.columns.frames import is_frame, rows_of
from sidestage.stream.life.phases import RUNBOOK
from sidestage.stream.memory.pools import Holding
from sidestage.stream.memory.weights import weigh_mapping

K = TypeVar("K")
V = TypeVar("V")

_LOOK_SECONDS = 0.1
_SHOWN = 5


class TableStale(Event, frozen=True):
    """A table could not be loaded again: the one of ``age`` seconds ago is still used.

    ``failures`` counts how often in a row, ``why`` is the last reason.
    """

    table: str
    why: str
    age: float
    failures: int
    runbook: str = f"{RUNBOOK}#a-table-is-stale"


class TableTooOld(DataError):
    """A table could not be loaded again for so long that its failure budget is spent."""

    failure_class = "transient"


class TableTooLarge(MemoryRefused):
    """A table that is to be joined takes more memory than the budget of the stream leaves to it."""

    failure_class = "resource"


class SideTable(msgspec.Struct, Generic[K, V], frozen=True):
    """A table to join items with: a mapping, or a function that loads one.

    It is loaded before the first item, and again every ``every`` seconds, in the background: what is joined
    meanwhile is joined with the version before, which is replaced as a whole. If that fails, the version
    before goes on being used within the ``budget``. Until the first one is loaded nothing is joined.

    Raises DefinitionError for what makes no sense.
    """

    load: Mapping[K, V] | Callable[[], Mapping[K, V]]
    every: float | None = None
    budget: FailureBudget = FailureBudget()

    def __post_init__(self) -> None:
        if not isinstance(self.load, Mapping) and not callable(self.load):
            raise DefinitionError(
                f"A side table of {type(self.load).__name__} is no mapping, and no function that loads one.",
                hint="For rows or an Arrow table call SideTable.of_rows(rows, key).",
            )
        if self.every is not None and (isinstance(self.load, Mapping) or not self.every > 0):
            raise DefinitionError(
                f"A side table cannot be loaded again every {self.every} s.",
                hint="Give seconds above zero, and a function that loads it.",
            )

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[V] | Callable[[], Iterable[V]],
        key: Callable[[V], K] | str,
        *,
        every: float | None = None,
        budget: FailureBudget | None = None,
    ) -> "SideTable[K, V]":
        """Return a table of rows (dicts, or an Arrow or polars table, whose rows are dicts) by a key.

        ``key`` is called with each row, or names a column. Two rows of one key are an error: DataError.
        """
        if isinstance(rows, Iterator):
            raise DefinitionError(
                "A side table of an iterator would be empty when it is loaded again.",
                hint="Give a list, or a function that returns the rows.",
            )
        if every is not None and not callable(rows):
            raise DefinitionError("Rows are not loaded again.", hint="Give a function that loads them.")
        return SideTable(_Rows(rows, key), every, budget or FailureBudget())


class _Rows:
    """Loads rows, and puts them by their keys."""

    def __init__(self, rows: Any, key: Any) -> None:
        self._rows = rows
        self._key = key

    def __call__(self) -> Mapping[Any, Any]:
        rows = self._rows() if callable(self._rows) else self._rows
        given = list(rows_of(rows) if is_frame(rows) else rows)
        name = self._key
        key_of = (lambda row: row[name]) if isinstance(name, str) else name
        keys = list(map(key_of, given))
        table = dict(zip(keys, given, strict=True))
        if len(table) < len(keys):
            twice = [ascii(key) for key, count in Counter(keys).most_common(_SHOWN) if count > 1]
            raise DataError(
                f"{len(keys) - len(table)} rows of a side table have the key of another: {', '.join(twice)}.",
                hint="Leave one row for each key, or let the value be a list of rows.",
            )
        return table


def in_background(load: Callable[[], None]) -> None:
    """Call a function in a thread of its own, which does not keep the process."""
    threading.Thread(target=load, name="side table", daemon=True).start()


class LoadedTable:
    """A table as all workers of a stage share it. ``holding`` counts what it takes, if somebody does."""

    def __init__(
        self,
        name: str,
        table: SideTable[Any, Any],
        clock: Clock,
        listener: Listener | None,
        aside: Callable[[Callable[[], None]], None] = in_background,
        *,
        holding: Holding | None = None,
    ) -> None:
        self._name = name
        self._table = table
        self._clock = clock
        self._aside = aside
        self._holding = holding
        self._size = 0
        self._news = News(listener)
        self._lock = threading.Lock()
        self._loading_first = threading.Lock()
        self._spending = Spending(name, table.budget, clock)
        self._rows: Mapping[Hashable, Any] | None = None
        self._loaded_at = self._next = 0.0
        self._is_loading = False
        self._failures = 0
        self._why = ""

    def ensure(self) -> None:
        """Load it unless it is. Raises StreamFailed."""
        with self._loading_first:
            if self._rows is not None:
                return
            began = self._clock.monotonic()
            try:
                rows = self._load()
                size = self._let_in(rows)
            except MemoryRefused as error:
                raise StreamFailed(error.message, hint=error.hint) from error
            except Exception as error:
                raise StreamFailed(
                    f"The table of {self._name!r} could not be loaded: {type(error).__name__}: {error}",
                    hint="There is no version before that could be used instead.",
                ) from error
            self._put(rows, size, began)

    def rows(self, items: int) -> Mapping[Hashable, Any]:
        """Return the version to join so many items with. Raises TableTooOld."""
        now = self._clock.monotonic()
        with self._lock:
            assert self._rows is not None, "ensure() comes first"
            why = self._stale(now)
            if not why:
                self._spending.count(items)
                return self._rows
            allowed, turned = self._spending.allow(items, why)
            if turned is not None:
                self._news.note(turned)
            rows, age = self._rows, now - self._loaded_at
        self._news.tell()
        if allowed:
            return rows
        raise TableTooOld(
            f"The table of {self._name!r} is {age:.0f} s old: {why}.",
            hint="Repair what loads it, or give it a larger FailureBudget.",
        )

    def due(self) -> float | None:
        """Return when it is to be loaded again, or looked at."""
        if self._table.every is None:
            return None
        return self._clock.monotonic() + _LOOK_SECONDS if self._is_loading else self._next

    def tick(self, now: float) -> None:
        """Begin to load it again if it is time."""
        if self._table.every is None or now < self._next:
            return
        with self._lock:
            if self._is_loading or now < self._next:
                return
            self._is_loading = True
        self._aside(self._load_again)

    def _stale(self, now: float) -> str:
        """Return why this version is older than it should be, or nothing."""
        if self._failures:
            return self._why
        every = self._table.every
        if every is not None and self._is_loading and now >= self._next + every:
            return f"it has been loading for {now - self._next:.0f} s"
        return ""

    def _load(self) -> Mapping[Hashable, Any]:
        load = self._table.load
        rows = load if isinstance(load, Mapping) else load()
        if not isinstance(rows, Mapping):
            raise DataError(
                f"What loads the table of {self._name!r} returned a {type(rows).__name__}, no mapping.",
                hint="Return a dict, or use SideTable.of_rows(function, key).",
            )
        return rows

    def _load_again(self) -> None:
        began = self._clock.monotonic()
        try:
            rows = self._load()
            size = self._let_in(rows)
        except BaseException as error:  # noqa: BLE001 - also sys.exit(): the version before is still good
            self._failed(error)
        else:
            self._put(rows, size, began)
        self._news.tell()

    def _let_in(self, rows: Mapping[Hashable, Any]) -> int:
        """Weigh a version, and count it besides the one before, which others are at work with.

        The first leaves room for the next. Raises TableTooLarge.
        """
        if self._holding is None:
            return 0
        size, before = weigh_mapping(rows), self._size
        next_one = 0 if self._table.every is None or self._rows is not None else size
        if self._holding.set_if_fits(size + before, next_one):
            return size
        versions = "" if self._table.every is None else " Both versions are there while it is loaded again."
        raise TableTooLarge(
            f"The table of {self._name!r} has {len(rows):,} rows, about {size_text(size)}; the memory of the"
            f" stream leaves {size_text(self._holding.most() - before)} to it.{versions}",
            hint="Raise Settings(memory=...), load fewer rows or columns, or take look_up().",
        )

    def _failed(self, error: BaseException) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._failures += 1
            self._why = f"{type(error).__name__}: {error}"
            self._spending.failed()
            self._set_next(now)
            age = now - self._loaded_at
            self._news.note(TableStale(self._clock.now(), self._name, self._why, age, self._failures))

    def _put(self, rows: Mapping[Hashable, Any], size: int, began: float) -> None:
        with self._lock:
            self._size = size
            self._rows, self._loaded_at, self._failures = rows, began, 0
            self._set_next(began)
            turned = self._spending.succeeded()
            if turned is not None:
                self._news.note(turned)
        if self._holding is not None:
            self._holding.set(size)

    def _set_next(self, since: float) -> None:
        self._is_loading = False
        self._next = since + (self._table.every or 0.0)
