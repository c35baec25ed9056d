"""Promotion and rollback as values: which pointers and which code move, from where to where."""

from datetime import UTC, datetime

import msgspec
import pytest

from sidestage.errors import NotFound
from sidestage.release.difference import Difference, differences
from sidestage.release.promote import last_promotion, promotion, reversal
from sidestage.store.records import CodeChange, Environment, Move, PointerChange

NOW = datetime(2013, 1, 1, tzinfo=UTC)
PRODUCTION = Environment("production", None, "git:1", "open", NOW)
FIX = Environment("fix", "production", "git:2", "open", NOW)
FOUND = (Difference("new", "1", None, "n1"), Difference("total", "1", "t1", "t2"))
PROMOTED = Move(
    id=4,
    kind="promote",
    environment="production",
    at=NOW,
    by="ann",
    reason="",
    source="fix",
    pointers=2,
    changes=(PointerChange("new", "1", None, "n1"), PointerChange("total", "1", "t1", "t2")),
    code=(CodeChange("flow.new", None, "N"), CodeChange("flow.total", "T1", "T2")),
    old_code_name="git:1",
    new_code_name="git:2",
)
SHOWN = {("new", "1"): "n1", ("total", "1"): "t2", ("raw", "1"): "r1"}
RELEASED = {"flow.new": "N", "flow.total": "T2", "flow.raw": "R"}


def moved(
    pointers: dict[tuple[str, str], str], changes: tuple[PointerChange, ...]
) -> dict[tuple[str, str], str]:
    """Move pointers as a catalog does."""
    result = dict(pointers)
    for change in changes:
        assert result.get((change.dataset, change.partition)) == change.old
        assert change.old != change.new
        if change.new is None:
            del result[change.dataset, change.partition]
        else:
            result[change.dataset, change.partition] = change.new
    return result


def promote(released: dict[str, str], code: dict[str, str]):
    return promotion(FIX, PRODUCTION, FOUND, code, released, by="ann", reason="time zone")


def test_a_promotion_moves_what_differs_and_releases_what_changed():
    move = promote(
        {"flow.total": "T1", "flow.raw": "R"}, {"flow.new": "N", "flow.total": "T2", "flow.raw": "R"}
    )
    assert (move.kind, move.environment, move.source, move.undoes) == ("promote", "production", "fix", None)
    assert (move.by, move.reason, move.code_name) == ("ann", "time zone", "git:2")
    assert move.changes == PROMOTED.changes
    assert move.code == PROMOTED.code


def test_code_is_released_also_where_no_pointer_moves():
    move = promotion(FIX, PRODUCTION, (), {"flow.total": "T2"}, {"flow.total": "T1"}, by="ann", reason="")
    assert move.changes == ()
    assert move.code == (CodeChange("flow.total", "T1", "T2"),)


def reverse(shown=SHOWN, released=RELEASED, move=PROMOTED):
    return reversal(move, shown, released, by="bob", reason="no good")


def test_a_rollback_goes_back_to_what_was_shown():
    move = reverse()
    assert (move.kind, move.environment, move.undoes, move.code_name) == (
        "rollback",
        "production",
        4,
        "git:1",
    )
    assert (move.by, move.reason, move.source) == ("bob", "no good", "fix")
    assert moved(SHOWN, move.changes) == {("total", "1"): "t1", ("raw", "1"): "r1"}
    assert move.code == (CodeChange("flow.new", "N", None), CodeChange("flow.total", "T2", "T1"))


def test_what_was_published_on_top_is_taken_back_too():
    later = {**SHOWN, ("total", "1"): "t3", ("new", "1"): "n2", ("total", "2"): "t9"}
    move = reverse(later)
    assert PointerChange("total", "1", "t3", "t1") in move.changes
    assert PointerChange("new", "1", "n2", None) in move.changes
    assert moved(later, move.changes) == {("total", "1"): "t1", ("raw", "1"): "r1", ("total", "2"): "t9"}


def test_what_shows_the_old_version_already_is_left_alone():
    move = reverse({("total", "1"): "t1"}, {"flow.total": "T1"})
    assert move.changes == move.code == ()
    assert move.undoes == 4


def test_code_that_was_released_since_goes_back_too():
    assert CodeChange("flow.total", "T3", "T1") in reverse(released={**RELEASED, "flow.total": "T3"}).code


def test_promotion_and_rollback_are_each_others_reverse():
    base = {("total", "1"): "t1", ("raw", "1"): "r1"}
    own = {("total", "1"): "t2", ("new", "1"): "n1", ("raw", "1"): "r1"}
    found = differences(own, base, ["total", "new", "raw"])
    forth = promotion(FIX, PRODUCTION, found, {}, {}, by="ann", reason="")
    after = moved(base, forth.changes)
    assert after == {**base, **own}
    back = reversal(
        msgspec.structs.replace(PROMOTED, changes=forth.changes, code=()), after, {}, by="ann", reason=""
    )
    assert moved(after, back.changes) == base


class Moves:
    """The part of a catalog that is asked for moves."""

    def __init__(self, *newest_first: Move) -> None:
        self._moves = newest_first

    def moves(self, environment: str | None = None, *, limit: int = 50) -> tuple[Move, ...]:
        assert environment == "production"
        return tuple(msgspec.structs.replace(move, changes=(), code=()) for move in self._moves[:limit])

    def move_details(self, move_id: int) -> Move:
        return next(move for move in self._moves if move.id == move_id)


def made(number: int, **other) -> Move:
    return msgspec.structs.replace(PROMOTED, id=number, **other)


def test_the_newest_promotion_that_was_not_undone():
    history = Moves(
        made(9, kind="rollback", undoes=8), made(8, undone_by=9), made(7, kind="withdraw"), made(6), made(5)
    )
    assert last_promotion(history, "production") == made(6)


@pytest.mark.parametrize(
    "history", [(), (made(1, source=""),), (made(2, kind="rollback", undoes=1), made(1, undone_by=2))]
)
def test_no_promotion_to_take_back(history):
    with pytest.raises(NotFound, match="no promotion in 'production'") as caught:
        last_promotion(Moves(*history), "production")
    assert caught.value.hint
