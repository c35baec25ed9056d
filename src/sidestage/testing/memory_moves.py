"""Pointers moved together, and the log of what each showed, in memory."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import msgspec

from sidestage.errors import NotFound, StaleWorld, StoreError
from sidestage.events import PointersMoved
from sidestage.store.records import Move, NewMove, PointerChange, PointerEntry
from sidestage.testing.memory_runs import require_environment
from sidestage.testing.memory_tables import LogRow, MemoryPart, Tables, require_zone

_NAMED = 3
"""How many moved pointers an error names."""


Key = TypeVar("Key", str, tuple[str, str])


class _Change(NamedTuple, Generic[Key]):
    """What must show ``old`` before and shall show ``new`` after."""

    key: Key
    name: str
    old: str | None
    new: str | None


class MemoryMoves(MemoryPart):
    """Promotes, rolls back, and tells what was."""

    def move(self, move: NewMove, now: datetime) -> Move:
        """Move pointers and released code together.

        Raises StaleWorld, and changes nothing, if any pointer or released fingerprint does not show its
        ``old`` value any more, if the data of a version to be shown is gone, or if the move to be undone was
        undone already. Raises NotFound for an unknown environment, version or move to be undone.
        """
        require_zone(now)
        with self._tables.turn:
            code_name = _refuse_unfit(self._tables, move)
            return _make(self._tables, move, code_name, now)

    def moves(self, environment: str | None = None, *, limit: int = 50) -> tuple[Move, ...]:
        """Return promotions and rollbacks, newest first, without their changes."""
        with self._tables.turn:
            made = reversed(self._tables.moves)
            wanted = (each for each in made if environment in (None, each.environment))
            return tuple(msgspec.structs.replace(each, changes=()) for each in islice(wanted, limit))

    def move_details(self, move_id: int) -> Move:
        """Return one move with its changes. Raises NotFound."""
        with self._tables.turn:
            if not 0 < move_id <= len(self._tables.moves):
                raise NotFound(f"There is no move {move_id}.", hint="Is its number right?")
            return self._tables.moves[move_id - 1]

    def pointer_log(
        self,
        *,
        environment: str | None = None,
        dataset: str | None = None,
        partition: str | None = None,
        limit: int = 100,
    ) -> tuple[PointerEntry, ...]:
        """Return what pointers showed, newest first."""
        wanted = (environment, dataset, partition)
        with self._tables.turn:
            lines = (
                line
                for line in reversed(self._tables.log)
                if all(want in (None, it) for want, it in zip(wanted, line.address, strict=True))
            )
            return tuple(
                PointerEntry(line.at, *line.address, line.version, line.kind, line.move, line.run)
                for line in islice(lines, limit)
            )


def _refuse_unfit(tables: Tables, new: NewMove) -> str:
    """Raise what a move must be refused for; return the name of the code that the environment runs."""
    code_name = require_environment(tables, new.environment)
    data = [_Change((c.dataset, c.partition), _name(c), c.old, c.new) for c in new.changes]
    code = [_Change(c.task, f"task {c.task!r}", c.old, c.new) for c in new.code]
    _refuse_twice(data)
    _refuse_twice(code)
    for change in new.changes:
        _require_data(tables, change)
    if new.undoes is not None:
        _refuse_undone(tables, new)
    _refuse_moved(new.environment, data, tables.pointers.get(new.environment, {}))
    _refuse_moved(new.environment, code, tables.released.get(new.environment, {}))
    return code_name


def _make(tables: Tables, new: NewMove, code_name: str, now: datetime) -> Move:
    made = Move(
        id=len(tables.moves) + 1,
        kind=new.kind,
        environment=new.environment,
        at=now,
        by=new.by,
        reason=new.reason,
        source=new.source,
        pointers=len(new.changes),
        undoes=new.undoes,
        changes=new.changes,
        code=new.code,
        old_code_name=code_name,
        new_code_name=code_name if new.code_name is None else new.code_name,
    )
    if new.undoes is not None:
        undone = tables.moves[new.undoes - 1]
        tables.moves[new.undoes - 1] = msgspec.structs.replace(undone, undone_by=made.id)
    tables.moves.append(made)
    for each in new.changes:
        address = new.environment, each.dataset, each.partition
        tables.point(LogRow(now, address, each.old, each.new, new.kind, made.id, None))
    released = tables.released.setdefault(new.environment, {})
    for change in new.code:
        if change.new is None:
            released.pop(change.task, None)
        else:
            released[change.task] = change.new
    environment = tables.environments[new.environment]
    tables.environments[new.environment] = msgspec.structs.replace(environment, code=made.new_code_name)
    moved = PointersMoved(now, str(made.id), new.environment, new.kind, made.pointers)
    tables.events.append((None, moved))
    tables.changes += 1
    return made


def _name(change: PointerChange) -> str:
    return f"{change.dataset} [{change.partition}]"


def _refuse_twice(changes: Sequence[_Change[Key]]) -> None:
    seen: set[Key] = set()
    for change in changes:
        if change.key in seen:
            raise StoreError(f"{change.name} is changed twice in one move.")
        seen.add(change.key)


def _require_data(tables: Tables, change: PointerChange) -> None:
    if change.new is None:
        return
    row = tables.versions.get(change.new)
    if row is None:
        raise NotFound(f"There is no version {change.new}, which {_name(change)} was to show.")
    made = row.version
    if (made.dataset, made.partition) != (change.dataset, change.partition):
        raise StoreError(
            f"Version {change.new} is one of {made.dataset} [{made.partition}], not of {_name(change)}."
        )
    if row.gone_at is not None:
        raise StaleWorld(
            f"The data of version {change.new} of {_name(change)} is gone.",
            hint="It was removed because nothing showed it; nothing was changed.",
        )


def _refuse_undone(tables: Tables, new: NewMove) -> None:
    undone = next(
        (each for each in tables.moves if each.id == new.undoes and each.environment == new.environment), None
    )
    if undone is None:
        raise NotFound(f"There is no move {new.undoes} of {new.environment!r} to be undone.")
    if undone.undone_by is not None:
        raise StaleWorld(
            f"Move {new.undoes} of {new.environment!r} was undone already, by move {undone.undone_by}.",
            hint="Look at the moves again; nothing was changed.",
        )


def _refuse_moved(environment: str, changes: Sequence[_Change[Key]], shown: Mapping[Key, str]) -> None:
    """Raise StaleWorld, naming the first few, if anything does not show the old value of its change."""
    moved = [change for change in changes if shown.get(change.key) != change.old]
    if not moved:
        return
    named = "; ".join(
        f"{each.name} shows {shown.get(each.key, 'nothing')} instead of {each.old or 'nothing'}"
        for each in moved[:_NAMED]
    )
    more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    raise StaleWorld(
        f"{len(moved)} of {len(changes)} in {environment!r} moved meanwhile: {named}{more}.",
        hint="Nothing was changed. Compare again, then promote what was compared.",
    )
