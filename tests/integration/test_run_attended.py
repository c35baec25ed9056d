"""What others see of an attended run, and what it sees of others."""

import contextlib
import signal
import time

import pytest

from sidestage.events import RunStarted, StepPublished, StepStarted
from sidestage.plan.world import Selection
from sidestage.project import workshop
from sidestage.project.project import Project

CODE = """
import os
import time
from sidestage import Partition, Pipeline, Static, Value

parts = Static([f"p{number:02}" for number in range(24)])
pipeline = Pipeline("small")

@pipeline.task(writes=Value("rows", parts))
def make(part: Partition) -> int:
    who = os.environ.get("WHO", "attended")
    with open("{LEDGER}", "a") as ledger:
        ledger.write(who + "\\n")
    while os.path.exists("{LEDGER}.turns") and not may_go_on(who):
        time.sleep(0.01)
    time.sleep(0.1)  # long enough for nobody to be given a step ahead
    return 1

# Who attends begins its third step only after it has heard of one of its helper's, and the helper does two
# before that, the others after it.
def may_go_on(who):
    with open("{LEDGER}") as ledger:
        begun = ledger.read().split()
    if who == "helper":
        return begun.count("helper") <= 2 or begun.count("attended") > 2
    return begun.count("attended") <= 1 or os.path.exists("{LEDGER}.told")
"""
PATIENT = 180.0


@pytest.fixture
def small(new_project, sidestage, monkeypatch):
    for name, value in sidestage.environment.items():
        monkeypatch.setenv(name, value)
    return new_project(CODE)


@pytest.mark.parametrize("asked", [1, 3])
def test_status_shows_as_many_slots_as_were_asked_for(small, asked):
    seen = []

    def note(event):
        if isinstance(event, RunStarted | StepStarted):
            seen.extend(worker.slots for worker in project.store.workers())

    with Project(small.root, listener=note) as project:
        assert project.run(Selection("small", partitions="p00:p02"), workers=asked).state == "done"
    assert len(seen) >= 4
    assert set(seen) == {asked}


def test_who_attends_hears_once_of_each_step_whoever_published_it(small):
    heard = []

    def hear(event):
        heard.append(event)
        own = {each.step for each in heard if isinstance(each, StepStarted)}
        if isinstance(event, StepPublished) and event.step not in own:
            beside(small, "told").touch()

    beside(small, "turns").touch()
    with Project(small.root, listener=hear) as project, helped(small):
        until(lambda: [worker for worker in project.store.workers() if worker.alive], "there is a helper")
        summary = project.run(Selection("small"), workers=1)
        owners = {attempt.owner for attempt in project.store.attempts(summary.run)}
    assert (summary.state, summary.published, len(owners)) == ("done", 24, 2)
    published = [event for event in heard if isinstance(event, StepPublished)]
    assert sorted(event.step for event in published) == [f"small.make@p{each:02}" for each in range(24)]
    last_started = max(number for number, event in enumerate(heard) if isinstance(event, StepStarted))
    own = [event.step for event in heard if isinstance(event, StepStarted)]
    early = [event.step for event in heard[:last_started] if isinstance(event, StepPublished)]
    assert set(early) - set(own), "not only when all was over"


def beside(project, name):
    """Return the path of a file that its tasks may look for."""
    return project.ledger.with_name(f"{project.ledger.name}.{name}")


@contextlib.contextmanager
def helped(project):
    """While this lasts, another worker takes part."""
    process = project.start("worker", "--slots", "1", env={"WHO": "helper"})
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=PATIENT)
        assert process.returncode == 0, (out, error)


def until(true, what):
    deadline = time.monotonic() + PATIENT
    while not true():
        assert time.monotonic() < deadline, f"it never came about that {what}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("verb", "looks"),
    [
        (lambda project: project.plan(Selection("small")), 0),
        (lambda project: project.plan_candidate(Selection("small"), ".", "fix"), 0),
        (lambda project: project.submit(Selection("small")), 0),
        (lambda project: project.run(Selection("small", partitions="p00")), 1),
        (lambda project: project.work(until_idle=True), 1),
    ],
    ids=["plan", "plan a candidate", "submit", "run", "work"],
)
def test_only_who_executes_looks_for_what_dead_workers_left_running(small, monkeypatch, verb, looks):
    small("run", "--workers", "4")
    looked = []
    monkeypatch.setattr(workshop, "end_orphans", lambda: looked.append(1))
    with Project(small.root) as project:
        verb(project)
    assert len(looked) == looks
