"""Where two environments differ, and the digest of that."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.release.difference import Difference, differences, world_digest

BASE = {("a", "1"): "v1", ("a", "2"): "v2", ("b", "1"): "v3"}


def test_only_what_is_its_own_differs():
    own = {("b", "1"): "v9", ("a", "2"): "v8", ("a", "1"): "v1", ("new", "1"): "v7", ("gone", "1"): "v6"}
    assert differences(own, BASE, ["a", "b", "new"]) == (
        Difference("a", "2", "v2", "v8"),
        Difference("b", "1", "v3", "v9"),
        Difference("new", "1", None, "v7"),
    )


def test_nothing_of_its_own():
    assert differences({}, BASE, ["a", "b"]) == ()
    assert differences(BASE, BASE, ["a", "b"]) == ()


def test_every_part_of_every_place_counts_in_the_digest():
    one = Difference("a", "1", "v1", "v2")
    worlds = [
        (), (one,), (one, one), (Difference("b", "1", "v1", "v2"),), (Difference("a", "2", "v1", "v2"),),
        (Difference("a", "1", None, "v2"),), (Difference("a", "1", "v2", "v1"),),
        (one, Difference("b", "1", "v1", "v2")), (Difference("a", "1", "v1", "v3"),),
    ]  # fmt: skip
    assert all(world_digest(first) != world_digest(second) for first, second in combinations(worlds, 2))


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(st.builds(Difference, *[st.sampled_from("abc")] * 4), unique_by=lambda one: (one.dataset, one.partition)).flatmap(
    lambda found: st.tuples(st.just(found), st.permutations(found))
))  # fmt: skip
def test_order_does_not_count(pair):
    assert world_digest(pair[0]) == world_digest(pair[1])
