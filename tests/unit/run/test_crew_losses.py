"""Attempts that are to stop, and processes that die or talk nonsense: what becomes of all others."""

import os
import signal

import pytest
from played import HERE, Stage, partitions

from sidestage.errors import ConfigurationError
from sidestage.policy.limits import Limits
from sidestage.run.crews import Answered, WorkerDied
from sidestage.run.hand import ASK
from sidestage.run.messages import Execute


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(slots=1, most_attempts=100):
        made.append(Stage(tmp_path, slots, most_attempts))
        return made[0]

    yield make
    for each in made:
        each.crew.end()


def here_request(here, process, name):
    log = str(here.folder / f"{name}.log")
    return Execute(1, f"t@{name}", "p.t", name, f"{name:0>24}", 1, "key", (), log)


def test_a_process_that_dies_costs_the_attempt_that_it_made_and_no_other(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b", "c")
    os.write(here.outputs[0].writing_end, b"last words")
    half_written = here.folder / "lake" / "shop" / "d" / f".a~{'a':0>24}.parquet.tmp"
    half_written.parent.mkdir(parents=True)
    half_written.touch()
    process.dies(-11)
    assert here.collect() == [
        WorkerDied(found := here_request(here, process, "a"), "killed by SIGSEGV", "landlock-7")
    ], found
    assert (here.folder / "a.log").read_text() == "last words"
    assert not half_written.exists()
    assert not (here.folder / "hand-1").exists()
    (_, other) = here.processes
    other.loads()
    here.collect()
    assert partitions(other.heard()) == ["b", "c"]


def test_a_death_is_noticed_although_somebody_holds_the_channel(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    process.writes("t@a")
    process.dead = 5  # a copy that it forked holds the other end open
    found = here.collect(seconds=1.0)
    assert [type(each) for each in found] == [Answered, WorkerDied]
    assert (found[1].running.partition, found[1].how) == ("b", "exited with status 5")


def test_a_process_that_was_spoilt_is_replaced_and_what_waited_goes_to_its_successor(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b", "c")
    process.fails("t@a", "resource", is_last=True)
    (found,) = here.collect()
    assert found.answer.failure_class == "resource"
    assert process.ended_by is not None
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["b", "c"]


def test_who_is_to_stop_is_asked_then_told_then_killed(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    here.crew.stop(["a".zfill(24)])
    assert process.signals == [ASK]
    here.collect(seconds=0.9)
    assert process.signals == [ASK]
    here.collect(seconds=0.2)
    here.collect(seconds=0.2)
    assert process.signals == [ASK, signal.SIGTERM]
    found = here.collect(seconds=1.0)
    assert process.signals == [ASK, signal.SIGTERM, signal.SIGKILL]
    assert found == [], "nothing more is heard of it"
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["b"]


def test_who_stops_too_late_is_not_trusted_with_what_follows(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    here.crew.stop(["a".zfill(24)])
    process.writes("t@a")  # it ended while the signal was on its way, and b may be what hears it
    assert here.collect() == []
    assert process.ended_by is not None
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["b"]


def test_what_waits_and_is_not_wanted_is_never_given_or_heard_of(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    here.crew.stop(["b".zfill(24)])
    assert process.signals == []
    process.writes("t@a")
    assert len(here.collect()) == 1
    assert process.signals == [ASK], "it begins just now"
    process.fails("t@b", "transient", is_last=True)
    assert here.collect() == []
    assert not here.crew.busy


def test_what_is_not_wanted_while_the_code_loads_is_forgotten(stage):
    here = stage()
    here.submit("a")
    here.crew.stop(["a".zfill(24)])
    (process,) = here.processes
    assert process.signals == []
    assert not here.crew.busy
    process.loads()
    here.collect()
    assert process.heard() == []
    here.submit("b")
    assert partitions(process.heard()) == ["b"]


def test_a_limit_that_is_exceeded_is_named(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", limits=Limits(time=3))
    here.collect(seconds=2.0)
    assert process.signals == []
    here.collect(seconds=2.0)
    assert process.signals == [ASK]
    process.fails("t@a", "transient", is_last=True)
    (found,) = here.collect()
    assert found.answer.failure_class == "resource"
    assert found.answer.message == "The task ran for 4 s, longer than its limit of 3 s; it was stopped."


def test_one_that_has_to_be_killed_for_its_limit_is_a_failure_of_that_limit(stage):
    here = stage()
    here.at_pace()
    here.submit("a", limits=Limits(time=3))
    here.collect(seconds=4.0)
    (found,) = here.collect(seconds=3.0)
    assert isinstance(found, Answered)
    assert found.answer.failure_class == "resource"
    assert "longer than its limit of 3 s" in found.answer.message


@pytest.mark.parametrize("nonsense", [b"no JSON", b'{"type":"unknown"}'])
def test_a_process_that_talks_nonsense_is_killed_and_only_its_attempt_fails(stage, nonsense):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    process.other.send(nonsense)
    (found,) = here.collect()
    assert (found.running.partition, found.how) == ("a", "killed by SIGKILL")
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["b"]


@pytest.mark.parametrize("step", ["t@b", "t@never"])
def test_an_answer_to_what_it_does_not_run_is_nonsense(stage, step):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    process.writes(step)
    (found,) = here.collect()
    assert (found.running.partition, found.how) == ("a", "killed by SIGKILL")


def test_an_answer_that_nobody_waits_for_does_no_harm(stage):
    here = stage()
    process = here.at_pace()
    process.writes("t@0")
    assert here.collect() == []
    assert process.ended_by is not None
    here.submit("a")
    assert len(here.processes) == 2


def test_processes_that_keep_dying_while_they_load_are_given_up(stage):
    here = stage()
    here.submit("a")
    for _ in range(3):
        here.processes[-1].dies(-11)
        assert here.collect() == []
    os.write(here.outputs[-1].writing_end, b"Segmentation fault")
    here.processes[-1].dies(-11)
    (lost,) = here.collect()
    assert (lost.home, partitions(lost.requests)) == (HERE, ["a"])
    assert "killed by SIGSEGV" in lost.error.message
    assert "Segmentation fault" in lost.error.message
    with pytest.raises(ConfigurationError):
        here.crew.manifest(HERE)
