"""A small publishing process: the platform's own lake writer and store, and nothing around them.

It does what the process of ``sidestage run`` and its workers do (take over a run, claim, write aside, settle)
in one process. It takes milliseconds to start, because it is forked from one that has everything loaded, and
says what it publishes as ``spoken`` does.
"""

import multiprocessing
import os
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pyarrow as pa

from sidestage.data.lake_writer import LakeWriter
from sidestage.data.version import Stored, Version, new_version_id
from sidestage.policy.failure import classify
from sidestage.store.records import Claim, Demand, Environment, Failure, NewRun, NewStep, Outcome, Publication
from sidestage.store.sql import SqlStore, open_store
from torture import acknowledged
from torture.acknowledged import Acknowledged
from torture.oracle import PRODUCTION
from torture.weakened import Safeguard, weaken

_PIPELINE = "small"
_SCHEMA = pa.schema({"n": pa.int64(), "of": pa.string()})
READY = b"ready\n"


class Assignment(msgspec.Struct, frozen=True):
    """What a publisher is to do. ``owner`` is unique; the ``dead`` are known to be so.

    It publishes ``steps`` partitions a run, ``batch`` of them in one transaction, run after run until
    ``runs`` are over (None: for ever); after ``repeat`` runs it turns to a new dataset, with a new folder.
    It holds claims for ``slow`` seconds before it writes. ``waits`` makes it wait for a word after it claimed
    its first steps. ``without`` are the safeguards that are taken out of it.
    """

    url: str
    lake: str
    owner: str
    dead: tuple[str, ...] = ()
    steps: int = 20
    batch: int = 4
    rows: int = 50
    runs: int | None = None
    repeat: int = 2
    lease: float = 60.0
    slow: float = 0.0
    waits: bool = False
    without: tuple[Safeguard, ...] = ()


class Publisher:
    """A publisher that was started; what it says is read when it is over."""

    def __init__(self, assignment: Assignment) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torture.warm"])
        self._said, saying = context.Pipe(duplex=False)
        listening, self._word = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(assignment, saying, listening), daemon=True)
        self.started = time.monotonic()
        self.process.start()
        saying.close()
        listening.close()
        self._heard = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def wait_until_ready(self, seconds: float = 60.0) -> bool:
        """Wait until it has its first claims; return False if it ended before."""
        deadline = time.monotonic() + seconds
        while READY not in self._heard:
            if not self._said.poll(max(0.0, deadline - time.monotonic())) or not self._hear():
                return False
        return True

    def go(self) -> None:
        """Give a publisher that waits the word."""
        os.write(self._word.fileno(), b".")

    def end(self, *, kill: bool, seconds: float = 60.0) -> tuple[int | None, list[Acknowledged]]:
        """Wait for its end, after killing it if asked to; return its status (None: it hung) and its words."""
        if kill:
            self.process.kill()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self._said.poll(left) and self._hear():
            pass
        self.process.join(max(0.0, deadline - time.monotonic()))
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        self.process.close()
        self._said.close()
        self._word.close()
        return status, self.acknowledged()

    def acknowledged(self, before: float | None = None) -> list[Acknowledged]:
        """Return what it acknowledged, as far as it was heard."""
        return acknowledged.read(self._heard.replace(READY, b""), before)

    def hear(self) -> None:
        """Take in what it said up to now."""
        while self._said.poll(0) and self._hear():
            pass

    def _hear(self) -> bool:
        try:
            piece = os.read(self._said.fileno(), 65536)
        except OSError:
            return False
        self._heard += piece
        return bool(piece)


def _serve(assignment: Assignment, saying: Connection, listening: Connection) -> None:
    # Whatever the faults make it raise is what its process would end with; the judge looks at what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    weaken(assignment.without)
    with open_store(assignment.url) as store:
        Publishing(store, assignment, saying.fileno(), listening.fileno()).run()


