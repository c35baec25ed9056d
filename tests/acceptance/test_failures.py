"""What a task may do to the platform, and what the platform makes of it."""

import os
import re
import signal
import subprocess
import time

import pytest

from conftest import leftovers

HEAD = """
import os, signal, sys, time
from collections.abc import Iterator
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline, Retry, Static
from sidestage.checks import row_count

def note(step):
    with open("{LEDGER}", "a") as file:
        file.write(step + "\\n")

def first_try(step):
    return open("{LEDGER}").read().split().count(step) == 1

parts = Static(["a", "b", "c"])
first, second, other = Dataset("first", parts), Dataset("second", parts), Dataset("other", parts)
pipeline = Pipeline("small", retry=Retry(times=2, delay=0.01, longest=0.02))
"""

CHAIN = """
@pipeline.task(writes=first)
def make(part: Partition) -> pa.Table:
    note(f"make@{part.key}")
    if part.key == "b":
        BAD
    return pa.table({"n": [1]})

@pipeline.task(reads=first, writes=second)
def follow(part: Partition, rows: pa.Table) -> pa.Table:
    note(f"follow@{part.key}")
    return rows

@pipeline.task(writes=other)
def aside(part: Partition) -> pa.Table:
    note(f"aside@{part.key}")
    return pa.table({"n": [2]})
"""


def chain(new_project, bad):
    return new_project(HEAD + CHAIN.replace("BAD", bad))


def the_steps(project, run):
    return {step.id.removeprefix("small."): step for step in records(project, lambda store: store.steps(run))}


def records(project, look):
    from sidestage.store.sql import open_store

    with open_store(f"sqlite:///{project.root}/.sidestage/catalog.db") as store:
        return look(store)


@pytest.mark.parametrize("finish", [("run",), ("run", "small", "--resume")])
def test_a_failing_step_stops_only_what_depends_on_it_and_later_only_the_rest_runs(new_project, finish):
    project = chain(new_project, "if not os.path.exists('{LEDGER}.ok'): raise ValueError('no such luck')")
    failed = project("run", expect=4)
    assert "no such luck" in failed.err
    assert sorted(project.done()) == sorted(
        ["make@a", "make@b", "make@c", "follow@a", "follow@c", "aside@a", "aside@b", "aside@c"]
    )
    steps = the_steps(project, 1)
    assert (steps["make@b"].state, steps["make@b"].failure_class, steps["make@b"].attempt) == (
        "failed",
        "bug",
        1,
    )
    assert steps["follow@b"].state == "waiting"
    before = project.pointers()
    assert len(before) == 7
    project.ledger.with_name(project.ledger.name + ".ok").touch()
    project.ledger.unlink()
    project(*finish)
    assert project.done() == ["make@b", "follow@b"]
    assert before.items() <= project.pointers().items()
    project.ledger.unlink()
    project("run")
    assert project.done() == []
    project("run", "--resume", expect=2)


def test_a_flaky_step_is_tried_again(new_project):
    project = chain(new_project, "if first_try('make@b'): raise ConnectionError('try later')")
    project("run")
    attempts = records(project, lambda store: store.attempts(1, "small.make@b"))
    assert [(entry.state, entry.failure_class) for entry in attempts] == [
        ("failed", "transient"),
        ("done", None),
    ]


