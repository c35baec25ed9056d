"""What ties a service to its worker, on a turned clock and a real channel."""

import threading
from collections.abc import Iterator

import msgspec
import pytest

from sidestage.run.service_messages import GoOn
from sidestage.run.tether import LOST, Tether
from sidestage.runtime.channel import connected_pair
from sidestage.testing.turned_clock import HandClock

PATIENT = 30.0


class Tied:
    """A process at the end of a tether, without the process."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.worker, self.own = connected_pair()
        self.lost, self.left = threading.Event(), threading.Event()
        self.status: list[int] = []
        self.may_cancel = threading.Event()
        self.may_cancel.set()
        self.tether = Tether(self.own, self.clock.monotonic, self.word(3, 4), self._cancel, self._leave)

    def word(self, until: float, over: float) -> GoOn:
        now = self.clock.monotonic()
        return GoOn(now + until, now + over)

    def tell(self, until: float, over: float) -> None:
        self.worker.send(msgspec.json.encode(self.word(until, over)))

    def _cancel(self) -> None:
        self.lost.set()
        self.may_cancel.wait(PATIENT)

    def _leave(self, status: int) -> None:
        self.status.append(status)
        self.left.set()


@pytest.fixture
def tied() -> Iterator[Tied]:
    tied = Tied()
    tied.tether.start()
    yield tied
    tied.may_cancel.set()
    tied.clock.advance(1000)
    assert tied.left.wait(PATIENT) or not tied.lost.is_set()
    tied.worker.close()
    tied.tether._thread.join(PATIENT)
    tied.own.close()


def test_without_a_word_it_cancels_and_then_leaves(tied: Tied) -> None:
    tied.clock.advance(2.9)
    assert not tied.lost.wait(0.6), "there is time left"
    tied.clock.advance(0.2)
    assert tied.lost.wait(PATIENT)
    assert tied.tether.is_lost
    assert not tied.left.wait(0.6), "it may still end by itself"
    tied.clock.advance(1)
    assert tied.left.wait(PATIENT)
    assert tied.status == [LOST]


def test_a_word_lets_it_go_on(tied: Tied) -> None:
    for _ in range(5):
        tied.clock.advance(2)
        tied.tell(3, 4)
        heard = threading.Event()
        while tied.tether._word.until < tied.clock.monotonic() + 2.5:
            heard.wait(0.01)
    assert not tied.lost.is_set()


def test_words_that_came_while_it_could_not_run_are_heard() -> None:
    """Code that holds the interpreter's lock for long, such as a large import, is no reason to stop."""
    tied = Tied()
    tied.tell(3, 4)
    tied.clock.advance(2.5)
    tied.tell(3, 4)
    tied.clock.advance(2.5)
    tied.tether.start()
    assert not tied.lost.wait(0.6)
    tied.tether.end()
    tied.worker.close()
    tied.tether._thread.join(PATIENT)
    tied.own.close()


def test_a_worker_that_is_gone_is_noticed_at_once(tied: Tied) -> None:
    tied.worker.close()
    assert tied.lost.wait(PATIENT)


def test_it_leaves_in_time_also_if_to_cancel_takes_too_long(tied: Tied) -> None:
    tied.may_cancel.clear()
    tied.worker.close()
    assert tied.lost.wait(PATIENT)
    tied.clock.advance(5)
    assert tied.left.wait(PATIENT)


def test_what_has_ended_is_left_alone() -> None:
    tied = Tied()
    tied.tether.start()
    tied.worker.close()
    assert tied.lost.wait(PATIENT)
    tied.tether.end()
    ending = [each for each in threading.enumerate() if each.name == "tether's end"]
    for each in ending:
        each.join(PATIENT)
        assert not each.is_alive()
    tied.clock.advance(1000)
    assert tied.status == []
    tied.own.close()
