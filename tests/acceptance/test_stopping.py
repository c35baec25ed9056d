"""Stopping: one run by cancel, one worker by drain; whatever runs is gone soon, and nothing of it is published."""

import signal

import pytest
from crowd import HEAVY, WAIT_FOR, Crowd, ended, is_alive, most_at_once, until
from test_workers import crowd, server

FIXTURES = (crowd, server)
RUN = ("run", "small", "--task", "draw", "--recompute", "--reason", "again", "--json")
STOPPED_SOON = f"[run]\nlease = 10.0\nstop = 2.0\n{HEAVY}"

STUBBORN = """
import signal, subprocess
if not os.path.exists(os.environ["LEDGER"] + ".ok"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for alone in (False, True):
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
        started = subprocess.Popen(["python3", "-c", code], start_new_session=alone)
        note("started", str(started.pid))
    while True:
        try:
            time.sleep(300)
        except BaseException:
            note("ignored", step)
"""

COOPERATIVE = """
if not os.path.exists(os.environ["LEDGER"] + ".ok"):
    try:
        time.sleep(300)
    finally:
        note("tidied", step)
"""


def begin(crowd: Crowd, how: str):
    """Have the steps of one task run, by a run that is attended to or by a worker."""
    if how == "attended":
        process = crowd.start(*RUN, "--workers", "2")
    else:
        crowd.detach("small", "--task", "draw")
        process = crowd.worker("--slots", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    return process, crowd.store.open_runs()[-1].id


@pytest.mark.parametrize("how", ["attended", "worker"])
@pytest.mark.parametrize("kind", ["stubborn", "cooperative"])
def test_a_cancelled_run_is_gone_and_can_be_taken_up_again(crowd, how, kind):
    if kind == "stubborn":
        crowd.settings(STOPPED_SOON)
    crowd.script(STUBBORN if kind == "stubborn" else COOPERATIVE)
    process, run = begin(crowd, how)
    if kind == "stubborn":
        until(lambda: len(crowd.notes("started")) == 4, "each has started two processes")
    pids = {note.pid for note in crowd.notes()} | {int(note.step) for note in crowd.notes("started")}
    assert all(map(is_alive, pids))
    said = crowd("cancel", str(run))
    assert said.out == f"Run {run} of small is cancelled.\n"
    if kind == "stubborn":
        until(lambda: not any(map(is_alive, pids)), "all that it started is gone")
    else:  # a warm process of a task that did as it was told may live on, idle
        until(lambda: len(crowd.notes("tidied")) == 2, "both did as they were told")
        assert sorted(crowd.steps("tidied")) == sorted(crowd.steps("begin"))
    assert crowd.published(run) == []
    assert {each.state for each in crowd.attempts(run)} == {"abandoned"}
    if how == "attended":
        result = ended(process)
        assert result.code == 4
        assert (result.json["state"], result.json["published"], result.json["skipped"]) == ("cancelled", 0, 6)
    crowd.touch("ok")
    resumed = crowd("run", "small", "--resume", "--json").json
    assert (resumed["run"], resumed["state"], resumed["published"]) == (run, "done", 6)
    assert len(crowd.published(run)) == 6


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_an_attended_run_says_that_it_was_cancelled(crowd):
    crowd.script(COOPERATIVE)
    process = crowd.start(*RUN[:-1], "--workers", "1")
    until(lambda: crowd.notes("begin"), "a step runs")
    run = crowd.store.open_runs()[-1].id
    cancelled = crowd("cancel", str(run), "--json").json
    assert (cancelled["state"], cancelled["plan"]) == ("cancelled", "")
    result = ended(process)
    assert result.code == 4
    lines = result.out.splitlines()
    assert lines[0].startswith(f"Run {run} cancelled: 0 published")
    assert lines[1] == "It was cancelled: what was published stays, the rest was given back."
    assert lines[2].strip() == "next: sidestage run small --resume"
    again = crowd("cancel", str(run))
    assert again.out == f"Run {run} of small is cancelled.\n"
    assert crowd("cancel", "1").out == "Run 1 of small had ended already: done.\n"


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_a_cancelled_run_does_not_disturb_others_of_the_same_worker(crowd):
    crowd.script(
        "if step.startswith('draw'):\n    try:\n        time.sleep(300)\n    finally:\n        note('tidied', step)\n"
        f"elif step == 'lift@a':\n    {WAIT_FOR.format(what='ok').strip().replace(chr(10), chr(10) + '    ')}\n"
    )
    run = crowd.detach("small", "--task", "draw", "--partitions", "a")
    other = crowd.detach("slow", "--partitions", "a,b,c")
    crowd.worker("--slots", "2")
    until(lambda: {"draw@a", "lift@a"} <= set(crowd.steps("begin")), "both run")
    crowd("cancel", str(run))
    until(lambda: crowd.notes("tidied"), "the one that was cancelled stopped")
    crowd.touch("ok")
    crowd.wait(other)
    assert sorted(crowd.steps("begin")) == ["draw@a", "lift@a", "lift@b", "lift@c"]
    assert crowd.state(run) == "cancelled"


@pytest.mark.parametrize("how", ["signal", "command"])
def test_a_worker_that_drains_finishes_what_it_runs_and_begins_nothing(crowd, how):
    crowd.script(WAIT_FOR.format(what="ok"))
    run = crowd.detach("small", "--task", "draw")
    worker = crowd.worker("--slots", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    name = crowd.name(worker)
    if how == "signal":
        worker.send_signal(signal.SIGTERM)
    else:
        assert crowd("drain", str(name)).out == f"{name} is draining.\n"
        told_at = crowd.store.workers()[0].seen_at
        until(lambda: crowd.store.workers()[0].seen_at > told_at, "its heart beats, by which it hears of it")
    until(lambda: any(each.draining for each in crowd.store.workers()), "it says that it drains")
    until(lambda: f"worker {name} draining: 2 slots" in crowd("status").out, "status says so")
    crowd.touch("ok")
    result = ended(worker)
    assert result.code == 0, result
    assert "Worker ends: 2 published, 0 reused." in result.err
    assert len(crowd.notes("begin")) == len(crowd.published(run)) == 2
    assert crowd.name(worker) is None
    assert crowd.state(run) == "running"
    assert ended(crowd.start("worker", "--until-idle")).code == 0
    assert crowd.state(run) == "done"
    assert len(crowd.notes("begin")) == 6


def test_a_second_signal_stops_a_worker_at_once_and_gives_back_what_it_ran(crowd):
    crowd.script(STUBBORN)
    run = crowd.detach("small", "--task", "draw")
    worker = crowd.worker("--slots", "2")
    until(lambda: len(crowd.notes("started")) == 4, "two steps run")
    pids = {note.pid for note in crowd.notes()} | {int(note.step) for note in crowd.notes("started")}
    worker.send_signal(signal.SIGTERM)
    until(lambda: any(each.draining for each in crowd.store.workers()), "it drains")
    worker.send_signal(signal.SIGTERM)
    result = ended(worker)
    assert result.code == 0, result
    assert [pid for pid in pids if is_alive(pid)] == []
    assert {each.state for each in crowd.attempts(run)} == {"abandoned"}
    assert {each.state for each in crowd.store.steps(run)} == {"ready"}
    assert crowd.store.workers() == ()
    crowd.touch("ok")
    assert ended(crowd.start("worker", "--until-idle")).code == 0
    assert crowd.state(run) == "done"
    assert most_at_once([each for each in crowd.notes() if each.what in ("begin", "end")][2:]) <= 2


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_a_run_that_is_attended_to_can_be_drained_too(crowd):
    crowd.script(WAIT_FOR.format(what="ok"))
    process = crowd.start(*RUN, "--workers", "2")
    until(lambda: len(crowd.notes("begin")) == 2, "two steps run")
    crowd("drain", str(crowd.name(process)))
    told_at = crowd.store.workers()[0].seen_at
    until(lambda: crowd.store.workers()[0].seen_at > told_at, "its heart beats, by which it hears of it")
    crowd.touch("ok")
    result = ended(process)
    assert result.code == 4
    assert (result.json["state"], result.json["published"], result.json["skipped"]) == ("cancelled", 2, 4)
    assert crowd("run", "small", "--resume", "--json").json["published"] == 4
