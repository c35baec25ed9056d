"""Two commands at once, Ctrl-C, killed commands and workers, code that changes meanwhile."""

import os
import re
import signal
import time

import pytest
from chain import HEAD, chain, records, the_steps

from conftest import leftovers

PATIENT = 180.0


def test_of_two_runs_at_the_same_time_the_second_is_refused_and_nothing_is_done_twice(new_project):
    project = chain(new_project, "time.sleep(0.3)")
    processes = [project.start("run", "small") for _ in range(3)]
    ended = [(*process.communicate(timeout=PATIENT), process.returncode) for process in processes]
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
    deadline = time.monotonic() + PATIENT
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
        deadline = time.monotonic() + PATIENT
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
    out, error = process.communicate(timeout=PATIENT)
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
    out, error = process.communicate(timeout=PATIENT)
    assert process.returncode == 0, (out, error)
    assert project("sql", "select count(*) n from production.first", "--json").json == [
        {"n": 40 * 200_000 + 2}
    ]
