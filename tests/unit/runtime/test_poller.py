"""Waiting for many at once."""

import os

import pytest

from sidestage.runtime.poller import Poller


class Somebody:
    """Two pipes: one who is heard."""

    def __init__(self, pipes):
        self.ends = [os.pipe() for _ in range(pipes)]

    def descriptors(self):
        return tuple(reading for reading, _ in self.ends)

    def say(self, number):
        os.write(self.ends[number][1], b"x")

    def close(self):
        for each in self.ends:
            for end in each:
                os.close(end)


@pytest.fixture
def crowd():
    people = [Somebody(2), Somebody(1)]
    yield people
    for each in people:
        each.close()


@pytest.fixture
def poller():
    made = Poller()
    yield made
    made.close()


def test_it_tells_who_is_to_be_heard_and_where(poller, crowd):
    ann, bob = crowd
    poller.watch(ann)
    poller.watch(bob)
    assert poller.ready(0) == []
    ann.say(1)
    assert poller.ready(0) == [(ann, ann.descriptors()[1])]
    bob.say(0)
    assert len(poller.ready(0)) == 2


def test_who_is_forgotten_is_not_heard(poller, crowd):
    ann, bob = crowd
    poller.watch(ann)
    poller.watch(bob)
    ann.say(0)
    ann.say(1)
    poller.forget_descriptor(ann.descriptors()[0])
    assert poller.ready(0) == [(ann, ann.descriptors()[1])]
    bob.say(0)
    poller.forget(bob)
    assert poller.ready(0) == [(ann, ann.descriptors()[1])]


def test_a_bell_ends_the_waiting_and_is_nobody(poller):
    reading, writing = os.pipe()
    os.write(writing, b"x")
    poller.wake_by(reading)
    assert poller.ready(60) == []
    poller.wake_by(None)
    assert poller.ready(0) == []
    os.close(reading)
    os.close(writing)


def test_another_bell_takes_the_place_of_one_that_was_closed(poller):
    first, second = os.pipe(), os.pipe()
    poller.wake_by(first[0])
    for end in first:
        os.close(end)
    poller.wake_by(second[0])
    os.write(second[1], b"x")
    assert poller.ready(60) == []
    for end in second:
        os.close(end)


def test_somebody_may_get_the_number_of_a_bell_that_was_closed(poller):
    bell = os.pipe()
    poller.wake_by(bell[0])
    for end in bell:
        os.close(end)
    ann = Somebody(1)  # the system gives the lowest free numbers
    assert ann.descriptors() == (bell[0],)
    poller.watch(ann)
    other = os.pipe()
    poller.wake_by(other[0])
    ann.say(0)
    assert poller.ready(0) == [(ann, bell[0])]
    poller.forget(ann)
    for end in other:
        os.close(end)
    ann.close()
