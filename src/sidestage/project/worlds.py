"""Reads, from the store, the world that a plan is made for."""

from datetime import datetime

from sidestage.data.version import Version
from sidestage.pipeline.manifest import Manifest
from sidestage.plan.world import World
from sidestage.store.contract import Store
from sidestage.store.records import Environment

PRODUCTION = "production"


def read_world(
    store: Store, manifest: Manifest, environment: Environment | None, code_name: str, now: datetime
) -> World:
    """Return the world of an environment; None stands for production."""
    name = PRODUCTION if environment is None else environment.name
    base_name = None if environment is None else environment.base
    own = store.pointers(name)
    base = {} if base_name is None else store.pointers(base_name)
    shown = {*own.values(), *base.values()}
    versions = _with_inputs(store, shown)
    return World(
        manifest=manifest,
        environment=name,
        base_name=base_name,
        own=own,
        base=base,
        versions=versions,
        released=store.released(base_name or name),
        seconds=store.task_seconds([task.id for task in manifest.tasks]),
        now=now,
        code_name=code_name,
        gone=store.data_gone(versions.keys() - shown),  # what is shown is never deleted
    )


def _with_inputs(store: Store, shown: set[str]) -> dict[str, Version]:
    """Return the shown versions and those that they were made of."""
    versions = store.versions(shown)
    inputs = {entry.version for version in versions.values() for entry in version.inputs}
    versions.update(store.versions(inputs - versions.keys()))
    return versions
