"""The world a plan is made for: records of the store, as one value."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from sidestage.data.version import Version
from sidestage.pipeline.manifest import Manifest
from sidestage.store.contract import PointerKey


class World(msgspec.Struct, frozen=True):
    """What a planner may know.

    ``own`` are the environment's own pointers, ``base`` those it reads through (empty for production);
    ``versions`` holds every version that either shows and every input of those; ``released`` the
    fingerprint of each task that production was given; ``seconds`` the mean cost of a step, by task;
    ``gone`` names versions whose data was deleted.
    """

    manifest: Manifest
    environment: str
    base_name: str | None
    own: Mapping[PointerKey, str]
    base: Mapping[PointerKey, str]
    versions: Mapping[str, Version]
    released: Mapping[str, str]
    seconds: Mapping[str, float]
    now: datetime
    code_name: str = ""
    gone: frozenset[str] = frozenset()


class Selection(msgspec.Struct, frozen=True):
    """Which part of a pipeline is asked for.

    ``pipeline`` may be left out where a project declares only one; ``partitions`` is an expression such as
    ``2013-01-01:2013-01-31`` (None: everything that is closed); ``tasks`` names tasks of the pipeline (empty:
    all); ``recompute`` asks for what is up to date, too.
    """

    pipeline: str | None = None
    partitions: str | None = None
    tasks: tuple[str, ...] = ()
    recompute: bool = False
