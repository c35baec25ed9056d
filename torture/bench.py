"""A catalog and a lake in a folder, publishers that follow one another there, and the judge of all of it."""

from dataclasses import dataclass
from pathlib import Path

from sidestage.data.lake import Lake
from sidestage.store.sql import SqlStore, open_store
from torture.acknowledged import Acknowledged
from torture.oracle import Findings, Judge, clean, judge_rest
from torture.publisher import Assignment, Publisher
from torture.report import Row
from torture.rig import LIMIT_SECONDS
from torture.weakened import Safeguard


@dataclass
class Bench:
    """A catalog and a lake, and what was acknowledged there."""

    folder: Path
    row: Row
    without: tuple[Safeguard, ...] = ()

    def __post_init__(self) -> None:
        self.lake = Lake(self.folder / "lake")
        self.findings = Findings()
        self.said: list[Acknowledged] = []
        self._judge = Judge(self.lake)
        self._owner = "nobody"
        self._number = 0

    def start(self, *, runs: int | None = None, batch: int = 4, waits: bool = True) -> Publisher:
        """Start a publisher that takes over from the one before."""
        self._number += 1
        dead, self._owner = self._owner, f"publisher {self._number}"
        return Publisher(
            Assignment(
                url=self._url,
                lake=str(self.lake.root),
                owner=self._owner,
                dead=(dead,),
                steps=4 * batch,
                batch=batch,
                runs=runs,
                waits=waits,
                without=self.without,
            )
        )

    def store(self) -> SqlStore:
        """Open the catalog."""
        return open_store(self._url)

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.folder}/catalog.db"

    def judge(self, said: list[Acknowledged]) -> None:
        """Judge what is there, after something more was acknowledged."""
        self.said.extend(said)
        self.row.acknowledged += len(said)
        with self.store() as store:
            self.findings.add(self._judge.judge(store, self.said))

    def finish(self) -> None:
        """Let a publisher finish what is left, clean, and judge everything."""
        status, said = self.start(runs=1, waits=False).end(kill=False, seconds=LIMIT_SECONDS)
        if status != 0:
            self.findings.stuck.append(f"a publisher that was let finish ended with {status}")
            self.row.manual += 1
        self.judge(said)
        with self.store() as store:
            clean(store, self.lake)
            self.findings.add(self._judge.judge(store, self.said, all_files=True))
            self.findings.add(judge_rest(store, self.lake))
