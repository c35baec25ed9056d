"""Plays the processes of a crew: the test says what they answer, and sees how they were treated."""

import signal
from datetime import UTC, datetime

import msgspec

from sidestage.data.lake import Lake
from sidestage.data.version import Digest, Stored
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.policy.limits import Limits
from sidestage.policy.retry import Retry
from sidestage.run.crew import Crew
from sidestage.run.crews import Home
from sidestage.run.hand import Hand, Patience
from sidestage.run.messages import Execute, Failed, Loaded, Written
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


def partitions(requests):
    return [each.partition for each in requests]
