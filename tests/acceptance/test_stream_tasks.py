"""Tasks that return streams, run by real workers."""

import contextlib
from pathlib import Path

from crowd import until

from sidestage.store.sql import open_store
from sidestage.stream.letters.file import read_letters

CODE = """
import os
import time
from dataclasses import dataclass

from sidestage import Dataset, Partition, Pipeline, Retry, Static, Stream
from sidestage.stream import SetAside

parts = Static(["a"])
squares = Dataset("squares", parts)
pipeline = Pipeline("small", retry=Retry(times=2, delay=0.01, longest=0.02))


@dataclass
class Row:
    n: int
    pid: int


def square(n):
    if n % 1000 == 7:
        raise ValueError(n)
    return Row(n * n, os.getpid())


def note(what):
    with open("{LEDGER}", "a") as ledger:
        ledger.write(f"{what} {os.getpid()}\\n")


def numbers():
    note("begin")
    try:
        n = 0
        while n < 5000 or os.path.exists("{LEDGER}.endless"):
            yield n
            n += 1
    finally:
        note("end")


def glitch(row):
    if row.n == 9 and not os.path.exists("{LEDGER}.glitch"):
        open("{LEDGER}.glitch", "w").close()
        raise ConnectionError("gone for a moment")
    return row


@pipeline.task(writes=squares)
def make(part: Partition) -> Stream[Row]:
    stream = Stream(numbers()).map(square, workers=2, on="process", on_error=SetAside())
    return stream.map(glitch, workers=2)
"""
ROW = "squares", "a"


def letters_of(state: Path) -> list[Path]:
    return sorted((state / "logs").rglob("*.letters.jsonl"))


def test_a_stream_with_processes_is_a_task_and_is_tried_again_after_a_glitch(new_project) -> None:
    project = new_project(CODE, settings="[run]\nworkers = 1\n")
    state = project.root / ".sidestage"
    project("run")
    with contextlib.closing(open_store(f"sqlite:///{state}/catalog.db")) as store:
        attempts = store.attempts(1)
        (version,) = store.versions([store.pointers("production")[ROW]]).values()
    assert [(each.state, each.failure_class) for each in attempts] == [
        ("failed", "transient"),
        ("done", None),
    ]
    assert "ConnectionError" in (attempts[0].message or "") + (attempts[0].details or "")
    assert version.stored.digest.rows == 5000 - 5
    written = letters_of(state)[-1]
    assert sorted(letter.value() for letter in read_letters(written)) == [7, 1007, 2007, 3007, 4007]
    assert str(written) in written.with_name("small.make@a.2.log").read_text()


def test_behind_the_wall_of_a_candidate_letters_are_printed(new_project) -> None:
    project = new_project(CODE, settings="[run]\nworkers = 1\n")
    project.edit(', workers=2, on="process", on_error', ", on_error")
    project("run")
    project.edit("n * n", "n * n + 1")
    project.edit("row.n == 9 and", "False and")
    project.edit('note("begin")', "pass")
    project.edit('note("end")', "pass")
    project("stage", "--code", ".", "--name", "fix")
    state = project.root / ".sidestage"
    log = next((state / "logs" / "run-2").glob("*.log")).read_text()
    if not letters_of(state / "logs" / "run-2"):  # a host that builds no wall lets the file be written
        assert "5 dead letters:" in log
        assert '"shown":"4007"' in log


def test_a_run_that_is_cancelled_cancels_the_stream_of_its_task(new_project) -> None:
    # However busy the host, its code is given the time to end by itself.
    project = new_project(CODE, settings="[run]\nworkers = 1\nstop = 60.0\n")
    project("run")
    endless = project.ledger.with_name(f"{project.ledger.name}.endless")
    endless.touch()
    again = ("run", "small", "--recompute", "--reason", "again", "--detach", "--json")
    worker = project.start("worker", "--slots", "1")
    try:
        run = project(*again).json["run"]
        until(lambda: len(project.done()) == 5, "its stream has begun")
        project("cancel", str(run))
        until(lambda: len(project.done()) == 6, "its source was closed")
        assert project.done()[-1] == project.done()[-2].replace("begin", "end")
        assert len(project.pointers()) == 1
        endless.unlink()
        after = project(*again).json["run"]
        until(lambda: f"run {after} done" in project("status").out, "the worker goes on")
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.communicate()
