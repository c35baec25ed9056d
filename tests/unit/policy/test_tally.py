"""Counts over the last seconds, against counting everything anew."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.policy.tally import Tally

steady = settings(derandomize=True, database=None, deadline=None, max_examples=150)


def test_it_covers_the_running_tenth_and_the_nine_before():
    tally: Tally[str] = Tally(10)
    for second in range(25):
        tally.forget(second)
        tally.add(second, 4, {"bad": 1})
    assert (tally.items, tally.marks, tally.share) == (40, 10, 0.25)
    gone = tally.forget(30)
    assert [each.number for each in gone] == [15, 16, 17, 18, 19, 20]
    assert tally.items == 16


def test_empty():
    tally: Tally[str] = Tally(10)
    assert (tally.items, tally.marks, tally.share) == (0, 0, 0.0)
    assert tally.forget(1e9) == []


@steady
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.sampled_from(["", "a", "b"])), max_size=60)
)
def test_as_if_everything_were_counted_anew(added):
    tally: Tally[str] = Tally(10)
    now, everything = 0, []
    for seconds, items, mark in added:
        now += seconds
        gone = tally.forget(now)
        tally.add(now, items, {mark: items} if mark else {})
        everything.append((now, items, mark))
        young = [each for each in everything if each[0] > now - 10]
        assert tally.items == sum(items for _, items, _ in young)
        for name in "ab":
            assert tally.marked[name] == sum(items for _, items, mark in young if mark == name)
        assert all(slot.number <= now - 10 for slot in gone)
