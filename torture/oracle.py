"""The judge of every family: what a catalog and its lake must still show after whatever was done to them."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from sidestage.data.digest import DigestBuilder
from sidestage.data.lake import Lake
from sidestage.data.version import Version
from sidestage.errors import SidestageError
from sidestage.recovery.cleanup import Spared, collect_garbage, find_garbage
from sidestage.store.contract import Store
from sidestage.store.records import PointerEntry
from torture.acknowledged import Acknowledged

PRODUCTION = "production"
EVERYTHING = 10_000_000


@dataclass
class Findings:
    """Broken promises, in words, by kind."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, but not there."""
    twice: list[str] = field(default_factory=list)
    """Published, or run, although it was published already."""
    torn: list[str] = field(default_factory=list)
    """Shown, but missing, half or mixed."""
    stuck: list[str] = field(default_factory=list)
    """Not finished by the plain command."""
    orphans: list[str] = field(default_factory=list)
    """Files or processes that nothing takes away."""
    lied: list[str] = field(default_factory=list)
    """Acknowledged, or called by another name, although it failed."""

    def by_kind(self) -> dict[str, list[str]]:
        """Return all lists by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def all(self) -> list[str]:
        """Return everything that was found."""
        return [f"{kind}: {entry}" for kind, entries in self.by_kind().items() for entry in entries]

    def add(self, other: "Findings") -> None:
        """Take in what another judgement found."""
        for kind, entries in other.by_kind().items():
            getattr(self, kind).extend(entries)


class Judge:
    """Judges one catalog and its lake, over and over; a file found whole is read again only if asked for."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._whole: set[str] = set()

    def judge(
        self,
        store: Store,
        acknowledged: Iterable[Acknowledged],
        *,
        all_files: bool = False,
        at_rest: bool = True,
    ) -> Findings:
        """Return what is wrong with what production shows; not ``at_rest``, somebody may be publishing."""
        found = Findings()
        log = published(store)
        pointers = store.pointers(PRODUCTION)
        versions = store.versions({*pointers.values(), *(entry.version or "" for entry in log)})
        self._judge_log(found, log, pointers if at_rest else None)
        in_log = {entry.version for entry in log}
        for each in acknowledged:
            if each.version not in versions or each.version not in in_log:
                found.lost.append(f"{each.step} of run {each.run}: version {each.version} was acknowledged")
        for place, shown in sorted(pointers.items()):
            version = versions.get(shown)
            if version is None:
                found.torn.append(f"{place} shows {shown}, which is unknown")
            elif all_files or shown not in self._whole:
                wrong = judge_file(self._lake, version)
                found.torn.extend(wrong)
                if not wrong:
                    self._whole.add(shown)
        return found

    @staticmethod
    def _judge_log(
        found: Findings, log: Iterable[PointerEntry], pointers: dict[tuple[str, str], str] | None
    ) -> None:
        times: Counter[tuple[int | None, str, str]] = Counter()
        last: dict[tuple[str, str], str | None] = {}
        for entry in log:
            times[entry.run, entry.dataset, entry.partition] += 1
            last[entry.dataset, entry.partition] = entry.version
        found.twice.extend(
            f"run {run} published {dataset} [{partition}] {count} times"
            for (run, dataset, partition), count in times.items()
            if count > 1
        )
        if pointers is None:
            return
        found.torn.extend(
            f"{place} shows {pointers.get(place)}, but {last.get(place)} was published last"
            for place in sorted(last.keys() | pointers.keys())
            if last.get(place) != pointers.get(place)
        )


def published(store: Store) -> list[PointerEntry]:
    """Return production's pointer log, oldest first."""
    return list(reversed(store.pointer_log(environment=PRODUCTION, limit=EVERYTHING)))


def judge_file(lake: Lake, version: Version) -> list[str]:
    """Return what is wrong with a version's file: it must be there, have its bytes, and hold its rows."""
    if version.stored.value is not None:  # it lies in the catalog, and has no file
        return []
    try:
        lake.verify(version.stored)
        table = pq.read_table(lake.path(version.stored))
    except (SidestageError, OSError) as error:
        return [f"{version.dataset}/{version.partition}: {error}"]
    builder = DigestBuilder(table.schema)
    for batch in table.to_batches():
        builder.add(batch)
    if not builder.finish().proves_equal(version.stored.digest):
        return [f"{version.dataset}/{version.partition}: its rows are not those of its digest"]
    return []


def clean(store: Store, lake: Lake) -> None:
    """Do what ``sidestage clean --yes --grace 0 --keep-days 0`` does, without a process for it."""
    now = datetime.now(UTC)
    collect_garbage(store, lake, find_garbage(store, lake, Spared(0, 0.0), now), now)


def judge_rest(store: Store, lake: Lake) -> Findings:
    """Return what is wrong with a project that was finished and cleaned: leftovers and unfinished runs."""
    found = Findings()
    shown = store.versions(store.pointers(PRODUCTION).values()).values()
    found.orphans.extend(
        f"left in the lake: {path}" for path in files(lake.root) - {version.stored.path for version in shown}
    )
    found.stuck.extend(
        f"run {run.id} is still running in the catalog"
        for run in store.runs(limit=EVERYTHING)
        if run.state == "running"
    )
    return found


def files(folder: Path) -> set[str]:
    """Return all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def missing(store: Store, expected: Collection[tuple[str, str]]) -> list[str]:
    """Return which places show nothing although they should, or the other way round."""
    differ = set(expected) ^ set(store.pointers(PRODUCTION))
    return [f"{dataset} [{partition}] is not as expected" for dataset, partition in sorted(differ)]
