"""Pools: never more at once than there are slots, whoever works; who waits is told for what."""

from datetime import UTC, datetime

import pytest
from crowd import WAIT_FOR, ended, most_at_once, until
from test_workers import crowd, server

FIXTURES = (crowd, server)
SQLITE = pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)


def test_workers_never_take_more_slots_than_a_pool_has(crowd):
    crowd.script("time.sleep(0.15)")
    runs = [crowd.detach("slow"), crowd.detach("quick")]
    workers = [crowd.start("worker", "--slots", "2", "--until-idle") for _ in "abc"]
    assert [ended(each).code for each in workers] == [0, 0, 0]
    assert [crowd.state(run) for run in runs] == ["done", "done"]
    assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 12
    assert most_at_once(crowd.notes()) == 2


@SQLITE
def test_who_waits_for_slots_is_told_for_what(crowd):
    crowd.settings("[run]\nwait_alert = 0.5\n[pools.heavy]\nslots = 2\n")
    crowd.script(WAIT_FOR.format(what="ok"))
    slow = crowd.detach("slow")
    worker = crowd.worker("--slots", "4")
    until(lambda: len(crowd.notes("begin")) == 2, "both slots are held")
    quick = crowd.detach("quick")
    found = crowd("status").out
    assert f"run {quick}: quick.hop@a and 5 more waiting for 1 of 2 heavy slots for " in found
    assert found.count(f" s, held by run {slow}\n") == 2
    told = {wait["run"]: wait for wait in crowd("status", "--json").json["waits"]}
    assert (told[slow]["steps"], told[slow]["pool"], told[quick]["queue"]) == (4, "heavy", "default")
    until(lambda: waited(crowd, quick) > 1.5, "it has waited for longer than it should")
    crowd.touch("ok")
    crowd.wait(quick)
    worker.terminate()
    said = ended(worker).err
    assert f"Run {quick}: quick.hop@a is waiting for 1 of 2 heavy slots for " in said
    assert said.count(f"Run {quick}: ") == 1, "once, whichever of its steps is the first by then"


def waited(crowd, run):
    since = min((each.since for each in crowd.store.waiting() if each.run == run), default=None)
    return 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()


@SQLITE
def test_an_attended_run_tells_of_its_waits_too(crowd):
    crowd.settings("[run]\nwait_alert = 0.2\n[pools.heavy]\nslots = 1\n")
    crowd.script(WAIT_FOR.format(what="ok"))
    slow = crowd.detach("slow", "--partitions", "a")
    crowd.worker("--slots", "1")
    until(lambda: crowd.notes("begin"), "the slot is held")
    quick = crowd.start(
        "run", "quick", "--partitions", "b", "--recompute", "--reason", "again", "--workers", "1"
    )
    until(lambda: waited(crowd, slow + 1) > 1.0, "it has waited for longer than it should")
    crowd.touch("ok")
    result = ended(quick)
    assert result.code == 0
    (said,) = [line for line in result.err.splitlines() if "waiting for" in line]
    assert said.startswith("! quick.hop@b is waiting for 1 of 1 heavy slots for ")
    assert said.endswith(f", held by run {slow}")


def test_reserved_slots_keep_a_slow_pipeline_from_starving_another(crowd):
    crowd.settings("[pools.heavy]\nslots = 2\nreserved = { quick = 1 }\n")
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
