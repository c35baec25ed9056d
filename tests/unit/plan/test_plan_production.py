"""Production's plans: which partitions must run, and why."""

from datetime import datetime, timedelta

import msgspec
import pytest
from small_worlds import CLOSED, DAYS, NOW, Stage, coded, manifest, reasons, step_of, task

from sidestage.data.calendar import Daily, Monthly
from sidestage.data.keyed import Single, Static
from sidestage.data.mapping import AllOf, Fixed, Latest, Window
from sidestage.errors import NotFound, PartitionKeyError
from sidestage.plan.plan import Plan
from sidestage.plan.production import plan_production
from sidestage.plan.world import Selection

FLOW = Selection("flow")
CHAIN = manifest(task("raw"), task("clean", "raw"), task("total", "clean"))
FIRST, SECOND = CLOSED[:2]
ONE_DAY = Selection("flow", FIRST)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def done(stage) -> Stage:
    """Everything was published by the code that is declared."""
    stage.execute(plan_production(stage.world(CHAIN), FLOW))
    return stage


def test_what_was_never_published_is_missing(stage):
    plan = plan_production(stage.world(CHAIN), FLOW)
    assert reasons(plan) == {
        f"{name} {day}": "missing" for name in ("raw", "clean", "total") for day in CLOSED
    }
    step = step_of(plan, "clean", FIRST)
    assert step.id == f"flow.make_clean@{FIRST}"
    assert [(entry.dataset, entry.partition, entry.version) for entry in step.inputs] == [
        ("raw", FIRST, None)
    ]
    assert plan.predecessors(step) == (f"flow.make_raw@{FIRST}",)
    assert (step.expects, step.reuse, step.seconds) == (None, None, None)
    assert plan.expected_seconds is None
    assert plan.current == 0


def test_nothing_is_to_be_done_twice(done):
    plan = plan_production(done.world(CHAIN), FLOW)
    assert plan.steps == plan.blocked == ()
    assert plan.current == 3 * len(CLOSED)


def test_a_day_that_has_not_ended_is_not_planned(done):
    later = NOW + timedelta(hours=12)
    assert reasons(plan_production(done.world(CHAIN, now=later), FLOW)).keys() == {
        f"{name} 2013-01-05" for name in ("raw", "clean", "total")
    }
    unended = Selection("flow", "2013-01-05")
    assert plan_production(done.world(CHAIN), unended).steps == ()


def test_other_code_and_what_follows_from_it(done):
    before = dict(done.production)
    plan = plan_production(done.world(coded(CHAIN, clean="2")), ONE_DAY)
    assert reasons(plan) == {f"clean {FIRST}": "code changed", f"total {FIRST}": "upstream"}
    clean, total = plan.steps
    assert clean.expects == before["clean", FIRST]
    assert clean.reuse is None
    assert clean.inputs[0].version == before["raw", FIRST]
    assert total.reuse == total.expects == before["total", FIRST]
    assert plan.current == 1


def test_what_follows_is_reused_if_the_content_is_the_same():
    stage = Stage(
        content=lambda code, inputs: "same" if code.startswith("clean") else "|".join([code, *inputs])
    )
    stage.execute(plan_production(stage.world(CHAIN), FLOW))
    plan = plan_production(stage.world(coded(CHAIN, clean="2")), ONE_DAY)
    assert stage.execute(plan) == [f"flow.make_clean@{FIRST}"]
    assert plan_production(stage.world(coded(CHAIN, clean="2")), ONE_DAY).steps == ()


def test_another_input_version_with_other_content(done):
    done.publish("raw", FIRST, content="corrected")
    plan = plan_production(done.world(CHAIN), FLOW)
    assert reasons(plan) == {f"clean {FIRST}": "inputs changed", f"total {FIRST}": "upstream"}
    assert step_of(plan, "clean", FIRST).reuse is None


