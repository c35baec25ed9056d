"""Promotion and rollback: pointer moves, planned here as values, made by the store in one transaction."""

from collections.abc import Mapping

from sidestage.errors import NotFound
from sidestage.release.difference import Difference
from sidestage.store.contract import Catalog, PointerKey
from sidestage.store.records import CodeChange, Environment, Move, NewMove, PointerChange

_SEARCHED = 1000


def promotion(
    candidate: Environment,
    base: Environment,
    found: tuple[Difference, ...],
    code: Mapping[str, str],
    released: Mapping[str, str],
    *,
    by: str,
    reason: str,
) -> NewMove:
    """Return the move that makes the audited versions, and the code that made them, production's."""
    return NewMove(
        kind="promote",
        environment=base.name,
        by=by,
        reason=reason,
        source=candidate.name,
        changes=tuple(
            PointerChange(entry.dataset, entry.partition, entry.base, entry.candidate) for entry in found
        ),
        code=tuple(
            CodeChange(task, released.get(task), fingerprint)
            for task, fingerprint in code.items()
            if released.get(task) != fingerprint
        ),
        code_name=candidate.code,
    )


def last_promotion(catalog: Catalog, environment: str, pipeline: str | None = None) -> Move:
    """Return the newest promotion (of one pipeline's code) that was not undone, with its changes.

    Raises NotFound.
    """
    for summary in catalog.moves(environment, limit=_SEARCHED):
        if summary.kind == "promote" and summary.undone_by is None and summary.source:
            move = catalog.move_details(summary.id)
            if pipeline is None or any(change.task.startswith(f"{pipeline}.") for change in move.code):
                return move
    of = "" if pipeline is None else f" of {pipeline!r}"
    raise NotFound(
        f"There is no promotion{of} in {environment!r} to roll back.", hint="See: sidestage history --moves"
    )


def reversal(
    move: Move, shown: Mapping[PointerKey, str], released: Mapping[str, str], *, by: str, reason: str
) -> NewMove:
    """Return the move that takes a promotion back.

    Every pointer that the promotion moved goes back to what it showed before, also where a later run
    published on top of it: that was made by the code that is being taken back.
    """
    return NewMove(
        kind="rollback",
        environment=move.environment,
        by=by,
        reason=reason,
        source=move.source,
        changes=tuple(
            PointerChange(
                change.dataset, change.partition, shown.get((change.dataset, change.partition)), change.old
            )
            for change in move.changes
            if shown.get((change.dataset, change.partition)) != change.old
        ),
        code=tuple(
            CodeChange(change.task, released.get(change.task), change.old)
            for change in move.code
            if released.get(change.task) != change.old
        ),
        code_name=move.old_code_name,
        undoes=move.id,
    )
