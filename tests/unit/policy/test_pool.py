"""Pools: how many slots a pipeline can take."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.pool import Pool

steady = settings(derandomize=True, database=None, deadline=None, max_examples=300)
NAMES = ["ann", "bob", "eve"]


def test_all_that_is_not_held_is_free():
    pool = Pool("api", 4)
    assert pool.free_for("ann", {}) == 4
    assert pool.free_for("ann", {"ann": 1, "bob": 2}) == 1
    assert pool.free_for("ann", {"bob": 4}) == 0


def test_what_is_kept_for_others_is_not_free_for_anybody_else_even_while_it_is_not_used():
    pool = Pool("api", 4, {"bob": 2})
    assert pool.free_for("ann", {}) == 2
    assert pool.free_for("bob", {}) == 4
    assert pool.free_for("ann", {"ann": 2}) == 0
    assert pool.free_for("bob", {"ann": 2}) == 2


def test_what_is_kept_and_used_is_not_counted_twice():
    pool = Pool("api", 4, {"bob": 2})
    assert pool.free_for("ann", {"bob": 1}) == 2
    assert pool.free_for("ann", {"bob": 2}) == 2
    assert pool.free_for("ann", {"bob": 3}) == 1


@pytest.mark.parametrize(
    ("slots", "reserved"), [(0, {}), (-1, {}), (2, {"ann": 3}), (2, {"ann": 1, "bob": 2}), (2, {"ann": -1})]
)
def test_numbers_that_make_no_sense(slots, reserved):
    with pytest.raises(DefinitionError, match="Pool 'api' has"):
        Pool("api", slots, reserved)


@st.composite
def pools(draw):
    reserved = draw(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)))
    return Pool("api", sum(reserved.values()) + draw(st.integers(1, 4)), reserved)


@steady
@given(pools(), st.lists(st.sampled_from(NAMES), max_size=40))
def test_whoever_takes_what_is_free_never_takes_too_much_nor_what_is_kept_for_others(pool, asked):
    held: dict[str, int] = {}
    for name in asked:
        if pool.free_for(name, held) >= 1:
            held[name] = held.get(name, 0) + 1
    assert sum(held.values()) <= pool.slots
    for name in NAMES:
        kept = pool.reserved.get(name, 0) - held.get(name, 0)
        assert pool.free_for(name, held) >= max(0, kept), "what is kept for a pipeline is there when it comes"
