"""What a task may do to the platform, and what the platform makes of it."""

import os
import subprocess

import pytest
from chain import CHAIN, HEAD, chain, records, the_steps


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
    assert [log.name.endswith("b.1.log") for log in logs] == [True]
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
