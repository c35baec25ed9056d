"""What every store refuses, and in which words: pure checks, and the errors that are to be raised.

A store reads, under lock, what a check asks for; whether that will do is decided here, once for all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from sidestage.errors import NotFound, StaleWorld, StoreError
from sidestage.store.outcomes import KnownVersion
from sidestage.store.records import NewMove, NewStep, PointerChange

_NAMED = 3
"""How many moved pointers an error names."""

Key = TypeVar("Key", bound=tuple[str, ...])


class Change(NamedTuple, Generic[Key]):
    """What must show ``old`` before a move and shall show ``new`` after.

    ``key`` is a pointer, (dataset, partition), or released code, (task,).
    """

    key: Key
    old: str | None
    new: str | None


# Runs


def positions_of(steps: Sequence[NewStep]) -> dict[str, int]:
    """Return the place of each step by its id. Raises StoreError if two are the same, or out of order."""
    positions: dict[str, int] = {}
    for position, each in enumerate(steps):
        for before in each.after:
            if before not in positions:
                raise StoreError(
                    f"Step {each.id!r} comes after {before!r}, which does not stand before it in the plan."
                )
        if each.id in positions:
            raise StoreError(f"Two steps of the plan have the id {each.id!r}.")
        positions[each.id] = position
    return positions


def another_run(run_id: int, pipeline: str, environment: str, driver: str | None) -> StoreError:
    """Return the error for a run that was to be alone and is not."""
    whose = f" by {driver}" if driver else ", waiting for workers or run by them"
    return StoreError(
        f"Run {run_id} of {pipeline!r} in {environment!r} is open{whose}.",
        hint=f"Wait for it, or end it: sidestage cancel {run_id}",
    )


def no_run(run_id: int) -> NotFound:
    """Return the error for a run that is not there."""
    return NotFound(f"There is no run {run_id}.", hint="Is its number right?")


def no_environment(name: str) -> NotFound:
    """Return the error for an environment that is not there."""
    return NotFound(f"There is no environment {name!r}.", hint="Is its name spelt right?")


# Moves


def no_move(move_id: int) -> NotFound:
    """Return the error for a move that is not there."""
    return NotFound(f"There is no move {move_id}.", hint="Is its number right?")


def refuse_twice(changes: Iterable[Change[Key]]) -> None:
    """Raise StoreError if a move changes anything twice."""
    seen: set[Key] = set()
    for change in changes:
        if change.key in seen:
            raise StoreError(f"{_named(change.key)} is changed twice in one move.")
        seen.add(change.key)


def require_data(changes: Iterable[PointerChange], known: Mapping[str, KnownVersion]) -> None:
    """Refuse pointers to versions that are not what they are said to be; ``known`` are those that there are.

    Raises NotFound for one that is not there, StoreError for one of another partition, StaleWorld for one
    whose data is gone.
    """
    for change in changes:
        if change.new is None:
            continue
        name = _named((change.dataset, change.partition))
        made = known.get(change.new)
        if made is None:
            raise NotFound(f"There is no version {change.new}, which {name} was to show.")
        if (made.dataset, made.partition) != (change.dataset, change.partition):
            raise StoreError(
                f"Version {change.new} is one of {_named((made.dataset, made.partition))}, not of {name}."
            )
        if made.is_gone:
            raise StaleWorld(
                f"The data of version {change.new} of {name} is gone.",
                hint="It was removed because nothing showed it; nothing was changed.",
            )


def cannot_undo(move: NewMove, undone_by: int | None) -> NotFound | StaleWorld:
    """Return the error for a move that undoes what was undone by another one, or (None) is not there."""
    if undone_by is None:
        return NotFound(f"There is no move {move.undoes} of {move.environment!r} to be undone.")
    return StaleWorld(
        f"Move {move.undoes} of {move.environment!r} was undone already, by move {undone_by}.",
        hint="Look at the moves again; nothing was changed.",
    )


def refuse_moved(environment: str, changes: Sequence[Change[Key]], shown: Mapping[Key, str]) -> None:
    """Raise StaleWorld, naming the first few, if anything does not show the old value of its change."""
    moved = [change for change in changes if shown.get(change.key) != change.old]
    if not moved:
        return
    named = "; ".join(
        f"{_named(change.key)} shows {shown.get(change.key, 'nothing')} instead of {change.old or 'nothing'}"
        for change in moved[:_NAMED]
    )
    more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    raise StaleWorld(
        f"{len(moved)} of {len(changes)} in {environment!r} moved meanwhile: {named}{more}.",
        hint="Nothing was changed. Compare again, then promote what was compared.",
    )


def _named(key: tuple[str, ...]) -> str:
    return f"{key[0]} [{key[1]}]" if len(key) > 1 else f"task {key[0]!r}"
