"""Circuit breaker: when it opens, how long it stays open, and how it finds its way back."""

import itertools
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import COUNTED, Breaker, Circuit, CircuitTurned, Permit
from sidestage.policy.failure import RETRYABLE
from sidestage.testing.turned_clock import HandClock


def opened(**numbers):
    """Return a circuit that has just opened, its clock and what it told."""
    clock, heard = HandClock(), []
    circuit = Circuit("sink", Breaker(in_a_row=1, **numbers), clock, heard.append)
    circuit.failed(leave(circuit))
    return circuit, clock, heard


def leave(circuit: Circuit) -> Permit:
    permit = circuit.permit()
    assert isinstance(permit, Permit), f"refused for {permit} s"
    return permit


def call(circuit: Circuit, *, well: bool) -> None:
    permit = leave(circuit)
    circuit.succeeded(permit) if well else circuit.failed(permit)


def test_it_opens_at_a_share_of_failures_once_there_were_enough_calls():
    circuit = Circuit("sink", Breaker(share=0.5, least=10, window=20, in_a_row=None), HandClock())
    for number in range(9):
        call(circuit, well=number % 2 == 1)
        assert circuit.state == "closed", "nine calls are too few to tell"
    call(circuit, well=False)
    assert circuit.state == "open"


def test_what_lies_before_the_window_is_forgotten():
    circuit = Circuit("sink", Breaker(share=0.5, least=4, window=4, in_a_row=None), HandClock())
    for number in range(40):
        call(circuit, well=number % 4 != 3)
    assert circuit.snapshot().calls == 4
    assert circuit.state == "closed", "one of the last four, ten in all"
    call(circuit, well=True)
    call(circuit, well=False)
    assert circuit.state == "open", "two of the last four"


@pytest.mark.parametrize(("row", "state"), [(4, "closed"), (5, "open")])
def test_it_opens_after_failures_in_a_row(row, state):
    circuit = Circuit("sink", Breaker(in_a_row=5), HandClock())
    call(circuit, well=True)
    for _ in range(row):
        call(circuit, well=False)
    assert circuit.state == state


def test_a_success_ends_the_row():
    circuit = Circuit("sink", Breaker(in_a_row=2), HandClock())
    for _ in range(9):
        call(circuit, well=False)
        call(circuit, well=True)
    assert circuit.state == "closed"


def test_an_open_circuit_says_how_long_to_wait():
    circuit, clock, _ = opened(pause=5)
    assert circuit.permit() == 5
    clock.advance(4.5)
    assert circuit.permit() == 0.5
    assert circuit.snapshot().wait == 0.5
    clock.advance(0.5)
    assert isinstance(circuit.permit(), Permit)
    assert circuit.state == "half-open"


def test_pauses_double_up_to_the_longest_and_start_anew_after_recovery():
    circuit, clock, heard = opened(pause=5, longest=15, least=2, window=2, share=1.0)
    for pause in (5, 10, 15, 15):
        assert heard[-1].pause == pause
        clock.advance(pause)
        call(circuit, well=False)
    clock.advance(15)
    call(circuit, well=True)
    call(circuit, well=False)
    assert heard[-1].pause == 15, "one good call is no recovery"
    clock.advance(15)
    for _ in range(3):
        call(circuit, well=True)
    call(circuit, well=False)
    assert heard[-1].pause == 5


def test_so_many_trials_go_through_and_all_must_succeed():
    circuit, clock, heard = opened(trials=3, pause=5)
    clock.advance(5)
    trials = [leave(circuit) for _ in range(3)]
    assert circuit.permit() == 5, "no more than three, and there is no use in asking all the time"
    circuit.succeeded(trials[0])
    circuit.succeeded(trials[1])
    assert circuit.state == "half-open"
    circuit.succeeded(trials[2])
    assert circuit.state == "closed"
    assert [(each.before, each.after) for each in heard] == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]
    assert all(isinstance(each, CircuitTurned) and each.circuit == "sink" and each.why for each in heard)


def test_an_answered_trial_counts_once():
    circuit, clock, _ = opened(trials=2)
    clock.advance(5)
    trial = leave(circuit)
    circuit.succeeded(trial)
    circuit.succeeded(trial)
    assert circuit.state == "half-open"


def test_a_trial_that_never_answers_does_not_block_it_for_ever():
    circuit, clock, heard = opened(pause=5, patience=60)
    clock.advance(5)
    lost = leave(circuit)
    clock.advance(59)
    assert circuit.permit() == 1
    clock.advance(1)
    assert circuit.permit() == 10, "it counts as a failure: open again, for longer"
    assert "60 s" in heard[-1].why
    circuit.succeeded(lost)
    assert circuit.state == "open", "an answer from another time"
    clock.advance(10)
    call(circuit, well=True)
    assert circuit.state == "closed"


def test_a_withdrawn_trial_makes_room_for_another():
    circuit, clock, _ = opened()
    clock.advance(5)
    circuit.withdrawn(leave(circuit))
    call(circuit, well=True)
    assert circuit.state == "closed"


