"""Several who begin runs: of one pipeline in one environment there is one at a time, whoever asks and where."""

import re
from datetime import UTC, datetime

import pytest
from crowd import HEAVY, WAIT_FOR, ended, until
from test_workers import crowd, hosts, server

from sidestage.store.records import NewRun, NewStep

FIXTURES = (crowd, hosts, server)
RUN = ("run", "small", "--recompute", "--reason", "again", "--json")


def test_of_two_hosts_that_run_a_pipeline_one_is_refused(crowd, hosts):
    crowd.script(WAIT_FOR.format(what="ok"))
    racing = [crowd.start_elsewhere(*RUN, host=host) for host in ("one", "two")]
    until(lambda: any(each.poll() is not None for each in racing), "one is refused")
    crowd.touch("ok")
    results = [ended(each) for each in racing]
    assert sorted(result.code for result in results) == [0, 6], results
    refused = next(result for result in results if result.code == 6)
    assert refused.json["error"] == "StoreError"
    assert re.match(r"Run \d+ of 'small' in 'production' is ", refused.json["message"]), refused
    assert re.search(r"(one|two)[^:]*:\d+:\d+", refused.json["message"]), "it names who drives the run"
    assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 18
    assert len([run for run in crowd.store.runs(pipeline="small") if run.id > 1]) == 1


def test_a_run_whose_host_is_gone_is_closed_by_the_next_one(crowd, hosts):
    crowd.settings(f"[run]\nlease = 6.0\n{HEAVY}")
    crowd.script(WAIT_FOR.format(what="ok"))
    gone = crowd.start_elsewhere(*RUN)
    until(lambda: crowd.notes("begin"), "it runs")
    (first,) = crowd.store.open_runs()
    assert crowd("run", "small", "--json", expect=6).json["hint"]
    gone.kill()
    crowd.touch("ok")
    until(lambda: not any(each.alive for each in crowd.store.workers()), "its lease is over")
    assert crowd(*RUN).json["published"] == 18
    assert crowd.state(first.id) == "cancelled"


def test_a_run_that_workers_are_to_do_is_not_begun_twice_nor_attended(crowd):
    run = crowd.detach()
    for words in (
        ("--detach", "--recompute", "--reason", "x"),
        ("--recompute", "--reason", "x"),
        ("--resume",),
    ):
        refused = crowd("run", "small", *words, "--json", expect=6).json
        assert refused["message"] == (
            f"Run {run} of 'small' in 'production' is open, waiting for workers or run by them."
        )
        assert refused["hint"] == f"Wait for it, or end it: sidestage cancel {run}"
    assert [each.id for each in crowd.store.open_runs()] == [run]
    assert crowd("run", "slow", "--recompute", "--reason", "x", "--json").json["published"] == 6


def test_workers_help_a_run_that_somebody_attends_to(crowd):
    crowd.script(WAIT_FOR.format(what="both"))
    helper = crowd.worker("--slots", "2")
    attended = crowd.start(*RUN, "--workers", "1")
    until(lambda: len(crowd.notes("begin")) == 3, "both work")
    crowd.touch("both")
    result = ended(attended)
    assert result.code == 0, result
    assert (result.json["published"], result.json["rows"]) == (18, 6 * 2 + 12)
    assert {f":{helper.pid}:" in each.owner for each in crowd.attempts(result.json["run"])} == {True, False}
    assert len(crowd.steps("begin")) == len(set(crowd.steps("begin"))) == 18


def test_workers_help_a_rehearsal_behind_its_wall(crowd):
    crowd.script(WAIT_FOR.format(what="both"))
    helper = crowd.worker("--slots", "2")
    module = crowd.root / "src" / "small" / "pipeline.py"
    module.write_text(
        module.read_text().replace('return play("draw", part)', 'return play("draw", part) + "!"')
    )
    stage = crowd.start("stage", "small", "--code", ".", "--name", "fix", "--workers", "1", "--json")
    until(lambda: len(working(crowd)) == 2, "both work")
    crowd.touch("both")
    staged = ended(stage).json
    assert (staged["state"], staged["published"]) == ("done", 6)
    assert {f":{helper.pid}:" in each.owner for each in crowd.attempts(staged["run"])} == {True, False}
    (isolation,) = {each.isolation for each in crowd.attempts(staged["run"])}
    assert isolation == "process" or crowd.notes() == [], "the wall held for both"
    assert len(crowd.attempts(staged["run"], "done")) == 6


