"""Compares what a candidate's environment shows with what its base shows."""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sidestage.checks.compare import Pair, Side, compare_dataset
from sidestage.checks.result import Comparison, DatasetComparison, SideIdentity, conclude
from sidestage.data.lake import Lake
from sidestage.data.version import Version
from sidestage.pipeline.manifest import DatasetSpec, Manifest
from sidestage.release.difference import Difference
from sidestage.release.value_files import VALUE_KEY, Values
from sidestage.store.contract import PointerKey
from sidestage.store.records import Environment


class Rehearsal(msgspec.Struct, frozen=True):
    """Both sides of a comparison: environments, what the base shows, where the candidate differs.

    ``versions`` holds every version that either side shows. ``datasets`` names those to be compared.
    """

    manifest: Manifest
    candidate: Environment
    base: Environment
    base_pointers: Mapping[PointerKey, str]
    found: tuple[Difference, ...]
    versions: Mapping[str, Version]
    datasets: tuple[str, ...]


def compare(rehearsal: Rehearsal, lake: Lake, scratch: Path, discrepancies: Path | None) -> Comparison:
    """Compare every dataset, reading only partitions whose digests differ.

    Differences are written to ``discrepancies``, one Parquet file for each dataset that has any.
    """
    started = time.perf_counter()
    results: list[DatasetComparison] = []
    values = Values(scratch / "values")
    for name in rehearsal.datasets:
        spec = rehearsal.manifest.dataset_by_name[name]
        target = None if discrepancies is None else discrepancies / f"{name.replace('/', '.')}.parquet"
        results.append(
            compare_dataset(
                name,
                _pairs(rehearsal, spec, lake, values),
                VALUE_KEY if spec.is_value else spec.key,
                spec.compare,
                temp_dir=scratch,
                discrepancies=target,
            )
        )
    return conclude(
        _identity(rehearsal.candidate, [entry.candidate for entry in rehearsal.found], rehearsal),
        _identity(rehearsal.base, [entry.base for entry in rehearsal.found], rehearsal),
        tuple(results),
        seconds=time.perf_counter() - started,
    )


def _pairs(rehearsal: Rehearsal, spec: DatasetSpec, lake: Lake, values: Values) -> list[Pair]:
    candidate = {entry.partition: entry.candidate for entry in rehearsal.found if entry.dataset == spec.name}
    base = {
        partition: version
        for (dataset, partition), version in rehearsal.base_pointers.items()
        if dataset == spec.name
    }
    pairs = []
    for partition in sorted({*base, *candidate}):
        shown = base.get(partition), candidate.get(partition, base.get(partition))
        one, other = (None if each is None else rehearsal.versions[each] for each in shown)
        # Values that are equal are never read, so they need no file.
        files = None if one and other and _is_equal(one, other) else values
        pairs.append(Pair(partition, _side(one, lake, files), _side(other, lake, files)))
    return pairs


def _is_equal(one: Version, other: Version) -> bool:
    return one.stored.digest.proves_equal(other.stored.digest)


def _side(version: Version | None, lake: Lake, values: Values | None) -> Side | None:
    if version is None:
        return None
    if version.stored.value is None:
        path = str(lake.path(version.stored))
    else:
        path = str(values.path(version)) if values is not None else ""
    return Side(
        version=version.id,
        path=path,
        digest=version.stored.digest,
        rows=version.stored.digest.rows,
    )


def _identity(environment: Environment, shown: list[str | None], rehearsal: Rehearsal) -> SideIdentity:
    versions = [rehearsal.versions[version] for version in shown if version is not None]
    return SideIdentity(
        environment=environment.name,
        code=environment.code,
        made=len(versions),
        reused=len(rehearsal.base_pointers) - len(versions),
        seconds=sum(version.seconds for version in versions),
        rows=sum(version.stored.digest.rows for version in versions),
        bytes=sum(version.stored.bytes for version in versions),
    )
