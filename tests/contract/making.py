"""What the store's suites make over and over."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from sidestage.data.version import Column, ColumnDigest, Digest, InputVersion, Stored, Version
from sidestage.store.contract import Store
from sidestage.store.records import (
    Claim,
    Demand,
    NewMove,
    NewRun,
    NewStep,
    PointerChange,
    Publication,
)

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
Opener = Callable[[], Store]


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def step(name: str, *after: str, expects: str | None = None, dataset: str = "a/b") -> NewStep:
    return NewStep(name, f"task {name[0]}", dataset, name, expects, after)


def begin(store: Store, *steps: NewStep, environment: str = "production") -> int:
    return store.begin_run(NewRun("p", environment, "tree:1", "ann", "why", '{"a":1}'), steps, NOON)


def take(store: Store, run: int, limit: int = 100, owner: str = "w1", lease: float = 60.0) -> list[Claim]:
    return list(store.claim(Demand(owner, limit, lease=lease, runs=[run]), at(1)))


def digest(rows: int = 3) -> Digest:
    columns = (ColumnDigest("x", "int64", 0, "0" * 16, "1", "9"), ColumnDigest("ü", "string", 3, "f" * 16))
    return Digest("d1", rows, "ab" * 16, columns)


def output(store: Store, claim: Claim, version: str, code: str = "c1") -> Version:
    steps = {each.id: each for each in store.steps(claim.run)}
    run = store.run(claim.run)
    assert run is not None
    schema = (Column("x", "int64"), Column("ü", "string"))
    return Version(
        id=version,
        dataset=steps[claim.step].dataset,
        partition=steps[claim.step].partition,
        stored=Stored(f"{version}.parquet", 10, "c" * 32, schema, digest()),
        environment=run.environment,
        run=str(claim.run),
        step=claim.step,
        code=code,
        inputs=(InputVersion("raw", "2013-01-01", "v0"),),
        created_at=at(1),
        seconds=1.5,
    )


def publish(store: Store, claim: Claim, version: str, code: str = "c1", minutes: float = 2) -> str:
    outcome = Publication(claim, output(store, claim, version, code))
    return store.settle([outcome], at(minutes))[0].result


def make(
    store: Store, partition: str, version: str, environment: str = "production", minutes: float = 2
) -> str:
    """Publish one version of a partition in a run of its own."""
    shown = store.pointers(environment).get(("a/b", partition))
    run = begin(store, step(partition, expects=shown), environment=environment)
    (claim,) = take(store, run)
    result = publish(store, claim, version, minutes=minutes)
    store.end_run(run, "done", at(minutes))
    return result


def a_move(*changes: tuple[str, str | None, str | None], **more: object) -> NewMove:
    pointers = tuple(PointerChange("a/b", partition, old, new) for partition, old, new in changes)
    move = NewMove("promote", "production", "ann", "better", "fix", pointers)
    return msgspec.structs.replace(move, **more)