def test_another_input_version_with_equal_content_changes_nothing(done):
    same = done.versions[done.production["raw", FIRST]].stored.digest.content
    done.publish("raw", FIRST, content=same)
    assert plan_production(done.world(CHAIN), FLOW).steps == ()


def test_digests_of_different_methods_prove_nothing(done):
    old = done.versions[done.production["raw", FIRST]]
    new = done.publish("raw", FIRST, content=old.stored.digest.content)
    stored = done.versions[new].stored
    digest = msgspec.structs.replace(stored.digest, algorithm="other")
    done.versions[new] = msgspec.structs.replace(
        done.versions[new], stored=msgspec.structs.replace(stored, digest=digest)
    )
    assert reasons(plan_production(done.world(CHAIN), FLOW))[f"clean {FIRST}"] == "inputs changed"


def test_an_input_more_or_less_is_a_change(done):
    wider = manifest(task("raw"), task("clean", ("raw", Window(before=1))), task("total", "clean"))
    plan = plan_production(done.world(wider), FLOW)
    # The first day has none before it, so it reads what it read.
    assert [key for key, kind in reasons(plan).items() if kind == "inputs changed"] == [
        f"clean {day}" for day in CLOSED[1:]
    ]


def test_recompute_asks_for_all_that_is_selected(done):
    plan = plan_production(done.world(CHAIN), Selection("flow", FIRST, recompute=True))
    assert set(reasons(plan).values()) == {"requested"}
    assert all(step.reuse is None and step.expects is not None for step in plan.steps)
    assert (
        plan_production(done.world(CHAIN), Selection("flow", FIRST, ("make_raw",), recompute=True)).steps
        == plan.steps[:1]
    )


def test_tasks_are_selected_by_name(stage):
    plan = plan_production(stage.world(CHAIN), Selection("flow", FIRST, ("make_raw", "make_total")))
    assert reasons(plan) == {f"raw {FIRST}": "missing"}
    assert [(entry.dataset, entry.why) for entry in plan.blocked] == [("total", f"waits for clean ({FIRST})")]
    assert plan.code.keys() == {"flow.make_raw", "flow.make_total"}


def test_what_a_blocked_partition_waits_for_is_said_briefly(stage):
    # The whole reads every day, none of which is there, because their own input is another pipeline's.
    declared = manifest(
        task("far", pipeline="other"),
        task("days", "far"),
        task("whole", ("days", AllOf()), "far2"),
        task("far2", pipeline="other"),
        sets={"whole": Single(), "far2": Single()},
    )
    plan = plan_production(stage.world(declared), FLOW)
    assert plan.steps == ()
    by_place = {(entry.dataset, entry.partition): entry.why for entry in plan.blocked}
    assert by_place["days", FIRST] == f"waits for far ({FIRST})"
    assert by_place["whole", "all"] == f"waits for days ({', '.join(CLOSED[:3])} and 1 more); far2 (all)"


def test_a_partition_whose_input_has_none_yet_is_blocked(stage):
    early = manifest(task("late"), task("use", ("late", Latest())), sets={"late": Daily("2013-01-04")})
    stage.execute(plan_production(stage.world(early), Selection("flow", tasks=("make_late",))))
    plan = plan_production(stage.world(early), FLOW)
    assert reasons(plan) == {"use 2013-01-04": "missing"}
    assert {entry.why for entry in plan.blocked} == {"waits for late (any partition)"}


