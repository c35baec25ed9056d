"""Processes that stop for longer than their leases and then go on, as after a long swap or a frozen machine.

*publisher*: of several that share a run, one after the other is paused (SIGSTOP) past its lease while others
take its steps; when it goes on (SIGCONT), it must be fenced. *latecomer*: one goes on for certain while
another works on the very steps that it had claimed. *worker* is one of two ``sidestage worker``, *main* is
``sidestage run``, *task* a process that runs tasks for it.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from sidestage.data.lake import Lake
from sidestage.run.assignment import LEASE_SECONDS as WORKER_LEASE_SECONDS
from sidestage.store.sql import SqlStore, open_store
from torture import kills
from torture.acknowledged import Acknowledged
from torture.oracle import Findings, Judge, clean, judge_rest
from torture.publisher import Assignment, Publisher
from torture.report import Row
from torture.rig import LIMIT_SECONDS, Rig
from torture.weakened import Safeguard

PUBLISHERS = 3
LEASE_SECONDS = 0.4
WORK_SECONDS = 0.08
PAUSES_OF_A_RUN = 8
STEPS_FOR_A_PAUSE = 60
LONG_SECONDS = 4.0
HOLD_SECONDS = 3.0
LOOK_SECONDS = 0.02
MORE_PAUSES = 10
"""How often more a publisher is paused if none held anything that others could take."""
PAUSE_SECONDS = WORKER_LEASE_SECONDS * 1.2
COMMAND_SHARE = 0.1


@dataclass
class Bench:
    """A run that several publishers share."""

    folder: Path
    row: Row
    without: tuple[Safeguard, ...] = ()
    findings: Findings = field(default_factory=Findings)
    publishers: dict[str, Publisher] = field(default_factory=dict)
    taken: int = 0

    def __post_init__(self) -> None:
        self.lake = Lake(self.folder / "lake")
        self._number = 0

    def store(self) -> SqlStore:
        """Open the catalog."""
        return open_store(f"sqlite:///{self.folder}/catalog.db")

    def share_a_run(self, chance: random.Random, pauses: int) -> None:
        """Let publishers share a run, pause them one after the other, then see all of them end."""
        steps = STEPS_FOR_A_PAUSE * pauses
        try:
            for _ in range(PUBLISHERS):
                self._start(steps).go()
            for _ in range(pauses):
                if not self._pause(chance):
                    break
        finally:
            said = {name: self._end(name) for name in list(self.publishers)}
        self._judge(said)

    def come_late(self) -> None:
        """Let a publisher go on while another works on the steps that it had claimed."""
        steps = 4
        try:
            late = self._start(steps, slow=0.0)
            os.kill(late.pid, signal.SIGSTOP)
            self.row.injected["latecomer"] += 1
            time.sleep(LEASE_SECONDS)
            prompt = self._start(steps, slow=LONG_SECONDS, lease=LIMIT_SECONDS)
            late.go()
            prompt.go()
            os.kill(late.pid, signal.SIGCONT)
        finally:
            said = {name: self._end(name) for name in list(self.publishers)}
        self._judge(said)

    def finish(self) -> None:
        """Clean, and judge what is left."""
        with self.store() as store:
            clean(store, self.lake)
            self.findings.add(Judge(self.lake).judge(store, (), all_files=True))
            self.findings.add(judge_rest(store, self.lake))

    def _start(self, steps: int, slow: float = WORK_SECONDS, lease: float = LEASE_SECONDS) -> Publisher:
        """Start a publisher and wait for its first claims. The first one begins the run, others find it."""
        self._number += 1
        name = f"publisher {self._number}"
        publisher = Publisher(
            Assignment(
                url=f"sqlite:///{self.folder}/catalog.db",
                lake=str(self.lake.root),
                owner=name,
                steps=steps,
                runs=1,
                repeat=1,
                lease=lease,
                slow=slow,
                waits=True,
                without=self.without,
            )
        )
        self.publishers[name] = publisher
        publisher.wait_until_ready()
        return publisher

    def _pause(self, chance: random.Random) -> bool:
        """Pause a publisher for longer than its lease; return False if none works any more."""
        working = [name for name, each in self.publishers.items() if each.process.exitcode is None]
        if not working:
            return False
        time.sleep(chance.random() * WORK_SECONDS)
        name = chance.choice(working)
        pid = self.publishers[name].pid
        if not _signal(pid, signal.SIGSTOP):
            return True
        self.row.injected["publisher"] += 1
        time.sleep(LEASE_SECONDS + chance.random() * 2 * WORK_SECONDS)
        self._wait_while_it_holds(name)
        _signal(pid, signal.SIGCONT)
        return True

    def _wait_while_it_holds(self, name: str) -> None:
        """Wait until others took what a paused publisher holds. Not for long: it may hold the database."""
        until = time.monotonic() + HOLD_SECONDS
        with self.store() as store:
            run = store.runs(limit=1)[0].id
            while time.monotonic() < until and any(
                each.owner == name and each.state == "running" for each in store.attempts(run)
            ):
                time.sleep(LOOK_SECONDS)

    def _end(self, name: str) -> list[Acknowledged]:
        status, said = self.publishers.pop(name).end(kill=False, seconds=LIMIT_SECONDS)
        if status != 0:
            self.findings.stuck.append(f"{name} ended with {status}")
        return said

    def _judge(self, said: dict[str, list[Acknowledged]]) -> None:
        everything = [each for words in said.values() for each in words]
        self.row.acknowledged += len(everything)
        with self.store() as store:
            self.findings.add(Judge(self.lake).judge(store, everything))
            newest = store.runs(limit=1)[0]
            left = [step.id for step in store.steps(newest.id) if step.state != "done"]
            attempts = store.attempts(newest.id)
        self.taken += sum(each.state == "abandoned" for each in attempts)
        if left:
            self.findings.stuck.append(f"{len(left)} steps were left, such as {left[0]}")
        holders = {each.step: each.owner for each in attempts if each.state == "done"}
        for name, words in said.items():
            self.findings.twice.extend(
                f"{name} published {each.step} after {holders.get(each.step)} had claimed it"
                for each in words
                if holders.get(each.step) != name
            )


def run(pauses: int, seed: int, folder: Path) -> Row:
    """Pause so many times; and a few times with publishers that the store does not fence."""
    row, chance = Row("pause"), random.Random(f"pause {seed}")
    commands = max(3, round(pauses * COMMAND_SHARE))
    taken = 0
    row.findings.add(_late(row, folder, ()))
    more = MORE_PAUSES
    while (left := pauses - commands - row.injected.total()) > 0 or (not taken and more):
        more -= left <= 0
        with tempfile.TemporaryDirectory(dir=folder) as place:
            bench = Bench(Path(place), row)
            bench.share_a_run(chance, min(max(left, 1), PAUSES_OF_A_RUN))
            bench.finish()
        row.findings.add(bench.findings)
        taken += bench.taken
    row.notes.append(f"{taken} steps were taken over from paused publishers")
    if not taken:
        row.findings.stuck.append("no step was ever taken over from a paused publisher")
    _pause_commands(row, folder, chance, commands)
    row.judge_control("without fencing", _late(Row("control"), folder, ("fencing",)).twice)
    return row


def _late(row: Row, folder: Path, without: tuple[Safeguard, ...]) -> Findings:
    """Return what is wrong after a publisher came late."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        bench = Bench(Path(place), row, without)
        bench.come_late()
        return bench.findings


