"""The crew of one worker, with processes that are played: who is given what, and what is heard of it."""

import os

import pytest
from played import HERE, STORED, THERE, Stage, manifest, partitions

from sidestage.errors import DefinitionError, StaleWorld
from sidestage.run.crew import worker_environment
from sidestage.run.crews import CodeLost
from sidestage.run.messages import LoadFailed


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(slots=1, most_attempts=100):
        made.append(Stage(tmp_path, slots, most_attempts))
        return made[0]

    yield make
    for each in made:
        each.crew.end()


def test_a_process_is_started_when_it_is_needed_and_sent_work_when_it_has_loaded(stage):
    here = stage()
    assert (here.crew.free, here.crew.busy, here.processes) == (1, False, [])
    here.submit("a")
    (process,) = here.processes
    assert process.heard() == [], "a message may be long, and a process that loads does not read"
    assert here.crew.busy
    process.loads()
    assert here.collect() == []
    assert partitions(process.heard()) == ["a"]
    process.writes("t@a")
    (found,) = here.collect()
    assert (found.request.partition, found.answer.stored, found.isolation) == ("a", STORED, "landlock-7")
    assert (here.crew.free, here.crew.busy) == (1, False)


def test_no_more_processes_than_slots(stage):
    here = stage(slots=2)
    here.submit("a", "b", "c")
    assert len(here.processes) == 2
    for process in here.processes:
        process.loads()
    here.collect()
    assert [partitions(process.heard()) for process in here.processes] == [["a"], ["b"]]
    here.processes[1].writes("t@b")
    here.collect()
    assert partitions(here.processes[1].heard()) == ["c"]


def test_tiny_attempts_are_sent_ahead_and_long_ones_are_not(stage):
    here = stage()
    process = here.at_pace()
    assert here.crew.free > 10
    here.submit("a", "b", "c")
    assert partitions(process.heard()) == ["a", "b", "c"]
    process.writes("t@a", seconds=5.0)
    here.collect()
    here.submit("d")
    assert process.heard() == []
    process.writes("t@b", seconds=5.0)
    process.writes("t@c", seconds=5.0)
    assert len(here.collect()) == 2
    assert partitions(process.heard()) == ["d"]


def test_after_its_last_attempt_a_process_is_replaced(stage):
    here = stage(most_attempts=2)
    process = here.at_pace()
    here.submit("a", "b")
    assert partitions(process.heard()) == ["a"], "no more than it may make"
    process.writes("t@a")
    assert len(here.collect()) == 1
    assert process.ended_by == -9
    assert here.processes[1].heard() == []
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["b"]


def test_code_that_cannot_be_loaded_is_said_with_all_that_waits_for_it(stage):
    here = stage(slots=2)
    here.submit("a", "b", "c")
    here.submit("d", home=THERE)
    here.processes[0].says(LoadFailed("DefinitionError", "no such thing", "look", "trace"))
    (found,) = here.collect()
    assert isinstance(found, CodeLost)
    assert (found.home, sorted(partitions(found.requests))) == (HERE, ["a", "b", "c"])
    with pytest.raises(DefinitionError, match="no such thing") as caught:
        here.crew.manifest(HERE)
    assert caught.value.hint == "look"
    assert [process.home for process in here.processes if process.ended_by is None] == [THERE]


def test_code_that_was_changed_is_not_run(stage):
    here = stage(slots=2)
    here.submit("a", "b")
    here.processes[0].loads()
    here.processes[1].loads(manifest("2"))
    (found,) = here.collect()
    assert isinstance(found.error, StaleWorld)
    assert "p.t" in found.error.message


def test_a_manifest_is_loaded_once_and_by_whoever_comes_first(stage):
    here = stage()
    assert here.crew.manifest(HERE) is None
    assert here.crew.manifest(HERE) is None
    assert len(here.processes) == 1
    here.processes[0].loads()
    here.collect()
    assert here.crew.manifest(HERE) == manifest()
    here.submit("a")
    assert len(here.processes) == 1


def test_an_idle_process_makes_room_for_another_home(stage):
    here = stage()
    here.at_pace()
    here.submit("a", home=THERE)
    assert [process.home for process in here.processes] == [HERE, THERE]
    assert here.processes[0].ended_by is not None


def test_another_home_gets_its_turn_however_much_there_is_to_do_for_the_first(stage):
    here = stage()
    process = here.at_pace()
    here.submit(*"abc")
    here.submit("x", home=THERE)
    here.submit(*"def")
    for step in "abc":
        process.writes(f"t@{step}", 0.001)
        here.collect()
        here.submit(f"more-{step}")
    assert [each.home for each in here.processes] == [HERE, THERE]
    here.processes[1].loads()
    here.collect()
    assert partitions(here.processes[1].heard()) == ["x"]


def test_each_attempt_has_its_own_log_although_they_were_sent_together(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    output = here.outputs[0]
    os.write(output.writing_end, b"of a" + output.mark + b"of b")
    process.writes("t@a")
    process.writes("t@b")
    assert len(here.collect()) == 2
    assert (here.folder / "a.log").read_text() == "of a"
    assert (here.folder / "b.log").read_text() == "of b"


def test_at_the_end_all_are_gone_and_so_are_their_files(stage):
    here = stage(slots=2)
    here.submit("a", "b")
    (here.folder / "hand-1" / "deep").mkdir()
    (here.folder / "hand-1" / "deep" / "file").touch()
    here.crew.end()
    assert [process.ended_by for process in here.processes] == [-9, -9]
    assert list(here.folder.glob("hand-*")) == []
    assert not here.crew.busy


def test_thread_pools_share_the_processors():
    given = {"PATH": "/bin", "OMP_NUM_THREADS": "7"}
    found = worker_environment(10_000, given)
    assert found["POLARS_MAX_THREADS"] == "1"
    assert found["OMP_NUM_THREADS"] == "7", "what a user says is heeded"
    assert found["PATH"] == "/bin"
