"""Where a candidate's environment differs from its base, by pointers alone."""

import hashlib
from collections.abc import Collection, Mapping

import msgspec

from sidestage.store.contract import PointerKey


class Difference(msgspec.Struct, frozen=True):
    """One place where both environments show different versions; None where the base shows nothing."""

    dataset: str
    partition: str
    base: str | None
    candidate: str


def differences(
    own: Mapping[PointerKey, str], base: Mapping[PointerKey, str], datasets: Collection[str]
) -> tuple[Difference, ...]:
    """Return the places, among these datasets, where a candidate shows a version of its own, in order."""
    return tuple(
        Difference(dataset, partition, base.get((dataset, partition)), version)
        for (dataset, partition), version in sorted(own.items())
        if dataset in datasets and base.get((dataset, partition)) != version
    )


def world_digest(found: Collection[Difference]) -> str:
    """Return a digest of all pointer pairs: a comparison speaks about exactly one such world."""
    lines = (
        f"{entry.dataset}\0{entry.partition}\0{entry.base}\0{entry.candidate}"
        for entry in sorted(found, key=lambda entry: (entry.dataset, entry.partition))
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