def _pause_commands(row: Row, folder: Path, chance: random.Random, pauses: int) -> None:
    """Pause a process of the command, in a project for each pause."""
    for number in range(pauses):
        home = folder / f"pause{number}"
        home.mkdir()
        rig = Rig.make(home, kills.CODE)
        try:
            rig("status")
            if number % 3 == 0:
                said = _pause_one_of_two(row, rig, chance)
            else:
                said = _pause_run(row, rig, chance, ("main", "task")[number % 2])
            row.acknowledged += len(said)
            rig("run", "small", *kills.ALL)
            with rig.store() as store:
                row.findings.add(Judge(rig.lake).judge(store, said, all_files=True))
            row.findings.add(kills.judge_project(rig))
        finally:
            rig.end_all(seconds=0.0)
            shutil.rmtree(home)


def _pause_run(row: Row, rig: Rig, chance: random.Random, whom: str) -> list[Acknowledged]:
    """Pause ``sidestage run``, or one of its processes that run tasks, while a second one is started."""
    running = rig.start("run", "small", *kills.ALL)
    running.wait(chance.randrange(1, kills.STEPS // 2))
    children = running.children()
    victim = running.process.pid if whom == "main" or not children else children[0].pid
    row.injected[whom] += _signal(victim, signal.SIGSTOP)
    other = rig.start("run", "small", *kills.ALL)
    running.sleep(PAUSE_SECONDS)
    _signal(victim, signal.SIGCONT)
    status, error = running.end()
    other.end()  # refused or not, it must not do harm
    if status != 0:
        row.findings.stuck.append(f"{whom}: the paused command ended with {status}: {error}")
    return [*running.acknowledged(), *other.acknowledged()]


def _pause_one_of_two(row: Row, rig: Rig, chance: random.Random) -> list[Acknowledged]:
    """Pause one of two ``sidestage worker`` that execute a run; the other takes over, and both end."""
    rig("run", "small")  # the first complete run, which alone may give production its code, is attended
    rig("run", "small", "--detach", "--recompute", "--reason", "pause")
    workers = [rig.start("worker", "--until-idle", "--slots", "2") for _ in range(2)]
    late = workers[chance.randrange(2)]
    late.wait(chance.randrange(1, kills.STEPS // 4))
    row.injected["worker"] += _signal(late.process.pid, signal.SIGSTOP)
    paused_at = time.monotonic()
    late.sleep(PAUSE_SECONDS)
    _signal(late.process.pid, signal.SIGCONT)
    for worker in workers:
        status, error = worker.end()
        if status != 0:
            row.findings.stuck.append(f"worker: it ended with {status}: {error}")
    said = [each for worker in workers for each in worker.acknowledged()]
    with rig.store() as store:
        newest = store.runs(limit=1)[0].id
        taken = [each for each in store.attempts(newest) if each.state == "abandoned"]
        left = [step.id for step in store.steps(newest) if step.state != "done"]
    after = sorted(each.moment - paused_at for each in said if each.moment > paused_at)
    row.notes.append(
        f"worker paused: {len(taken)} of its steps were taken over, {len(after)} publications followed"
    )
    if left:
        row.findings.stuck.append(f"worker: {len(left)} steps were left, such as {left[0]}")
    return said


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; return False if the process has just ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