def test_answers_of_calls_made_before_it_opened_do_not_close_it():
    clock = HandClock()
    circuit = Circuit("sink", Breaker(in_a_row=1), clock)
    early, late, other = leave(circuit), leave(circuit), leave(circuit)
    circuit.failed(early)
    circuit.succeeded(late)
    assert circuit.state == "open"
    clock.advance(5)
    trial = leave(circuit)
    circuit.failed(other)
    assert circuit.state == "half-open"
    circuit.succeeded(trial)
    assert circuit.state == "closed"


def test_answers_from_before_it_opened_do_not_count_after_it_closed():
    clock = HandClock()
    circuit = Circuit("sink", Breaker(in_a_row=1), clock)
    slow = leave(circuit)
    call(circuit, well=False)
    clock.advance(5)
    call(circuit, well=True)
    circuit.failed(slow)
    assert circuit.state == "closed"


@pytest.mark.parametrize("failure", ["bug", "schema", "validation", "stale"])
def test_what_is_wrong_with_one_item_is_no_failure_of_the_place(failure):
    circuit = Circuit("sink", Breaker(in_a_row=1), HandClock())
    circuit.failed(leave(circuit), failure)
    assert circuit.state == "closed"
    assert failure not in COUNTED


@pytest.mark.parametrize("failure", sorted(COUNTED))
def test_what_is_wrong_with_the_place_counts(failure):
    circuit = Circuit("sink", Breaker(in_a_row=1), HandClock())
    circuit.failed(leave(circuit), failure)
    assert circuit.state == "open"
    assert COUNTED >= RETRYABLE


def test_a_listener_may_ask_the_circuit():
    seen = []
    circuit = Circuit("sink", Breaker(in_a_row=1), HandClock(), lambda event: seen.append(circuit.permit()))
    circuit.failed(leave(circuit))
    assert seen == [5.0]


def test_many_threads_and_no_more_trials_than_allowed():
    circuit, clock, heard = opened(trials=3)
    clock.advance(5)
    got: list[Permit | float] = []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        got.extend(circuit.permit() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    permits = [each for each in got if isinstance(each, Permit)]
    assert len(permits) == len(set(permits)) == 3
    assert len(heard) == 2, "half-open is told once"


@pytest.mark.parametrize(
    "numbers",
    [
        {"share": 0},
        {"share": 1.1},
        {"share": float("nan")},
        {"least": 0},
        {"least": 101},
        {"in_a_row": 0},
        {"pause": 0},
        {"pause": 400},
        {"longest": float("inf")},
        {"trials": 0},
        {"patience": 0},
        {"patience": float("nan")},
    ],
)
def test_nonsense_is_refused(numbers):
    with pytest.raises(DefinitionError, match="makes no sense") as caught:
        Breaker(**numbers)
    assert caught.value.hint


class AnyHistory(RuleBasedStateMachine):
    """Calls begin, end, get lost; time passes. What is told must be what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.heard: list[CircuitTurned] = []
        self.breaker = Breaker(window=6, least=3, in_a_row=3, pause=2, longest=9, trials=2, patience=4)
        self.circuit = Circuit("sink", self.breaker, self.clock, self.heard.append)
        self.running: list[tuple[float, Permit]] = []

    @rule()
    def ask(self) -> None:
        answer = self.circuit.permit()
        if isinstance(answer, Permit):
            self.running.append((self.clock.monotonic(), answer))
        else:
            assert 0 < answer <= self.breaker.longest

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "withdrawn", "lost"]))
    def end(self, data, how) -> None:
        place = data.draw(st.integers(0, len(self.running) - 1))
        _, permit = self.running.pop(place)
        if how != "lost":
            getattr(self.circuit, how)(permit)

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds) -> None:
        self.clock.advance(seconds)

    @rule()
    def wait_as_told(self) -> None:
        """Whoever always waits as told gets through, whatever became of other calls."""
        for _ in range(60):
            answer = self.circuit.permit()
            if isinstance(answer, Permit):
                self.circuit.withdrawn(answer)
                return
            self.clock.advance(answer)
        pytest.fail("blocked for ever")

    @invariant()
    def tells_what_it_is(self) -> None:
        states = ["closed", *(each.after for each in self.heard)]
        assert states[-1] == self.circuit.state
        assert [each.before for each in self.heard] == states[:-1]
        assert ("closed", "half-open") not in set(itertools.pairwise(states))
        for each in self.heard:
            assert (each.after == "open") == (each.pause > 0)
        seen = self.circuit.snapshot()
        assert 0 <= seen.failures <= seen.calls <= self.breaker.window

    @invariant()
    def trials_are_few(self) -> None:
        if self.circuit.state == "half-open":
            turn = max(permit.turn for _, permit in self.running) if self.running else -1
            young = [each for at, each in self.running if each.turn == turn]
            if turn == len(self.heard):
                assert len(young) <= self.breaker.trials


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=80, stateful_step_count=40
)
