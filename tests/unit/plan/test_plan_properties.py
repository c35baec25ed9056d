"""What holds for every plan: executing it leaves nothing to do, and planning has no side effects."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import Stage, all_new, coded, manifest, task

from sidestage.data.calendar import Daily, Monthly
from sidestage.data.keyed import Single, Static
from sidestage.data.mapping import AllOf, Fixed, Latest, Same, Window
from sidestage.errors import DefinitionError, PartitionKeyError
from sidestage.pipeline.manifest import Manifest
from sidestage.plan.plan import Plan
from sidestage.plan.production import plan_production
from sidestage.plan.staging import plan_staging
from sidestage.plan.world import Selection, World

steady = settings(derandomize=True, database=None, deadline=None, max_examples=50)
SETS = [Daily("2013-01-01"), Daily("2012-12-30"), Monthly("2012-11"), Single(), Static(["eu", "us"])]
MAPPINGS = [
    Same(),
    Window(before=1),
    Window(after=1),
    AllOf(),
    Latest(),
    Fixed("2013-01-02"),
    Fixed("all"),
    Fixed("eu"),
]
CODES = ["1", "2", "3"]


def plain(code: str, inputs: list[str]) -> str:
    """Content that often stays the same although code or inputs changed."""
    return all_new(code[:-1] + str(int(code[-1]) % 2), inputs[:1])


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Up to five tasks over sets of all kinds, each mapping one that its graph would accept."""
    tasks, sets = [], {}
    for number in range(draw(st.integers(1, 5))):
        name = f"d{number}"
        sets[name] = draw(st.sampled_from(SETS))
        reads = []
        for other in draw(st.sets(st.sampled_from(sorted(sets)[:-1]), max_size=3)) if number else ():
            fitting = [each for each in MAPPINGS if fits(each, sets[name], sets[other])]
            reads.append((other, draw(st.sampled_from(fitting))))
        tasks.append(
            task(name, *sorted(reads, key=str), pipeline=draw(st.sampled_from(["flow", "flow", "side"])))
        )
    tasks.append(task("last"))
    return manifest(*tasks, sets=sets)


def fits(mapping, down, up) -> bool:
    try:
        mapping.check(down, up)
    except DefinitionError:
        return False
    return True


codes = st.dictionaries(st.sampled_from([f"d{number}" for number in range(5)]), st.sampled_from(CODES))
selections = st.builds(
    Selection,
    st.sampled_from(["flow", "side"]),
    st.sampled_from([None, None, "2013-01-02", "2013-01-01:2013-01-03", "2013-01", "*"]),
    recompute=st.sampled_from([False, False, True]),
)


def plan_checked(world: World, selection: Selection) -> Plan:
    """Plan, and check what must hold of any plan."""
    plan_it = plan_production if world.base_name is None else plan_staging
    before = (dict(world.own), dict(world.base), dict(world.versions))
    plan = plan_it(world, selection)
    assert plan_it(world, selection) == plan
    assert (dict(world.own), dict(world.base), dict(world.versions)) == before
    ids = [step.id for step in plan.steps]
    assert len(set(ids)) == len(ids)
    for position, step in enumerate(plan.steps):
        assert {*plan.predecessors(step)} <= {*ids[:position]}
        assert step.inputs or not world.manifest.task_by_id[step.task].reads
        assert world.own.get((step.dataset, step.partition)) == step.expects
    assert not {(step.dataset, step.partition) for step in plan.steps} & {
        (entry.dataset, entry.partition) for entry in (*plan.blocked, *plan.withdrawals)
    }
    return plan


def pipelines(declared: Manifest) -> set[str]:
    return {entry.name for entry in declared.pipelines}


def run(stage: Stage, declared: Manifest, selection: Selection, *, staged: bool = False) -> None:
    """Plan, execute, and check that planning the same again finds nothing to do."""
    if selection.pipeline not in pipelines(declared):
        return
    try:
        first = plan_checked(stage.world(declared, staged=staged), selection)
    except PartitionKeyError:
        return
    stage.execute(first)
    once_more = msgspec.structs.replace(selection, recompute=False)
    again = plan_checked(stage.world(declared, staged=staged), once_more)
    assert [entry.why for entry in again.blocked] == [entry.why for entry in first.blocked]
    if selection.recompute:  # what was run for its own sake may be withdrawn, and so change what is read
        stage.execute(again)
        again = plan_checked(stage.world(declared, staged=staged), once_more)
    assert again.steps == ()
    stage.execute(again)
    last = plan_checked(stage.world(declared, staged=staged), once_more)
    assert last.steps == last.withdrawals == ()
    assert last.current == first.current + len(first.steps)


@steady
@given(
    manifests(),
    st.lists(st.tuples(codes, selections), min_size=1, max_size=4),
    st.sampled_from([all_new, plain]),
)
def test_executing_a_production_plan_leaves_nothing_to_do(declared, acts, content):
    stage = Stage(content)
    for changes, selection in acts:
        run(stage, coded(declared, **changes), selection)


@steady
@given(
    manifests(),
    st.lists(st.tuples(codes, selections), max_size=3),
    st.lists(st.tuples(codes, selections), min_size=1, max_size=3),
    st.sampled_from([all_new, plain]),
)
def test_executing_a_staging_plan_leaves_nothing_to_do(declared, before, acts, content):
    stage = Stage(content)
    for changes, selection in before:
        run(stage, coded(declared, **changes), selection)
    shown = dict(stage.production)
    for changes, selection in acts:
        run(stage, coded(declared, **changes), selection, staged=True)
    assert stage.production == shown


@steady
@given(manifests(), codes, selections, st.sampled_from([all_new, plain]))
def test_returning_to_productions_code_withdraws_everything(declared, changes, selection, content):
    stage = Stage(content)
    in_order = [entry.pipeline for entry in declared.tasks]
    for pipeline in in_order:  # so that whatever waited for another pipeline is made, too
        run(stage, declared, Selection(pipeline))
    for pipeline in in_order:
        chosen = msgspec.structs.replace(selection, pipeline=pipeline)
        run(stage, coded(declared, **changes), chosen, staged=True)
    for pipeline in in_order:
        stage.execute(plan_checked(stage.world(declared, staged=True), Selection(pipeline)))
    assert all(stage.production.get(place) == shown for place, shown in stage.candidate.items())
