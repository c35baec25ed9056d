"""What stages keep for longer, by kinds: how much that is together, and how much it may be."""

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from sidestage.stream.memory.budget import Budget

Kind = Literal["windows", "joins", "tables", "lookups"]
"""What is kept: windows, rows that wait in joins, tables that are joined, what lookups remember."""

KINDS: tuple[Kind, ...] = get_args(Kind)


class Pool:
    """What all states of some kinds take together.

    They may take one part in ``part`` of the budget, or of what the pool ``before`` leaves of it.
    """

    def __init__(self, budget: "Budget", part: int, before: "Pool | None" = None) -> None:
        self.budget = budget
        self.used = 0
        self.by_kind: dict[Kind, int] = {}
        self._part = part
        self._before = before

    @property
    def limit(self) -> int:
        """How many bytes they may take together as things are. Called with the budget's lock held."""
        taken = 0 if self._before is None else self._before.used
        return (self.budget.limit - taken) // self._part

    def holding(self, kind: Kind) -> "Holding":
        """Return the account of one of them."""
        return Holding(self, kind)

    def add(self, kind: Kind, size: int) -> None:
        """Count more, or less. Called with the budget's lock held."""
        self.used += size
        self.by_kind[kind] = self.by_kind.get(kind, 0) + size
        if not self.budget.is_closed:
            self.budget.add(size)


class Holding:
    """What the state of one worker takes, such as its windows."""

    def __init__(self, pool: Pool, kind: Kind) -> None:
        self._pool = pool
        self._kind = kind
        self._size = 0

    def set(self, size: int) -> None:
        """Note how much it is now."""
        with self._pool.budget.lock:
            self._set(size)

    def set_if_fits(self, size: int, room: int = 0) -> bool:
        """Note how much it is now if that fits, and ``room`` besides; return whether it does."""
        with self._pool.budget.lock:
            fits = size + room <= self._most()
            if fits:
                self._set(size)
            return fits

    def most(self) -> int:
        """Return how large it may become, as all others of the kind are now."""
        with self._pool.budget.lock:
            return max(0, self._most())

    def _set(self, size: int) -> None:
        self._pool.add(self._kind, size - self._size)
        self._size = size

    def _most(self) -> int:
        return self._pool.limit - self._pool.used + self._size