def working(crowd):
    """Return who executes steps of the run that is open."""
    return {each.owner for run in crowd.store.open_runs() for each in crowd.attempts(run.id, "running")}


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_a_run_that_a_worker_does_not_understand_is_left_alone(crowd):
    new = NewRun("small", "production", "tree:1", "ann", "", '{"plan": "of tomorrow"}')
    strange = crowd.store.begin_run(
        new, [NewStep("small.draw@a", "small.draw", "drawn", "a", None)], datetime.now(UTC)
    )
    run = crowd.detach("slow")
    result = ended(crowd.start("worker", "--slots", "1", "--until-idle"))
    assert result.code == 0
    assert f"Run {strange} is left to other workers: its plan cannot be read here" in result.err
    assert crowd.state(run) == "done"
    crowd("cancel", str(strange))


def test_production_is_given_code_by_an_attended_complete_run_only(new_project):
    project = new_project(
        "from sidestage import Partition, Pipeline, Static, Value\n"
        'value, pipeline = Value("v", Static(["a", "b"])), Pipeline("p")\n\n\n'
        "@pipeline.task(writes=value)\n"
        "def say(part: Partition) -> str:\n"
        "    return part.key\n"
    )
    for _ in range(2):
        refused = project("run", "--detach", expect=3)
        assert refused.err.startswith("Error: Production was not given all the code of 'p' yet.")
        assert "sidestage run p" in refused.err
        project("run", "--partitions", "a")
    project("run")
    assert project("run", "--detach", "--json").json == {"run": None}
    run = project("run", "--detach", "--recompute", "--reason", "again", "--json").json["run"]
    project("worker", "--until-idle", "--slots", "1")
    assert project("status", "--run", str(run), "--json").json["run"]["state"] == "done"
    project.edit("return part.key", "return part.key * 2")
    refused = project("run", "--detach", expect=3)
    assert refused.err.startswith("Error: Production was given other code than is here for: p.say")


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_a_worker_with_other_code_leaves_the_run_to_others_and_says_so(crowd):
    run = crowd.detach("small", "--task", "draw")
    module = crowd.root / "src" / "small" / "pipeline.py"
    code = module.read_text()
    module.write_text(code.replace('return play("draw", part)', 'return play("draw", part) + "!"'))
    other = ended(crowd.start("worker", "--slots", "1", "--until-idle"))
    assert other.code == 0
    assert (
        f"Run {run} is left to other workers: it was planned for other code of small.draw than lies here."
        in other.err
    )
    assert crowd.attempts(run) == []
    module.write_text(code.replace('return play("draw", part)', 'return nonsense("draw", part'))
    broken = ended(crowd.start("worker", "--slots", "1", "--until-idle"))
    assert broken.code == 0
    assert f"Run {run} is left to other workers: " in broken.err
    assert "Traceback" not in broken.err
    module.write_text(code)
    assert ended(crowd.start("worker", "--slots", "1", "--until-idle")).code == 0
    crowd.wait(run)


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cancel", "99"), "There is no run 99."),
        (("cancel", "x"), "'x' is not a valid integer"),
        (("drain", "nobody:1:2"), "There is no worker 'nobody:1:2'."),
        (("worker", "--slots", "0"), "0 is not in the range"),
        (("worker", "-C", "/"), "There is no sidestage.toml in / or any folder above it."),
        (("run", "--resume", "--detach"), "it takes no selection"),
    ],
)
def test_what_makes_no_sense_is_said(crowd, words, message):
    refused = crowd(*words, expect=2)
    assert message in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)
def test_a_store_that_cannot_be_reached_is_said(crowd):
    crowd.settings("")
    toml = crowd.root / "sidestage.toml"
    toml.write_text(toml.read_text().replace(crowd.url, "postgresql://ann:secret@127.0.0.1:1/none"))
    for words in (("worker",), ("cancel", "1"), ("drain", "x"), ("run", "small", "--detach")):
        refused = crowd(*words, expect=6)
        assert "postgresql://ann:***@127.0.0.1:1/none cannot be reached" in refused.err
        assert "Is the database running?" in refused.err
        assert "secret" not in refused.err