@pytest.mark.parametrize(
    ("deadly", "how"),
    [
        ("os._exit(7)", "exited with status 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_step_tried_again(new_project, deadly, how):
    project = chain(new_project, f"if first_try('make@b'): {deadly}")
    project("run")
    attempts = records(project, lambda store: store.attempts(1, "small.make@b"))
    assert [(a.state, a.failure_class) for a in attempts] == [("failed", "worker-died"), ("done", None)]
    assert how in attempts[0].message
    assert sorted(project.done()).count("make@b") == 2
    assert len(project.done()) == 10, "whatever else the worker had been given was not lost and not doubled"


def test_a_step_that_always_kills_its_worker_fails_and_stops_only_what_depends_on_it(new_project):
    project = chain(new_project, "os.kill(os.getpid(), signal.SIGSEGV)")
    failed = project("run", expect=4)
    assert "killed by SIGSEGV" in failed.err
    steps = the_steps(project, 1)
    assert (steps["make@b"].failure_class, steps["make@b"].attempt) == ("worker-died", 3)
    assert sum(step.state == "done" for step in steps.values()) == 7


GARBAGE = {
    "exit": ("sys.exit(3)", "bug", "SystemExit: 3"),
    "interrupt": ("raise KeyboardInterrupt", "bug", "KeyboardInterrupt"),
    "memory": ("raise MemoryError('so little')", "resource", "so little"),
    "number": ("return 5", "schema", "int"),
    "none": ("return None", "schema", "None"),
    "text": ("return 'text'", "schema", "str"),
    "mixed": ("return [{'n': 1}, 5]", "schema", "Row 2"),
    "nothing": ("return []", "schema", "without items"),
    "file": ("return open(os.devnull)", "schema", "without items"),
    "divided": ("return (1 / 0 for _ in range(3))", "bug", "ZeroDivisionError"),
    "halfway": ("return half()", "bug", "half-way"),
    "twins": ("return pa.table([[1], [2]], names=['n', 'n'])", "schema", "'n'"),
    "locked": ("raise PermissionError('keep out')", "authentication", "keep out"),
    "silent": ("raise Silent", "bug", "Silent"),
    "undecodable": ("raise ValueError('caf\\udce9')", "bug", "caf"),
    "check": ("return pa.table({'n': []})", "validation", "row_count"),
}


def test_garbage_fails_its_own_step_with_a_class_and_leaves_nothing_in_the_lake(new_project):
    cases = "".join(f"    if part.key == {name!r}:\n        {bad}\n" for name, (bad, _, _) in GARBAGE.items())
    project = new_project(
        HEAD
        + f"""
parts = Static({["fine", *GARBAGE]!r})
first = Dataset("first", parts, checks=[row_count(at_least=1)])
second = Dataset("second", parts)
pipeline = Pipeline("small", retry=Retry(times=0))

class Silent(Exception):
    failure_class = property(lambda self: 1 / 0)
    def __str__(self):
        raise RuntimeError

def half():
    yield from ({{"n": n}} for n in range(50_000))
    raise ValueError("half-way")

@pipeline.task(writes=first)
def make(part: Partition):
{cases}    return pa.table({{"n": [1]}})

@pipeline.task(reads=first, writes=second)
def follow(part: Partition, rows: pa.Table) -> pa.Table:
    return rows
"""
    )
    failed = project("run", expect=4)
    assert "Traceback" not in failed.err
    steps = the_steps(project, 1)
    found = {name: (steps[f"make@{name}"].failure_class, steps[f"make@{name}"].message) for name in GARBAGE}
    assert {name: kind for name, (kind, _) in found.items()} == {
        name: kind for name, (_, kind, _) in GARBAGE.items()
    }
    assert {name: text for name, (_, _, text) in GARBAGE.items() if text not in found[name][1]} == {}
    assert [name for name, step in steps.items() if step.state == "done"] == ["make@fine", "follow@fine"]
    assert {steps[f"follow@{name}"].state for name in GARBAGE} == {"waiting"}
    lake = project.root / ".sidestage" / "lake"
    assert sorted(path.parent.name for path in lake.rglob("*") if path.is_file()) == ["first", "second"]


def test_an_empty_output_with_columns_is_published(new_project):
    project = chain(new_project, "return pa.table({'n': pa.array([], pa.int64())})")
    project("run")
    look = "select count(*) n from production.second"
    assert project("sql", look, "--json").json == [{"n": 2}]


def test_columns_that_change_from_version_to_version_are_read_together(new_project):
    project = chain(new_project, "return pa.table({'n': [1.5], 'extra': ['x']})")
    project("run")
    rows = project("sql", "select n, extra, _partition p from production.first order by p", "--json").json
    assert rows == [
        {"n": 1.0, "extra": None, "p": "a"},
        {"n": 1.5, "extra": "x", "p": "b"},
        {"n": 1.0, "extra": None, "p": "c"},
    ]


def test_what_a_task_prints_is_kept_and_bounded(new_project):
    project = chain(new_project, "print('begin'); print('x' * 5_000_000); os.write(2, b'the end')")
    done = project("run", "--json")
    assert done.json["state"] == "done", "and nothing that a task prints reaches the command's own output"
    logs = sorted((project.root / ".sidestage" / "logs").rglob("*.log"))
    assert [log.name for log in logs] == ["small.make@b.1.log"]
    text = logs[0].read_bytes()
    assert len(text) <= 1_000_000
    assert text.endswith(b"the end")


def test_a_blocking_check_keeps_the_old_version(new_project):
    project = chain(new_project, "pass")
    project("run", "--partitions", "a,b,c")
    before = project.digests()
    project.edit('Dataset("first", parts)', 'Dataset("first", parts, checks=[row_count(at_least=2)])')
    failed = project("run", "--partitions", "a,b,c", expect=4)
    assert "row_count" in failed.err
    assert project.digests() == before
    assert the_steps(project, 2)["make@a"].failure_class == "validation"


def test_a_full_disk_is_said_so_and_one_command_finishes_after_space_was_made(new_project, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounted(disk):
        assert os.environ.get("CI") != "true", (
            "this test must not be left out: it needs root to mount a tmpfs"
        )
        pytest.skip("it needs root to mount a tmpfs")
    try:
        big = "rows = 400_000 if os.path.exists('{LEDGER}.big') else 10\n        return pa.table({'n': list(map(str, range(rows)))})"
        project = new_project(
            HEAD + CHAIN.replace("BAD", big), settings=f'[run]\nworkers = 2\n[state]\nlake = "{disk}/lake"\n'
        )
        project("run")
        before = project.digests()
        filler = disk / "filler"
        filler.write_bytes(b"x" * 3_600_000)
        project.ledger.with_name(project.ledger.name + ".big").touch()
        failed = project(
            "run", "--recompute", "--reason", "full", "--task", "make", "--partitions", "b", expect=4
        )
        assert "No space" in failed.err
        step = the_steps(project, 2)["make@b"]
        assert (step.failure_class, step.attempt) == ("disk-full", 1)
        assert project.digests() == before
        filler.unlink()
        project("run", "--recompute", "--reason", "again", "--task", "make", "--partitions", "b")
        assert project.digests()["first", "b"] != before["first", "b"]
        assert [path.name for path in disk.rglob(".*")] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def mounted(disk):
    if os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    return done.returncode == 0


def test_of_two_runs_at_the_same_time_the_second_is_refused_and_nothing_is_done_twice(new_project):
    project = chain(new_project, "time.sleep(0.3)")
    processes = [project.start("run", "small") for _ in range(3)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert {code for _, _, code in ended} <= {0, 6}
    for _, error, code in ended:
        if code == 6:
            assert re.match(r"Error: 'small' is being run in 'production' by another process", error)
            assert "Traceback" not in error
    project("run")
    assert len(project.done()) == len(set(project.done())) == 9
    log = records(project, lambda store: store.pointer_log(limit=1000))
    assert len(log) == len({(entry.dataset, entry.partition) for entry in log}) == 9


def wait_for(project, line):
    deadline = time.monotonic() + 60
    while line not in project.done():
        assert time.monotonic() < deadline, f"{line} never happened"
        time.sleep(0.01)


def test_a_run_is_refused_while_another_waits_to_try_again(new_project):
    """It holds no step then, so only its lock says that it lives."""
    project = chain(new_project, "raise ConnectionError('later')")
    project.edit("delay=0.01, longest=0.02", "delay=60, longest=60")
    first = project.start("run", "--task", "make")
    try:
        wait_for(project, "make@b")
        deadline = time.monotonic() + 60
        while (steps := the_steps(project, 1))["make@b"].state != "waiting" or steps[
            "make@c"
        ].state != "done":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        refused = project("run", "--task", "make", expect=6)
        assert f":{first.pid}:" in refused.err
        assert records(project, lambda store: store.run(1)).state == "running"
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_gives_back_what_was_running_and_the_next_run_finishes(
    new_project, number, status, session_mark
):
    project = chain(new_project, "time.sleep(0 if os.path.exists('{LEDGER}.ok') else 60)")
    process = project.start("run", "small", "--json")
    wait_for(project, "make@b")
    os.kill(process.pid, number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in error
    assert out == ""
    if number == signal.SIGINT:
        assert error.strip() == "Interrupted: what was published stays, the rest was given back."
    assert leftovers(session_mark) == []
    assert records(project, lambda store: store.run(1)).state == "cancelled"
    assert {step.state for step in the_steps(project, 1).values()} <= {"waiting", "ready", "done"}
    assert "running" not in {a.state for a in records(project, lambda store: store.attempts(1))}
    project.ledger.with_name(project.ledger.name + ".ok").touch()
    project("run")
    assert len(project.pointers()) == 9


def test_a_worker_that_is_killed_while_it_loads_the_code_is_replaced(new_project):
    project = chain(new_project, "pass")
    project.edit(
        "def note(step):",
        f"""
count = os.path.exists("{project.ledger}.loads") and os.path.getsize("{project.ledger}.loads")
with open("{project.ledger}.loads", "a") as file:
    file.write(".")
if count < 3:
    os.kill(os.getpid(), signal.SIGKILL)

def note(step):""",
    )
    assert project("run", "small", "--json").json["published"] == 9


def test_code_that_kills_every_worker_that_loads_it_is_a_clear_error(new_project):
    project = chain(new_project, "pass")
    project.edit("def note(step):", "os._exit(3)\n\ndef note(step):")
    refused = project("run", "small", expect=2)
    assert refused.err.startswith(
        "Error: Workers keep dying while they load the code (the last one exited with"
    )


def test_code_that_is_changed_while_it_runs_publishes_nothing_under_the_old_name(new_project):
    """A worker that replaces another loads what is there by then."""
    project = chain(
        new_project,
        """text = open(__file__).read()
        open(__file__, "w").write(text.replace('{"n": [2]}', '{"n": [3]}'))
        os.kill(os.getpid(), signal.SIGKILL)""",
    )
    refused = project("run", "small", "--workers", "1", expect=6)
    assert refused.err.splitlines()[-2].startswith(
        "Error: The code of small.aside, small.make was changed while it ran."
    )
    published = project.pointers()
    rows = (
        project("sql", "select distinct n from production.other", "--json")
        if ("other", "a") in published
        else None
    )
    assert rows is None or rows.json == [{"n": 2}]
    project.edit("os.kill(os.getpid(), signal.SIGKILL)", "")
    project.edit("""open(__file__, "w").write""", "str")
    project("run", "small")
    assert project("sql", "select distinct n from production.other", "--json").json == [{"n": 3}]


def test_workers_do_not_outlive_a_killed_command(new_project, session_mark):
    project = chain(new_project, "time.sleep(60)")
    process = project.start("run", "small")
    wait_for(project, "make@b")
    process.kill()
    process.communicate()
    assert leftovers(session_mark) == []


def test_clean_leaves_alone_what_a_running_process_writes(new_project):
    """Even with no grace period: the file may be published a moment later."""
    project = new_project(
        HEAD
        + """
@pipeline.task(writes=first)
def make(part: Partition):
    if part.key == "b":
        for turn in range(40):
            yield pa.table({"n": [turn] * 200_000})
            note("half@b")
            while turn == 30 and not os.path.exists("{LEDGER}.ok"):
                time.sleep(0.01)
    else:
        yield pa.table({"n": [1]})
"""
    )
    process = project.start("run", "small")
    wait_for(project, "half@b")
    while project.done().count("half@b") < 31:
        time.sleep(0.01)
    cleaned = project("clean", "--yes", "--grace", "0", "--keep-days", "0", "--json").json
    assert cleaned["orphans"] == []
    project.ledger.with_name(project.ledger.name + ".ok").touch()
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, (out, error)
    assert project("sql", "select count(*) n from production.first", "--json").json == [
        {"n": 40 * 200_000 + 2}
    ]
