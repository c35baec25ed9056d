"""A candidate's plans: production's inputs, the candidate's code, only what changes."""

import msgspec
import pytest
from small_worlds import CLOSED, Stage, coded, manifest, reasons, step_of, task

from sidestage.data.mapping import Window
from sidestage.errors import NotFound, PartitionKeyError
from sidestage.plan.plan import Plan, Withdrawal
from sidestage.plan.production import plan_production
from sidestage.plan.staging import plan_staging
from sidestage.plan.world import Selection

FLOW = Selection("flow")
CHAIN = manifest(task("raw"), task("clean", "raw"), task("total", "clean"))
CHANGED = coded(CHAIN, clean="2")
FIRST, SECOND, THIRD, FOURTH = CLOSED


@pytest.fixture
def stage() -> Stage:
    """Production shows everything, made by the code of CHAIN."""
    stage = Stage()
    stage.execute(plan_production(stage.world(CHAIN), FLOW))
    return stage


def staged(stage: Stage, declared=CHANGED, selection: Selection = FLOW) -> Plan:
    return plan_staging(stage.world(declared, staged=True), selection)


def test_the_same_code_costs_nothing(stage):
    plan = staged(stage, CHAIN)
    assert plan.steps == plan.blocked == plan.withdrawals == ()
    assert plan.current == 3 * len(CLOSED)
    assert (plan.environment, plan.base) == ("fix", "production")


def test_only_what_changes_is_staged(stage):
    plan = staged(stage)
    assert reasons(plan) == {
        **{f"clean {day}": "code changed" for day in CLOSED},
        **{f"total {day}": "upstream" for day in CLOSED},
    }
    clean, total = step_of(plan, "clean", FIRST), step_of(plan, "total", FIRST)
    assert clean.inputs[0].version == stage.production["raw", FIRST]
    assert total.inputs[0].version is None
    assert total.reuse == stage.production["total", FIRST]
    assert clean.expects is None
    assert plan.predecessors(total) == (clean.id,)
    assert "src/flow.py:clean" in clean.reason.text


def test_what_was_staged_is_not_staged_again(stage):
    stage.execute(staged(stage))
    again = staged(stage)
    assert again.steps == again.withdrawals == ()
    assert again.current == 3 * len(CLOSED)


def test_inputs_are_the_recorded_ones_though_production_moved_on(stage):
    recorded = stage.production["raw", FIRST]
    stage.publish("raw", FIRST, content="corrected since")
    assert staged(stage, CHAIN).steps == ()
    assert step_of(staged(stage), "clean", FIRST).inputs[0].version == recorded


def test_a_recorded_input_whose_data_was_cleaned_away_blocks_and_says_so(stage):
    raw = stage.production["raw", FIRST]
    world = msgspec.structs.replace(stage.world(CHANGED, staged=True), gone=frozenset({raw}))
    plan = plan_staging(world, FLOW)
    blocked = {(entry.dataset, entry.partition): entry for entry in plan.blocked}
    assert "cleaned away" in blocked["clean", FIRST].why
    assert blocked["clean", FIRST].shown
    assert ("clean", SECOND) not in blocked


def test_when_production_has_caught_up_the_candidate_follows(stage):
    stage.execute(staged(stage))
    corrected = stage.publish("raw", FIRST, content="corrected since")
    assert staged(stage).steps == ()
    stage.execute(plan_production(stage.world(CHAIN), FLOW))
    plan = staged(stage)
    assert reasons(plan) == {f"clean {FIRST}": "inputs changed", f"total {FIRST}": "upstream"}
    assert step_of(plan, "clean", FIRST).inputs[0].version == corrected
    assert step_of(plan, "clean", FIRST).expects == stage.candidate["clean", FIRST]


def test_an_input_that_was_not_read_before_is_productions_current(stage):
    wider = manifest(task("raw"), task("clean", ("raw", Window(before=1)), code="2"), task("total", "clean"))
    first = stage.production["raw", FIRST]
    current = stage.publish("raw", FIRST, content="corrected since")
    plan = staged(stage, wider)
    assert [entry.version for entry in step_of(plan, "clean", SECOND).inputs] == [
        current,
        stage.production["raw", SECOND],
    ]
    assert [entry.version for entry in step_of(plan, "clean", FIRST).inputs] == [first]


def test_its_own_version_is_read_before_productions(stage):
    stage.execute(staged(stage, CHANGED, Selection("flow", tasks=("make_clean",))))
    plan = staged(stage, CHANGED, Selection("flow", FIRST, tasks=("make_total",)))
    assert reasons(plan) == {f"total {FIRST}": "inputs changed"}
    assert plan.steps[0].inputs[0].version == stage.candidate["clean", FIRST]


def test_what_turns_out_the_same_is_left_to_the_base():
    stage = Stage(
        content=lambda code, inputs: "same" if code.startswith("clean") else "|".join([code, *inputs])
    )
    stage.execute(plan_production(stage.world(CHAIN), FLOW))
    assert stage.execute(staged(stage)) == [f"flow.make_clean@{day}" for day in CLOSED]
    assert {dataset for dataset, _ in stage.candidate} == {"clean"}
    again = staged(stage)
    assert again.steps == again.withdrawals == ()


