"""What a worker does for services, with stand-ins for its crew and for the processes of services."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidestage.clock import SystemClock
from sidestage.errors import ConfigurationError
from sidestage.pipeline.manifest import Manifest, PipelineSpec, ServiceSpec
from sidestage.pipeline.projectfile import CodeSection, ProjectFile
from sidestage.pipeline.service import ServiceTerms
from sidestage.project import keeping as module
from sidestage.project.keeping import Keeping
from sidestage.project.layout import Layout
from sidestage.run.crews import Home
from sidestage.run.service_messages import FromService, GoOn, Serve
from sidestage.store.records import CodeChange, Environment, NewMove
from sidestage.testing.memory_store import open_memory_store

PATIENT = 30.0


class Child:
    """Ends when it is stopped so often."""

    def __init__(self, request: Serve, heeds: int) -> None:
        self.request = request
        self.heeds = heeds
        self.was_ended = threading.Event()
        self.stopped = threading.Semaphore(0)
        self.thread = threading.current_thread()

    @property
    def is_over(self) -> bool:
        return self.heeds <= 0

    def heard(self) -> tuple[FromService, ...]:
        return ()

    def go_on(self, word: GoOn) -> None:
        del word

    def stop(self) -> None:
        self.heeds -= 1
        self.stopped.release()

    def end(self) -> int:
        self.was_ended.set()
        return 0


class Crew:
    """Knows what the code declares, once it is loaded."""

    def __init__(self, *services: ServiceSpec) -> None:
        self.found: Manifest | ConfigurationError | None = Manifest(
            (PipelineSpec("p", "", "", (), services=services),), (), ()
        )

    def manifest(self, home: Home) -> Manifest | None:
        del home
        if isinstance(self.found, ConfigurationError):
            raise self.found
        return self.found


def spec(name: str, queue: str = "default") -> ServiceSpec:
    return ServiceSpec(f"p.{name}", "1", "p.py:1", ServiceTerms(), queue)


class Scene:
    """A worker's keeping, the store it uses, and what it started."""

    def __init__(self, folder: Path) -> None:
        self.clock = SystemClock()
        self.store = open_memory_store(self.clock.monotonic)
        self.store.save_environment(Environment("production", None, "", "open", self.clock.now()))
        code = tuple(CodeChange(f"p.{name}", None, "1") for name in ("a", "b"))
        self.store.move(NewMove("promote", "production", "", "", "", (), code), self.clock.now())
        self.layout = Layout.of(folder, ProjectFile(project=CodeSection(name="p", pipelines=("p",))))
        self.children: list[Child] = []
        self.began = threading.Semaphore(0)
        self.said: list[str] = []
        self.heeds = 1

    def keeping(self, *queues: str) -> Keeping:
        return Keeping(self.store, self.layout, self.clock, 60.0, queues, self.say)

    def say(self, message: str, hint: str) -> None:
        self.said.append(f"{message} {hint}".strip())

    def start(self, request: Serve) -> Child:
        self.children.append(Child(request, self.heeds))
        self.began.release()
        return self.children[-1]

    def states(self) -> dict[str, tuple[str | None, str]]:
        return {each.service: (each.owner, each.said.state) for each in self.store.services()}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    monkeypatch.setattr(module, "_start", scene.start)
    before = threading.active_count()
    yield scene
    assert threading.active_count() == before


def wait_for_idle(keeping: Keeping) -> None:
    assert keeping._thread is not None
    keeping._thread.join(PATIENT)
    assert keeping.is_idle


def test_services_of_the_queues_that_it_serves_are_kept_and_drained(scene: Scene) -> None:
    keeping = scene.keeping("streams")
    keeping.look(Crew(spec("a", "streams"), spec("b")))
    assert scene.began.acquire(timeout=PATIENT)
    keeping.drain()
    wait_for_idle(keeping)
    keeping.close(within=PATIENT)
    assert [child.request.service for child in scene.children] == ["p.a"]
    assert scene.states() == {"p.a": (None, "stopped")}


def test_a_second_signal_cancels_and_what_does_not_end_is_killed(scene: Scene) -> None:
    scene.heeds = 3
    keeping = scene.keeping()
    keeping.look(Crew(spec("a")))
    assert scene.began.acquire(timeout=PATIENT)
    (child,) = scene.children
    keeping.drain()
    keeping.drain()
    assert child.stopped.acquire(timeout=PATIENT)
    assert not child.stopped.acquire(timeout=0.5), "to say it again changes nothing"
    assert not keeping.is_idle
    keeping.close(within=0.0)
    assert child.was_ended.is_set()
    assert scene.states()["p.a"][0] is None
    assert child.thread.name == "services", "it would die with any other"


def test_it_waits_until_the_code_is_known(scene: Scene) -> None:
    crew = Crew(spec("a"))
    found, crew.found = crew.found, None
    keeping = scene.keeping()
    keeping.look(crew)
    assert keeping.is_idle
    crew.found = found
    keeping.look(crew)
    assert scene.began.acquire(timeout=PATIENT)
    keeping.close(within=PATIENT)


def test_a_worker_that_drains_begins_nothing(scene: Scene) -> None:
    keeping = scene.keeping()
    keeping.drain()
    keeping.look(Crew(spec("a")))
    assert keeping.is_idle
    keeping.close(within=PATIENT)
    assert scene.states() == {}


def test_without_services_there_is_no_thread(scene: Scene) -> None:
    keeping = scene.keeping()
    keeping.look(Crew())
    assert keeping.is_idle
    keeping.close(within=PATIENT)


def test_code_that_cannot_be_loaded_is_said_once(scene: Scene) -> None:
    crew = Crew()
    crew.found = ConfigurationError("no such module.", hint="Install it.")
    keeping = scene.keeping()
    for _ in range(3):
        keeping.look(crew)
    assert scene.said == ["Services are left to other workers: no such module. Install it."]
    keeping.close(within=PATIENT)


def test_an_error_of_its_own_ends_the_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_start", lambda _request: 1 / 0)
    keeping = scene.keeping()
    crew = Crew(spec("a"))
    keeping.look(crew)
    wait_for_idle(keeping)
    with pytest.raises(ZeroDivisionError):
        keeping.look(crew)
    keeping.close(within=PATIENT)
    assert scene.states()["p.a"][0] is None
