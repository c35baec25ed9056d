"""Pointers moved together, and the log of what each showed, in memory."""

from datetime import datetime
from itertools import islice

import msgspec

from sidestage.events import PointersMoved
from sidestage.store.outcomes import KnownVersion
from sidestage.store.records import Move, NewMove, PointerEntry
from sidestage.store.refusals import Change, cannot_undo, no_move, refuse_moved, refuse_twice, require_data
from sidestage.testing.memory_runs import require_environment
from sidestage.testing.memory_tables import LogRow, MemoryPart, Tables, require_zone


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
                raise no_move(move_id)
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
    data = [Change((each.dataset, each.partition), each.old, each.new) for each in new.changes]
    code = [Change((each.task,), each.old, each.new) for each in new.code]
    refuse_twice(data)
    refuse_twice(code)
    require_data(new.changes, _known(tables, new))
    if new.undoes is not None:
        _refuse_undone(tables, new)
    refuse_moved(new.environment, data, tables.pointers.get(new.environment, {}))
    released = tables.released.get(new.environment, {})
    refuse_moved(new.environment, code, {(task,): shown for task, shown in released.items()})
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


def _known(tables: Tables, new: NewMove) -> dict[str, KnownVersion]:
    """Return the versions that are to be shown, as far as there are such."""
    rows = (tables.versions.get(change.new) for change in new.changes if change.new is not None)
    known = ((row.version, row.gone_at) for row in rows if row is not None)
    return {
        made.id: KnownVersion(made.id, made.dataset, made.partition, gone_at is not None)
        for made, gone_at in known
    }


def _refuse_undone(tables: Tables, new: NewMove) -> None:
    for each in tables.moves:
        if each.id == new.undoes and each.environment == new.environment:
            if each.undone_by is not None:
                raise cannot_undo(new, each.undone_by)
            return
    raise cannot_undo(new, None)
