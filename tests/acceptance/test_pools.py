"""Pools: never more at once than there are slots, whoever works; who waits is told for what."""

from datetime import UTC, datetime

import pytest
from crowd import HEAVY, LASTING, PATIENT, WAIT_FOR, ended, most_at_once, told, until
from test_workers import crowd, server

FIXTURES = (crowd, server)
SQLITE = pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)


def test_workers_never_take_more_slots_than_a_pool_has(crowd):
    crowd.script(f"{WAIT_FOR.format(what='ok')}time.sleep(0.15)")
    runs = [crowd.detach("slow"), crowd.detach("quick")]
    workers = [crowd.worker("--slots", "2", "--until-idle") for _ in "abc"]
    until(lambda: len(crowd.steps("begin")) == 2, "both slots are held")
    crowd.touch("ok")
    assert [ended(each).code for each in workers] == [0, 0, 0]
    assert [crowd.state(run) for run in runs] == ["done", "done"]
    assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 12
    assert most_at_once(crowd.notes()) == 2


@SQLITE
def test_who_waits_for_slots_is_told_for_what(crowd):
    crowd.settings(f"{LASTING}wait_alert = 0.5\n{HEAVY}")
    crowd.script(WAIT_FOR.format(what="ok"))
    slow = crowd.detach("slow")
    worker = crowd.worker("--slots", "4")
    until(lambda: len(crowd.notes("begin")) == 2, "both slots are held")
    quick = crowd.detach("quick")
    found = crowd("status").out
    assert f"run {quick}: quick.hop@a and 5 more waiting for 1 of 2 heavy slots for " in found
    assert found.count(f" s, held by run {slow}\n") == 2
    waits = {wait["run"]: wait for wait in crowd("status", "--json").json["waits"]}
    assert (waits[slow]["steps"], waits[slow]["pool"], waits[quick]["queue"]) == (4, "heavy", "default")
    said = told(worker, f"Run {quick}: ")
    until(lambda: waited(crowd, quick) > 1.5, "there was time to say it again")
    crowd.touch("ok")
    crowd.wait(quick)
    worker.terminate()
    said += worker.stderr.read()
    assert worker.wait(PATIENT) == 0
    assert f"Run {quick}: quick.hop@a is waiting for 1 of 2 heavy slots for " in said
    assert said.count(f"Run {quick}: ") == 1, "once, whichever of its steps is the first by then"


def waited(crowd, run):
    since = min((each.since for each in crowd.store.waiting() if each.run == run), default=None)
    return 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()


@SQLITE
def test_an_attended_run_tells_of_its_waits_too(crowd):
    crowd.settings(f"{LASTING}wait_alert = 0.2\n[pools.heavy]\nslots = 1\n")
    crowd.script(WAIT_FOR.format(what="ok"))
    slow = crowd.detach("slow", "--partitions", "a")
    crowd.worker("--slots", "1")
    until(lambda: crowd.notes("begin"), "the slot is held")
    quick = crowd.start(
        "run", "quick", "--partitions", "b", "--recompute", "--reason", "again", "--workers", "1"
    )
    told_by_then = told(quick, "waiting for")
    crowd.touch("ok")
    everything = told_by_then + quick.stderr.read()
    assert quick.wait(PATIENT) == 0
    (said,) = [line for line in everything.splitlines() if "waiting for" in line]
    assert said.startswith("! quick.hop@b is waiting for 1 of 1 heavy slots for ")
    assert said.endswith(f", held by run {slow}")


def test_reserved_slots_keep_a_slow_pipeline_from_starving_another(crowd):
    crowd.settings(f"{LASTING}{HEAVY}reserved = {{ quick = 1 }}\n")
    crowd.script("if step.startswith('lift'):" + WAIT_FOR.format(what="ok").replace("\n", "\n    "))
    slow = crowd.detach("slow")
    crowd.worker("--slots", "2")
    crowd.worker("--slots", "2")
    until(lambda: crowd.notes("begin"), "the slow pipeline has begun")
    quick = crowd.detach("quick")
    crowd.wait(quick)
    assert crowd.steps("begin").count("lift@a") == 1
    assert [step for step in crowd.steps("begin") if step.startswith("lift")] == ["lift@a"]
    assert f"held by run {slow}, 1 kept for other pipelines" in crowd("status").out
    crowd.touch("ok")
    crowd.wait(slow)
    assert most_at_once(crowd.notes()) == 2


@SQLITE
def test_a_task_of_a_pool_that_is_not_defined_is_refused_before_anything_runs(crowd):
    crowd.settings("")
    again = ("--recompute", "--reason", "again")
    for words in (
        ("plan", "slow", "--recompute"),
        ("run", "slow", *again),
        ("run", "slow", *again, "--detach"),
    ):
        refused = crowd(*words, expect=2)
        assert refused.err.splitlines() == [
            "Error: The task slow.lift holds slots of the pool 'heavy', which sidestage.toml does not define.",
            "       Define it there: [pools.heavy] and below it slots = 1, or another number.",
        ]
    assert crowd.store.open_runs() == ()
    assert crowd.steps("begin") == []
    crowd("run", "small", *again, "--task", "draw", "--partitions", "a")


@SQLITE
@pytest.mark.parametrize(
    "pool",
    ["slots = 0", "slots = 2\nreserved = { quick = 3 }", "slots = 2\nreserved = { quick = -1 }", "slot = 1"],
)
def test_a_pool_that_makes_no_sense_is_refused(crowd, pool):
    crowd.settings(f"[pools.heavy]\n{pool}\n")
    refused = crowd("worker", "--until-idle", expect=2)
    assert "sidestage.toml" in refused.err
    assert "Traceback" not in refused.err