def test_a_month_waits_for_all_of_its_days_and_follows_them():
    months, days = Monthly("2013-01"), Daily("2013-01-01", "2013-03-31")
    declared = manifest(task("day"), task("month", ("day", AllOf())), sets={"day": days, "month": months})
    stage, now = Stage(), datetime.fromisoformat("2013-04-02T00:00+00:00")

    def plan(partitions: str | None = None) -> Plan:
        return plan_production(stage.world(declared, now=now), Selection("flow", partitions))

    alone = plan("2013-01-05")
    assert reasons(alone) == {"day 2013-01-05": "missing"}
    assert alone.blocked[0].why == "waits for day (2013-01-01, 2013-01-02, 2013-01-03 and 27 more)"
    january = plan("2013-01")
    assert len(january.steps) == 32
    assert len(january.predecessors(step_of(january, "month", "2013-01"))) == 31
    stage.execute(plan())
    assert plan().steps == ()
    stage.publish("day", "2013-02-03", content="corrected")
    assert reasons(plan()) == {"month 2013-02": "inputs changed"}
    assert plan("2013-01").steps == ()
    # A selection by days means the months that hold them, and none in between.
    both = plan_production(
        stage.world(coded(declared, month="2"), now=now), Selection("flow", "2013-01-31,2013-03-01")
    )
    assert reasons(both) == {"month 2013-01": "code changed", "month 2013-03": "code changed"}


def test_sets_without_time_follow_a_selection_of_days_or_are_named_themselves():
    regions = Static(["eu", "us"])
    declared = manifest(task("rates"), task("raw", ("rates", Fixed("eu"))), sets={"rates": regions})
    stage = Stage()
    of_days = plan_production(stage.world(declared), ONE_DAY)
    assert reasons(of_days).keys() == {"rates eu", "rates us", f"raw {FIRST}"}
    named = plan_production(stage.world(declared), Selection("flow", "us", ("make_rates",)))
    assert reasons(named).keys() == {"rates us"}


@pytest.mark.parametrize(
    "partitions", ["2013-02-30", "eu", "", "2012-12-31", "2013-01-02:2013-01-01", "1:2:3"]
)
def test_selections_that_no_set_can_read_are_refused(stage, partitions):
    with pytest.raises(PartitionKeyError) as caught:
        plan_production(stage.world(CHAIN), Selection("flow", partitions))
    assert caught.value.hint


def test_unknown_names_are_refused_with_those_that_there_are(stage):
    with pytest.raises(NotFound, match=r"no pipeline 'fluw'.*flow"):
        plan_production(stage.world(CHAIN), Selection("fluw"))
    with pytest.raises(NotFound, match=r"no task 'clean'.*make_clean, make_raw, make_total"):
        plan_production(stage.world(CHAIN), Selection("flow", tasks=("clean",)))


def test_other_pipelines_are_read_but_not_planned(done):
    declared = manifest(*CHAIN.tasks, task("report", "total", pipeline="reports"))
    plan = plan_production(done.world(coded(declared, raw="2")), Selection("reports", FIRST))
    assert reasons(plan) == {f"report {FIRST}": "missing"}
    assert plan.steps[0].inputs[0].version == done.production["total", FIRST]
    assert plan.code.keys() == {"reports.make_report"}


def test_code_that_production_was_not_given_is_named(done):
    released = {entry.id: entry.fingerprint for entry in CHAIN.tasks if entry.writes != "total"}
    plan = plan_production(done.world(coded(CHAIN, clean="2", total="2"), released=released), FLOW)
    assert [(entry.task, entry.location) for entry in plan.unreleased] == [
        ("flow.make_clean", "src/flow.py:clean")
    ]


def test_expected_seconds(done):
    seconds = {"flow.make_clean": 2.0, "flow.make_total": 0.5}
    plan = plan_production(done.world(coded(CHAIN, clean="2"), seconds=seconds), FLOW)
    assert plan.expected_seconds == len(CLOSED) * 2.5
    assert plan_production(done.world(coded(CHAIN, raw="2"), seconds=seconds), FLOW).expected_seconds is None


def test_a_plan_survives_json(done):
    plan = plan_production(done.world(coded(CHAIN, clean="2"), released={"flow.make_raw": "x"}), FLOW)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_set_of_days_is_what_it_seems():
    assert [partition.key for partition in DAYS.closed(NOW)] == CLOSED