class Publishing:
    """The work of a publisher, in its own process."""

    def __init__(self, store: SqlStore, assignment: Assignment, saying: int, listening: int) -> None:
        self._store = store
        self._to_do = assignment
        self._lake = LakeWriter(Path(assignment.lake))
        self._saying = saying
        self._listening = listening
        self._waits = assignment.waits

    def run(self) -> None:
        """Publish run after run."""
        if self._store.environment(PRODUCTION) is None:
            self._store.save_environment(Environment(PRODUCTION, None, "", "open", _now()))
        over = 0
        while self._to_do.runs is None or over < self._to_do.runs:
            run_id, dataset = self._take_over() or self._begin()
            while self._publish_some(run_id, dataset):
                pass
            self._store.end_run(run_id, "done", _now())
            over += 1

    def _take_over(self) -> tuple[int, str] | None:
        for run in self._store.runs(pipeline=_PIPELINE, environment=PRODUCTION, limit=1):
            if run.state == "running":
                for owner in self._to_do.dead:
                    self._store.abandon(owner, _now(), run=run.id)
                return run.id, run.reason
        return None

    def _begin(self) -> tuple[int, str]:
        number = sum(1 for _ in self._store.runs(pipeline=_PIPELINE, limit=1_000_000))
        dataset = f"d{number // self._to_do.repeat}/rows"
        shown = self._store.pointers(PRODUCTION, datasets=[dataset])
        steps = [
            NewStep(f"{dataset}@p{n}", "small.make", dataset, f"p{n}", shown.get((dataset, f"p{n}")))
            for n in range(self._to_do.steps)
        ]
        new = NewRun(_PIPELINE, PRODUCTION, "tree", "torture", dataset, "{}")
        return self._store.begin_run(new, steps, _now()), dataset

    def _publish_some(self, run_id: int, dataset: str) -> bool:
        """Publish a batch; return False if the run has nothing left to do."""
        now, to_do = _now(), self._to_do
        claims = self._store.claim(Demand(to_do.owner, to_do.batch, lease=to_do.lease, runs=(run_id,)), now)
        self._wait_for_the_word()
        if not claims:
            return self._wait_for_others(run_id)
        if to_do.slow:
            time.sleep(to_do.slow)
        outcomes: list[Outcome] = [self._outcome(claim, dataset) for claim in claims]
        for outcome, settled in zip(outcomes, self._store.settle(outcomes, _now()), strict=True):
            if isinstance(outcome, Publication) and settled.result == "done":
                said = Acknowledged(time.monotonic(), run_id, settled.step, outcome.version.id)
                os.write(self._saying, said.spoken().encode())
            elif isinstance(outcome, Publication):
                self._lake.remove(outcome.version.stored.path)
        return True

    def _wait_for_the_word(self) -> None:
        if self._waits:
            os.write(self._saying, READY)
            os.read(self._listening, 1)
            self._waits = False

    def _wait_for_others(self, run_id: int) -> bool:
        left = [step for step in self._store.steps(run_id) if step.state not in ("done", "failed")]
        if left:
            time.sleep(0.02)
        return bool(left)

    def _outcome(self, claim: Claim, dataset: str) -> Outcome:
        partition = claim.step.partition("@")[2]
        version_id = new_version_id(int(time.time() * 1000), os.urandom(6))
        numbers = range(self._to_do.rows)
        rows = pa.record_batch({"n": list(numbers), "of": [version_id] * len(numbers)}, schema=_SCHEMA)
        try:
            stored = self._lake.write(dataset, partition, version_id, _SCHEMA, [rows])
        except Exception as error:  # noqa: BLE001  # as in a worker: whatever goes wrong is a failed attempt
            return Failure(claim=claim, failure_class=classify(error), message=str(error), retry_in=0.01)
        return _publication(claim, dataset, partition, version_id, stored)


def _publication(claim: Claim, dataset: str, partition: str, version_id: str, stored: Stored) -> Publication:
    version = Version(
        id=version_id,
        dataset=dataset,
        partition=partition,
        stored=stored,
        environment=PRODUCTION,
        run=str(claim.run),
        step=claim.step,
        code="code",
        inputs=(),
        created_at=_now(),
        seconds=0.0,
    )
    return Publication(claim=claim, version=version)


def _now() -> datetime:
    return datetime.now(UTC)
