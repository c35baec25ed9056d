"""Pointers moved together, and the log of what each pointer showed."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Table, and_, bindparam, delete, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from sidestage.events import PointersMoved
from sidestage.store.dialect import insert_if_absent
from sidestage.store.outcomes import KnownVersion
from sidestage.store.prepared import Prepared
from sidestage.store.records import Move, NewMove, PointerChange, PointerEntry
from sidestage.store.refusals import Change, cannot_undo, no_move, refuse_moved, refuse_twice, require_data
from sidestage.store.sql_database import LostRaceError, SqlPart
from sidestage.store.sql_events import append
from sidestage.store.sql_rows import as_json, batches, move_of
from sidestage.store.sql_runs import require_environment
from sidestage.store.tables import environment, move, pointer, pointer_log, released, version

_CHANGES = (
    select(pointer_log.c.dataset, pointer_log.c.partition, pointer_log.c.previous, pointer_log.c.version)
    .where(pointer_log.c.move == bindparam("of_move"))
    .order_by(pointer_log.c.id)
)

# So that nobody removes the data of what is about to be shown.
_HOLD_VERSIONS = Prepared(
    select(version.c.id, version.c.dataset, version.c.partition, version.c.data_gone_at.is_not(None))
    .where(version.c.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(read=True),
    listed=["ids"],
)

_INSERT_LOG = Prepared(pointer_log.insert())


_Change = Change[tuple[str, ...]]


class _Pointers(NamedTuple):
    """A table that maps ``keys``, within an environment, to the value in ``shows``."""

    table: Table
    keys: tuple[str, ...]
    shows: str

    def row_is(self) -> ColumnElement[bool]:
        """Match the row that the parameters ``at_environment`` and ``at_<key>`` name."""
        keys = (self.table.c[name] == bindparam(f"at_{name}") for name in self.keys)
        return and_(self.table.c.environment == bindparam("at_environment"), *keys)


class _Swaps(NamedTuple):
    """Statements that each make one row of a table of pointers show what it shall, if it shows the old."""

    create: Prepared
    change: Prepared
    remove: Prepared


@cache
def _swaps(kind: _Pointers, dialect: str) -> _Swaps:
    fits = and_(kind.row_is(), kind.table.c[kind.shows] == bindparam("old"))
    return _Swaps(
        create=Prepared(insert_if_absent(dialect, kind.table)),
        change=Prepared(update(kind.table).where(fits).values({kind.shows: bindparam("new")})),
        remove=Prepared(delete(kind.table).where(fits)),
    )


_DATA = _Pointers(pointer, ("dataset", "partition"), "version")
_CODE = _Pointers(released, ("task",), "code")


class SqlMoves(SqlPart):
    """Promotes, rolls back, and tells what was."""

    def move(self, move: NewMove, now: datetime) -> Move:
        """Move pointers and released code together.

        Raises StaleWorld, and changes nothing, if any pointer or released fingerprint does not show its
        ``old`` value any more, if the data of a version to be shown is gone, or if the move to be undone was
        undone already. Raises NotFound for an unknown environment, version or move to be undone.
        """
        return self._database.write(partial(_move, new=move, now=now))

    def moves(self, environment: str | None = None, *, limit: int = 50) -> tuple[Move, ...]:
        """Return promotions and rollbacks, newest first, without their changes."""
        query = select(move).order_by(move.c.id.desc()).limit(limit)
        if environment is not None:
            query = query.where(move.c.environment == environment)
        return self._database.read(
            lambda connection: tuple(move_of(row) for row in connection.execute(query))
        )

    def move_details(self, move_id: int) -> Move:
        """Return one move with its changes. Raises NotFound."""
        return self._database.read(partial(_details, move_id=move_id))

    def pointer_log(
        self,
        *,
        environment: str | None = None,
        dataset: str | None = None,
        partition: str | None = None,
        limit: int = 100,
    ) -> tuple[PointerEntry, ...]:
        """Return what pointers showed, newest first."""
        query = select(pointer_log).order_by(pointer_log.c.id.desc()).limit(limit)
        wanted = {"environment": environment, "dataset": dataset, "partition": partition}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(pointer_log.c[name] == value)
        return self._database.read(
            lambda connection: tuple(
                PointerEntry(r.at, r.environment, r.dataset, r.partition, r.version, r.kind, r.move, r.run)
                for r in connection.execute(query)
            )
        )


def _move(connection: Connection, new: NewMove, now: datetime) -> Move:
    code_name = require_environment(connection, new.environment)
    data: list[_Change] = [Change((c.dataset, c.partition), c.old, c.new) for c in new.changes]
    code: list[_Change] = [Change((c.task,), c.old, c.new) for c in new.code]
    refuse_twice(data)
    refuse_twice(code)
    require_data(new.changes, _hold_versions(connection, new.changes))
    made = _insert_move(connection, new, code_name, now)
    if new.undoes is not None:
        _mark_undone(connection, new, made.id)
    _swap_all(connection, new.environment, ((_DATA, data), (_CODE, code)))
    _log(connection, made)
    if new.code_name is not None:
        connection.execute(
            update(environment).where(environment.c.name == new.environment).values(code=new.code_name)
        )
    moved = PointersMoved(now, str(made.id), new.environment, new.kind, made.pointers)
    append(connection, [(None, moved)])
    return made


def _insert_move(connection: Connection, new: NewMove, code_name: str, now: datetime) -> Move:
    values = {
        "kind": new.kind,
        "environment": new.environment,
        "at": now,
        "by": new.by,
        "reason": new.reason,
        "source": new.source,
        "pointers": len(new.changes),
        "code": as_json(new.code),
        "old_code_name": code_name,
        "new_code_name": code_name if new.code_name is None else new.code_name,
        "undoes": new.undoes,
    }
    row = connection.execute(move.insert().values(values).returning(move)).one()
    made = move_of(row)
    return msgspec.structs.replace(made, changes=new.changes)


def _mark_undone(connection: Connection, new: NewMove, move_id: int) -> None:
    marked = connection.execute(
        update(move)
        .where(
            move.c.id == new.undoes,
            move.c.id != move_id,
            move.c.environment == new.environment,
            move.c.undone_by.is_(None),
        )
        .values(undone_by=move_id)
    )
    if marked.rowcount == 1:
        return
    undone_by = connection.scalar(
        select(move.c.undone_by).where(move.c.id == new.undoes, move.c.environment == new.environment)
    )
    raise cannot_undo(new, undone_by)


def _hold_versions(connection: Connection, changes: Sequence[PointerChange]) -> dict[str, KnownVersion]:
    """Return the versions that are to be shown, as far as there are such; nobody removes their data now."""
    wanted = sorted({change.new for change in changes if change.new is not None})
    found: dict[str, KnownVersion] = {}
    for some in batches(wanted):
        for row in _HOLD_VERSIONS.rows(connection, {"ids": some}):
            known = KnownVersion._make(row)
            found[known.id] = known
    return found


def _swap_all(
    connection: Connection, environment: str, swaps: Sequence[tuple[_Pointers, Sequence[_Change]]]
) -> None:
    # The rows are changed first and looked at only if one did not fit: then as they were before.
    savepoint = connection.begin_nested()
    if all(_swap(connection, kind, environment, changes) for kind, changes in swaps):
        savepoint.commit()
        return
    savepoint.rollback()
    for kind, changes in swaps:
        refuse_moved(environment, changes, _shown(connection, kind, environment, changes))
    raise LostRaceError


def _swap(connection: Connection, kind: _Pointers, environment: str, changes: Sequence[_Change]) -> bool:
    """Make every row show its new value; return whether all of them showed their old one."""
    created = [change for change in changes if change.old is None and change.new is not None]
    changed = [change for change in changes if change.old is not None and change.new is not None]
    removed = [change for change in changes if change.old is not None and change.new is None]
    absent = [change for change in changes if change.old is None and change.new is None]
    swaps = _swaps(kind, connection.dialect.name)
    swapped = 0
    if created:
        swapped += swaps.create.change(connection, [_row(kind, environment, each) for each in created])
    if changed:
        swapped += swaps.change.change(connection, _parameters(kind, environment, changed))
    if removed:
        swapped += swaps.remove.change(connection, _parameters(kind, environment, removed))
    return swapped == len(changes) - len(absent) and not _shown(connection, kind, environment, absent)


def _row(kind: _Pointers, environment: str, change: _Change) -> dict[str, Any]:
    keys = dict(zip(kind.keys, change.key, strict=True))
    return {"environment": environment, **keys, kind.shows: change.new}


def _parameters(kind: _Pointers, environment: str, changes: Iterable[_Change]) -> list[dict[str, Any]]:
    keys = [f"at_{name}" for name in kind.keys]
    return [
        {
            "at_environment": environment,
            **dict(zip(keys, change.key, strict=True)),
            "old": change.old,
            **({} if change.new is None else {"new": change.new}),
        }
        for change in changes
    ]


def _shown(
    connection: Connection, kind: _Pointers, environment: str, changes: Sequence[_Change]
) -> dict[tuple[str, ...], str]:
    """Return what the rows that the changes are about show now."""
    table = kind.table
    columns = [table.c[name] for name in kind.keys]
    shown: dict[tuple[str, ...], str] = {}
    for some in batches(change.key for change in changes):
        query = select(*columns, table.c[kind.shows]).where(
            table.c.environment == environment, tuple_(*columns).in_(some)
        )
        shown.update((tuple(row[:-1]), row[-1]) for row in connection.execute(query))
    return shown


def _log(connection: Connection, made: Move) -> None:
    lines = [
        {
            "at": made.at,
            "environment": made.environment,
            "dataset": change.dataset,
            "partition": change.partition,
            "previous": change.old,
            "version": change.new,
            "kind": made.kind,
            "move": made.id,
        }
        for change in made.changes
    ]
    if lines:
        _INSERT_LOG.change(connection, lines)


def _details(connection: Connection, move_id: int) -> Move:
    row = connection.execute(select(move).where(move.c.id == move_id)).one_or_none()
    if row is None:
        raise no_move(move_id)
    changes = connection.execute(_CHANGES, {"of_move": move_id})
    return msgspec.structs.replace(move_of(row), changes=tuple(PointerChange(*change) for change in changes))
