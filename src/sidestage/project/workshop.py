"""Where a worker works: its processes, their temporary files, and the loop that keeps them busy."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.data.dataset import RESERVED
from sidestage.data.lake import Lake
from sidestage.data.version import new_version_id
from sidestage.errors import ConfigurationError
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import ProjectFile
from sidestage.project.layout import Layout
from sidestage.run.active import OpenRun
from sidestage.run.assignment import Assignment, Audience, Chance
from sidestage.run.crew import Crew, worker_environment
from sidestage.run.crews import Home
from sidestage.run.dispatcher import Dispatcher
from sidestage.run.hand import Patience
from sidestage.run.starter import Places, Starter
from sidestage.runtime.orphans import end_orphans
from sidestage.runtime.sandbox import available, has_landlock
from sidestage.store.contract import Store

_LOAD_SECONDS = 1.0


@contextmanager
def open_crew(
    layout: Layout, file: ProjectFile, clock: Clock, slots: int, *, only_loads: bool = False
) -> Iterator[Crew]:
    """Yield a crew of up to ``slots`` processes; they are gone afterwards, and so are their files.

    Processes that a dead worker of this host left behind are ended first, or they would run beside what is
    begun here; not for a crew that ``only_loads`` code.
    """
    if not only_loads:
        end_orphans()
    with layout.workspace() as scratch:
        places = Places(
            state=layout.state,
            lake=layout.lake,
            releases=layout.releases,
            scratch=scratch,
            environments=layout.environments,
        )
        layout.releases.mkdir(parents=True, exist_ok=True)
        patience = Patience(file.run.stop / 2, file.run.stop * 0.75)
        starter = Starter(places, clock, worker_environment(slots), patience)
        crew = Crew(slots, starter, clock, Lake(layout.lake))
        try:
            yield crew
        finally:
            crew.end()  # idle or not: what was written aside was either published or is nobody's


def load(crew: Crew, home: Home) -> Manifest:
    """Return what the code of a home declares, waiting until it is loaded. Raises what loading raised."""
    while (manifest := crew.manifest(home)) is None:
        crew.collect(_LOAD_SECONDS)
    return manifest


def candidate_home(root: Path, file: ProjectFile) -> Home:
    """Return where a candidate's code is loaded: behind the wall that the project asks for.

    Raises ConfigurationError if the project insists on one that this host cannot build.
    """
    wanted = file.stage.sandbox
    if wanted == "none":
        return Home(str(root))
    if wanted == "auto":
        return Home(str(root), sandbox="landlock" if has_landlock() else "none")
    levels = available()
    if wanted not in levels:
        raise ConfigurationError(
            f"[stage] asks for the sandbox {wanted!r}, which this host cannot build.",
            hint=f"It can build: {', '.join(levels)}. The level strict needs the program bwrap.",
        )
    return Home(str(root), sandbox=wanted)


def home_of(home: Home, run_id: int) -> Home:
    """Return the home of a run's attempts: a walled-in one writes in an area of the lake of its own.

    It may write there alone, so it can neither replace nor remove what anybody else published.
    """
    if home.sandbox == "none":
        return home
    return msgspec.structs.replace(home, area=f"{RESERVED}/run-{run_id}")


def new_dispatcher(
    store: Store,
    layout: Layout,
    crew: Crew,
    clock: Clock,
    *,
    assignment: Assignment,
    open_run: OpenRun,
    audience: Audience,
) -> Dispatcher:
    """Return the loop of one worker over a crew of processes."""

    def version_id() -> str:
        return new_version_id(int(clock.now().timestamp() * 1000), os.urandom(6))

    chance = Chance(version_id, random.random)
    return Dispatcher(store, Lake(layout.lake), crew, clock, assignment, open_run, audience, chance)
