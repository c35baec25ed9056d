"""The differences that a comparison found, published as a dataset of the candidate's environment.

They are a version like any other: queried in SQL beside the data that they speak of, kept in the history,
cleaned up with it. The platform is their author, so their run belongs to a pipeline of its own.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidestage.clock import Clock
from sidestage.data.dataset import RESERVED
from sidestage.data.lake_writer import LakeWriter
from sidestage.data.version import Version, new_version_id
from sidestage.errors import StaleWorld
from sidestage.runtime.lifeline import this_process
from sidestage.store.contract import Store
from sidestage.store.records import Claim, Demand, NewRun, NewStep, Publication

DATASET = f"{RESERVED}/discrepancies"
PIPELINE = RESERVED
_PARTITION = "all"
_TASK = f"{RESERVED}.compare"
_STEP = f"{_TASK}@{_PARTITION}"
_LEASE_SECONDS = 600.0
_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("partition", pa.string()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("column", pa.string()),
        ("base", pa.string()),
        ("candidate", pa.string()),
        ("within_tolerance", pa.bool_()),
    ]
)


def publish_discrepancies(
    store: Store, lake: LakeWriter, clock: Clock, environment: str, by: str, files: Sequence[Path]
) -> Version:
    """Publish the rows of all files as the newest discrepancies of an environment.

    Raises StaleWorld if another comparison of the same environment was faster.
    """
    started = time.perf_counter()
    claim = _begin(store, clock, environment, by)
    version_id = new_version_id(int(clock.now().timestamp() * 1000), os.urandom(6))
    stored = lake.write(DATASET, _PARTITION, version_id, _SCHEMA, _rows(files))
    version = Version(
        id=version_id,
        dataset=DATASET,
        partition=_PARTITION,
        stored=stored,
        environment=environment,
        run=str(claim.run),
        step=_STEP,
        code="",
        inputs=(),
        created_at=clock.now(),
        seconds=time.perf_counter() - started,
    )
    (settled,) = store.settle([Publication(claim, version)], clock.now())
    done = settled.result == "done"
    store.end_run(claim.run, "done" if done else "failed", clock.now())
    if not done:
        lake.remove(stored.path)
        raise StaleWorld(
            f"Another comparison of {environment!r} published its discrepancies at the same time.",
            hint=f"Compare again: sidestage compare {environment}",
        )
    return version


def _begin(store: Store, clock: Clock, environment: str, by: str) -> Claim:
    shown = store.pointers(environment, datasets=[DATASET]).get((DATASET, _PARTITION))
    me = this_process()
    run = NewRun(PIPELINE, environment, code="", by=by, reason="compare", plan="", driver=me)
    step = NewStep(_STEP, _TASK, DATASET, _PARTITION, expects=shown)
    run_id = store.begin_run(run, [step], clock.now())
    (claim,) = store.claim(Demand(me, 1, lease=_LEASE_SECONDS, runs=[run_id]), clock.now())
    return claim


def _rows(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield batch.select(_SCHEMA.names).cast(_SCHEMA)
