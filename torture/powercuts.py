"""Power cuts: the file system forgets what was not synced. Catalog and lake lie on a disk whose power is cut.

Three kinds: *moment* cuts a publisher at random moments; *syscall* cuts it before each system call of a whole
publication, one after the other (it is stopped there by SIGKILL, and nothing else uses the disk); *command*
cuts the whole command with its workers. What was acknowledged before the cut must be there after it, and the
plain publisher or command must go on by itself.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sidestage.data.lake import Lake
from sidestage.store.sql import SqlStore, open_store
from torture import kills, tracing
from torture.acknowledged import Acknowledged
from torture.mounts import Disk, disk, why_no_disk
from torture.oracle import Findings, Judge, clean, judge_rest
from torture.publisher import Assignment, Publisher
from torture.report import Row
from torture.rig import LIMIT_SECONDS, Rig
from torture.weakened import Safeguard

CUTS_OF_A_DISK = 40
COMMAND_SHARE = 0.12
LONGEST_SECONDS = 0.25
"""A cut at a random moment comes at most this long after the first claims."""

# Every call by which LakeWriter and SQLite change a disk, and those that sync it.
CHANGES = ("mkdir", "write", "pwrite64", "rename", "unlink", "ftruncate", "fsync", "fdatasync")
CONTROL_CUTS = 4


@dataclass
class Bench:
    """A disk with a catalog and a lake, and what was acknowledged there."""

    disk: Disk
    row: Row
    without: tuple[Safeguard, ...] = ()
    findings: Findings = field(default_factory=Findings)
    owners: list[str] = field(default_factory=list)
    said: list[Acknowledged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lake = Lake(self.disk.root / "lake")
        self._judge = Judge(self.lake)

    def store(self) -> SqlStore:
        """Open the catalog."""
        return open_store(f"sqlite:///{self.disk.root}/catalog.db")

    def start(self, *, waits: bool = False, runs: int | None = None, batch: int = 4) -> Publisher:
        """Start a publisher that takes over from those before."""
        self.owners.append(f"publisher {len(self.owners)}")
        *dead, owner = self.owners
        assignment = Assignment(
            url=f"sqlite:///{self.disk.root}/catalog.db",
            lake=str(self.lake.root),
            owner=owner,
            dead=tuple(dead[-2:]),
            waits=waits,
            runs=runs,
            batch=batch,
            steps=20 if batch > 1 else 2,
            repeat=2 if batch > 1 else 1,
            without=self.without,
        )
        return Publisher(assignment)

    def end_run(self) -> None:
        """Have what is left of a run published, so that the next publisher begins one."""
        with self.store() as store:
            newest = store.runs(limit=1)
        if newest and newest[0].state == "running":
            self.take(*self.start(runs=1, batch=1).end(kill=False, seconds=LIMIT_SECONDS))

    def take(self, status: int | None, said: list[Acknowledged]) -> None:
        """Take in how a publisher ended that was to finish a run, and what it said."""
        self.said.extend(said)
        self.row.acknowledged += len(said)
        if status != 0:
            self.findings.stuck.append(f"a publisher that was let finish ended with {status}")
            self.row.manual += 1

    def restart(self, said: list[Acknowledged]) -> None:
        """Make the disk available again after a cut, and judge what is there."""
        self.disk.unmount()
        self.disk.mount()
        self.said.extend(said)
        self.row.acknowledged += len(said)
        with self.store() as store:
            self.findings.add(self._judge.judge(store, self.said))

    def finish(self) -> None:
        """Let a publisher finish what is left, clean, and judge everything again."""
        self.take(*self.start(runs=1).end(kill=False, seconds=LIMIT_SECONDS))
        with self.store() as store:
            clean(store, self.lake)
            self.findings.add(self._judge.judge(store, self.said, all_files=True))
            self.findings.add(judge_rest(store, self.lake))


def run(cuts: int, seed: int, folder: Path) -> Row:
    """Cut so many times; and again a few times without syncs, which must be found out."""
    row = Row("power cuts")
    row.skipped = why_no_disk()
    if row.skipped:
        return row
    row.missing = tracing.why_not()
    chance = random.Random(f"power cuts {seed}")
    by_command = round(cuts * COMMAND_SHARE)
    try:
        _by_syscall(row, folder, max(1, (cuts - by_command) // 3))
        _at_moments(row, folder, chance, cuts - by_command - row.injected["syscall"])
        _by_command(row, folder, chance, by_command)
    finally:
        for safeguard in ("file sync", "commit sync"):
            _control(row, folder, seed, safeguard)
    return row


def _at_moments(row: Row, folder: Path, chance: random.Random, cuts: int) -> None:
    for count in _shares(cuts, CUTS_OF_A_DISK):
        with disk(folder) as one:
            bench = Bench(one, row)
            for _ in range(count):
                cut_at_a_moment(bench, chance)
            bench.finish()
            row.findings.add(bench.findings)


def cut_at_a_moment(bench: Bench, chance: random.Random) -> None:
    """Let a publisher publish for a while and cut the power."""
    publisher = bench.start(waits=True)
    try:
        publisher.wait_until_ready()
        publisher.go()
        publisher.process.join(chance.random() * LONGEST_SECONDS)
        moment = bench.disk.cut()
    finally:
        publisher.end(kill=True)
    bench.row.injected["moment"] += 1
    bench.restart(publisher.acknowledged(before=moment))


def _by_syscall(row: Row, folder: Path, most: int) -> None:
    """Cut before the first call of each kind in a publication, then before the second, and so on."""
    if row.missing:
        row.notes.append(f"NO CUTS AT SYSTEM CALLS: {row.missing}")
        return
    left = [(call, number) for number in range(1, most + 1) for call in CHANGES]
    calls: Counter[str] = Counter()
    while left and calls.total() < most:
        with disk(folder) as one:
            bench = Bench(one, row)
            for _ in range(min(CUTS_OF_A_DISK, len(left))):
                call, number = left[0]
                if calls.total() < most and cut_at_a_syscall(bench, call, number):
                    calls[call] += 1
                    left.pop(0)
                else:
                    left = [entry for entry in left if entry[0] != call]
                if not left or calls.total() >= most:
                    break
            bench.finish()
            row.findings.add(bench.findings)
    named = ", ".join(f"{count} x {call}" for call, count in calls.items())
    whole = "each change and sync of a publication" if not left else "the first changes of a publication"
    row.notes.append(f"cut before {whole}: {named}")


def cut_at_a_syscall(bench: Bench, call: str, number: int) -> bool:
    """Stop a publisher before its call of this kind and number, and cut; return whether it made that many.

    It publishes two partitions, one at a time, into a new folder.
    """
    bench.end_run()
    publisher = bench.start(waits=True, runs=1, batch=1)
    try:
        if not publisher.wait_until_ready():
            raise RuntimeError("a publisher did not start")
        with tracing.traced(publisher.pid, call, f"signal=SIGKILL:when={number}"):
            publisher.go()
            publisher.process.join(LIMIT_SECONDS)
            status = publisher.process.exitcode
        bench.disk.cut()
    finally:
        _, said = publisher.end(kill=True)
    struck = status is not None and status < 0
    bench.row.injected["syscall"] += struck
    bench.restart(said)
    return struck


def _by_command(row: Row, folder: Path, chance: random.Random, cuts: int) -> None:
    for number, count in enumerate(_shares(cuts, kills.KILLS_EACH)):
        home = folder / f"command{number}"
        home.mkdir()
        with disk(home) as one:
            rig = Rig.make(home, kills.CODE, state=one.root / "state")
            try:
                _cut_commands(row, rig, one, chance, count)
            finally:
                rig.end_all(seconds=0.0)
        shutil.rmtree(home)


def _cut_commands(row: Row, rig: Rig, one: Disk, chance: random.Random, cuts: int) -> None:
    judge, said = Judge(rig.lake), list[Acknowledged]()
    rig("status")
    stride = max(2, 2 * kills.STEPS // (cuts + 1))
    for _ in range(cuts):
        running = rig.start("run", "small", *kills.ALL)
        try:
            if chance.random() < kills.AT_ONCE:
                running.sleep(chance.random() * kills.START_SECONDS)
            else:
                running.wait(chance.randrange(stride))
            moment = one.cut()
        finally:
            running.kill()
            running.end()
        row.findings.orphans.extend(f"outlived the command: {named}" for named in rig.end_all())
        row.injected["command"] += 1
        one.unmount()
        one.mount()
        said.extend(running.acknowledged(before=moment))
        row.acknowledged += len(running.acknowledged(before=moment))
        if said:
            row.recovery.extend(each.moment - running.started for each in running.acknowledged()[:1])
        with rig.store() as store:
            row.findings.add(judge.judge(store, said))
    status, error = rig.start("run", "small", *kills.ALL).end()
    if status != 0:
        row.findings.stuck.append(f"the plain command ended with {status}: {error}")
        row.manual += 1
    row.findings.add(kills.judge_project(rig))


def _control(row: Row, folder: Path, seed: int, safeguard: Safeguard) -> None:
    """Cut a publisher without a safeguard: what it acknowledges must be found lost or torn."""
    chance, scratch = random.Random(f"control {seed}"), Row("control")
    with disk(folder) as one:
        bench = Bench(one, scratch, without=(safeguard,))
        for _ in range(CONTROL_CUTS):
            # A catalog that was lost whole cannot even be opened: that is a finding, too.
            try:
                cut_at_a_moment(bench, chance)
            except Exception as error:  # noqa: BLE001  # whatever the missing safeguard led to
                bench.findings.lost.append(f"{type(error).__name__}: {error}")
                break
    row.judge_control(f"without {safeguard}", bench.findings.all())


def _shares(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(total, most)
        total -= most
