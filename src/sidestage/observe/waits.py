"""What steps wait for: slots of a pool, and who holds them, or a worker that serves their queue."""

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec

from sidestage.policy.limits import seconds_text
from sidestage.policy.pool import Pool
from sidestage.store.contract import Store
from sidestage.store.records import Holding, Waiting, Worker

_SHOWN = 3


class Wait(msgspec.Struct, frozen=True):
    """Steps of one run that wait for the same thing: how many, which one first, since when, for what.

    ``seconds`` is how long the first one has waited, ``why`` says for what, in words; ``queue`` and ``pool``
    are theirs.
    """

    run: int
    pipeline: str
    steps: int
    first: str
    since: datetime
    seconds: float
    why: str
    queue: str
    pool: str | None


def read_waits(store: Store, pools: Collection[Pool], now: datetime) -> tuple[Wait, ...]:
    """Return what ready steps wait for now, the longest wait first."""
    return waits(store.waiting(), store.holdings(), pools, store.workers(), now)


def waits(
    waiting: Iterable[Waiting],
    holdings: Collection[Holding],
    pools: Collection[Pool],
    workers: Collection[Worker],
    now: datetime,
) -> tuple[Wait, ...]:
    """Return what ready steps wait for, the longest wait first."""
    by_name = {pool.name: pool for pool in pools}
    groups: dict[tuple[int, str, str | None], list[Waiting]] = {}
    for step in waiting:
        groups.setdefault((step.run, step.queue, step.pool), []).append(step)
    found = []
    for steps in groups.values():
        first = min(steps, key=lambda step: step.since)
        seconds = max(0.0, (now - first.since).total_seconds())
        why = f"waiting for {_what(first, holdings, by_name, workers, seconds)}"
        found.append(
            Wait(
                run=first.run,
                pipeline=first.pipeline,
                steps=len(steps),
                first=first.step,
                since=first.since,
                seconds=seconds,
                why=why,
                queue=first.queue,
                pool=first.pool,
            )
        )
    return tuple(sorted(found, key=lambda wait: -wait.seconds))


def _what(
    step: Waiting,
    holdings: Collection[Holding],
    pools: dict[str, Pool],
    workers: Collection[Worker],
    seconds: float,
) -> str:
    lasting = f"for {seconds_text(seconds)}"
    serving = [worker for worker in workers if worker.alive and not worker.draining and _serves(worker, step)]
    if not serving:
        return f"a worker that serves the queue {step.queue!r} {lasting}; there is none"
    if step.pool is None:
        return f"one of {sum(worker.slots for worker in serving)} worker slots {lasting}"
    pool = pools.get(step.pool)
    if pool is None:
        return f"the pool {step.pool!r} {lasting}, which sidestage.toml does not define"
    holders = [each for each in holdings if each.pool == step.pool]
    by = _listed(sorted({each.run for each in holders}))
    free = pool.slots - sum(each.slots for each in holders)
    kept = f", {free} kept for other pipelines" if free > 0 and pool.reserved else ""
    held = f", held by {by}" if by else ""
    return f"{step.slots} of {pool.slots} {pool.name} slots {lasting}{held}{kept}"


def _serves(worker: Worker, step: Waiting) -> bool:
    return not worker.queues or step.queue in worker.queues


def _listed(runs: list[int]) -> str:
    if not runs:
        return ""
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return f"{'run' if len(runs) == 1 else 'runs'} {', '.join(map(str, runs[:_SHOWN]))}{more}"
