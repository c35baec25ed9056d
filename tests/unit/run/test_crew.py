"""The crew of one worker, with processes that are played: who is given what, and what becomes of it."""

import os
import signal
from datetime import UTC, datetime

import msgspec
import pytest

from sidestage.data.lake import Lake
from sidestage.data.version import Digest, Stored
from sidestage.errors import ConfigurationError, DefinitionError, StaleWorld
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.policy.limits import Limits
from sidestage.policy.retry import Retry
from sidestage.run.crew import Crew, worker_environment
from sidestage.run.crews import Answered, CodeLost, Home, WorkerDied
from sidestage.run.hand import ASK, Hand, Patience
from sidestage.run.messages import Execute, Failed, Loaded, LoadFailed, Written
from sidestage.runtime.channel import connected_pair
from sidestage.runtime.output import Output
from sidestage.testing.turned_clock import HandClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STORED = Stored("", 1, "0" * 32, (), Digest("a", 1, "0" * 32, ()), "1")
HERE, THERE = Home("/here"), Home("/there")


def manifest(fingerprint="1"):
    task = TaskSpec("p.t", "p", "t", (), "shop/d", fingerprint, "file:1", Retry())
    return Manifest((), (), (task,))


class Process:
    """Plays a process: the test says what it answers, and sees how it was treated."""

    pid = 0x7FFFFFF0  # nobody's

    def __init__(self, home):
        self.home = home
        self.channel, self.other = connected_pair()
        self.signals = []
        self.dead = self.ended_by = None

    def says(self, message):
        self.other.send(msgspec.json.encode(message))

    def loads(self, found=None):
        self.says(Loaded(found or manifest(), "landlock-7"))

    def heard(self):
        return [msgspec.json.decode(each, type=Execute) for each in self.other.receive_ready() or ()]

    def writes(self, step, seconds=1.0, **more):
        self.says(Written(step, STORED, (), seconds, seconds, NOW, **more))

    def fails(self, step, kind="bug", **more):
        self.says(Failed(step, kind, "no luck", "", (), **more))

    def dies(self, status):
        self.dead = status
        self.other.close()

    # What a Hand asks of it:

    @property
    def is_dead(self):
        return self.dead is not None

    def send(self, message):
        self.channel.send(message)

    def signal(self, number):
        self.signals.append(number)

    def kill(self):
        self.signals.append(signal.SIGKILL)
        self.dead = -9 if self.dead is None else self.dead

    def ended(self):
        return self.end()

    def end(self):
        self.ended_by = self.dead if self.dead is not None else -9
        self.channel.close()
        self.other.close()
        return self.ended_by


class Stage:
    """A crew, the processes that it started, and a clock."""

    def __init__(self, folder, slots, most_attempts):
        self.folder, self.most_attempts = folder, most_attempts
        self.clock = HandClock()
        self.processes = []
        self.outputs = []
        self.lake = Lake(folder / "lake")
        self.crew = Crew(slots, self.start, self.clock, self.lake)

    def start(self, home):
        process, output = Process(home), Output()
        self.processes.append(process)
        self.outputs.append(output)
        temporary = self.folder / f"hand-{len(self.processes)}"
        temporary.mkdir()
        return Hand(
            process,
            home,
            output,
            self.clock,
            temporary=temporary,
            most_attempts=self.most_attempts,
            patience=Patience(1.0, 2.0),
        )

    def submit(self, *names, home=HERE, limits=None):
        for name in names:
            version = f"{name:0>24}"
            log = str(self.folder / f"{name}.log")
            request = Execute(1, f"t@{name}", "p.t", name, version, 1, "key", (), log, limits or Limits())
            self.crew.submit(request, home)

    def collect(self, seconds=0.0):
        self.clock.advance(seconds)
        return self.crew.collect(0.0)

    def at_pace(self, seconds=0.001):
        """Have one process that has loaded its code, and made one attempt that took so long."""
        self.submit("0")
        (process,) = self.processes
        process.loads()
        self.collect()
        assert [each.partition for each in process.heard()] == ["0"]
        process.writes("t@0", seconds)
        self.collect()
        return process


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(slots=1, most_attempts=100):
        made.append(Stage(tmp_path, slots, most_attempts))
        return made[0]

    yield make
    for each in made:
        each.crew.end()


def partitions(requests):
    return [each.partition for each in requests]


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


def here_request(here, process, name):
    log = str(here.folder / f"{name}.log")
    return Execute(1, f"t@{name}", "p.t", name, f"{name:0>24}", 1, "key", (), log)


def test_a_death_is_noticed_although_somebody_holds_the_channel(stage):
    here = stage()
    process = here.at_pace()
    here.submit("a", "b")
    process.writes("t@a")
    process.dead = 5  # a copy that it forked holds the other end open
    found = here.collect(seconds=1.0)
    assert [type(each) for each in found] == [Answered, WorkerDied]
    assert (found[1].running.partition, found[1].how) == ("b", "exited with status 5")


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