def test_code_that_returns_to_productions_withdraws_what_was_staged(stage):
    stage.execute(staged(stage))
    shown = dict(stage.candidate)
    plan = staged(stage, CHAIN)
    assert plan.steps == ()
    assert set(plan.withdrawals) == {Withdrawal(*place, version) for place, version in shown.items()}
    assert len(plan.withdrawals) == 2 * len(CLOSED)
    stage.execute(plan)
    assert stage.candidate == {}
    assert staged(stage, CHAIN).withdrawals == ()


def test_a_withdrawn_input_is_not_read_any_more(stage):
    stage.execute(staged(stage))
    plan = staged(stage, coded(CHAIN, total="3"))
    assert {entry.dataset for entry in plan.withdrawals} == {"clean"}
    step = step_of(plan, "total", FIRST)
    assert step.inputs[0].version == stage.production["clean", FIRST]
    assert step.expects == stage.candidate["total", FIRST]


def test_an_own_pointer_that_shows_what_the_base_shows_is_not_its_own(stage):
    stage.execute(staged(stage))
    stage.production.update(stage.candidate)  # as a promotion does
    plan = staged(stage)
    assert plan.steps == plan.withdrawals == ()
    back = staged(stage, CHAIN)
    assert reasons(back)[f"clean {FIRST}"] == "code changed"
    assert back.withdrawals == ()
    assert step_of(back, "clean", FIRST).expects == stage.candidate["clean", FIRST]


def test_a_dataset_that_the_base_does_not_know_is_staged_wholly(stage):
    wider = manifest(*CHAIN.tasks, task("report", "total"))
    assert reasons(staged(stage, wider)) == {f"report {day}": "missing" for day in CLOSED}


def test_a_partition_that_production_lacks_is_not_staged(stage):
    for name in ("clean", "total"):
        del stage.production[name, SECOND]
    assert {step.partition for step in staged(stage).steps} == {FIRST, THIRD, FOURTH}


def test_a_new_dataset_waits_for_what_production_lacks(stage):
    del stage.production["total", SECOND]
    plan = staged(stage, manifest(*CHAIN.tasks, task("report", "total")))
    assert {step.partition for step in plan.steps} == {FIRST, THIRD, FOURTH}
    (blocked,) = plan.blocked
    assert (blocked.dataset, blocked.partition, blocked.why) == (
        "report",
        SECOND,
        f"waits for total ({SECOND})",
    )
    assert not blocked.shown


def test_a_partition_that_production_shows_but_the_candidate_cannot_make_is_marked(stage):
    extra = manifest(
        task("raw"),
        task("rates", pipeline="other"),
        task("clean", "raw", "rates", code="2"),
        task("total", "clean"),
    )
    stage.publish("rates", FIRST)
    blocked = staged(stage, extra, Selection("flow", tasks=("make_clean",))).blocked
    assert [(entry.partition, entry.shown) for entry in blocked] == [(day, True) for day in CLOSED[1:]]


def test_what_is_its_own_stays_up_to_date_also_where_production_lacks_it(stage):
    wider = manifest(*CHAIN.tasks, task("report", "total"))
    stage.execute(staged(stage, wider))
    stage.publish("report", FIRST, stage.production["total", FIRST])
    plan = staged(stage, coded(wider, report="2"))
    assert reasons(plan) == {f"report {day}": "code changed" for day in CLOSED}


def test_selection(stage):
    plan = staged(stage, CHANGED, Selection("flow", f"{SECOND}:{THIRD}", ("make_clean",)))
    assert reasons(plan).keys() == {f"clean {SECOND}", f"clean {THIRD}"}
    with pytest.raises(PartitionKeyError):
        staged(stage, CHANGED, Selection("flow", "2013-02-30"))
    with pytest.raises(NotFound):
        staged(stage, CHANGED, Selection("nowhere"))


def test_recompute_runs_the_same_code_beside_itself(stage):
    plan = staged(stage, CHAIN, Selection("flow", recompute=True))
    assert set(reasons(plan).values()) == {"requested"}
    assert len(plan.steps) == 3 * len(CLOSED)
    assert all(step.reuse is None for step in plan.steps)
    assert stage.execute(plan) == [step.id for step in plan.steps]


def test_another_edit_of_the_candidate_replaces_its_own_version(stage):
    stage.execute(staged(stage))
    plan = staged(stage, coded(CHAIN, clean="3"), Selection("flow", FIRST))
    clean, total = plan.steps
    assert clean.reason.kind == "code changed"
    assert clean.expects == stage.candidate["clean", FIRST]
    assert total.reuse == total.expects == stage.candidate["total", FIRST]


def test_what_may_be_reused_is_a_version_whose_known_inputs_are_the_same(stage):
    wide = manifest(task("raw"), task("clean", "raw"), task("total", "clean", "raw"))
    stage.execute(plan_production(stage.world(wide), FLOW))
    stage.execute(staged(stage, coded(wide, raw="2", clean="2"), Selection("flow", FIRST)))
    step = step_of(staged(stage, coded(wide, clean="3"), Selection("flow", FIRST)), "total", FIRST)
    assert step.expects == stage.candidate["total", FIRST]
    assert step.reuse == stage.production["total", FIRST]


def test_a_plan_survives_json(stage):
    stage.execute(staged(stage))
    plan = staged(stage, coded(CHAIN, total="3"))
    assert plan.withdrawals
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
