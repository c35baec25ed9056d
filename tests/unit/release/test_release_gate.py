"""Gates: each is closed for its own reason, and no promotion passes a closed one."""

from datetime import UTC, datetime
from itertools import product

import pytest

from sidestage.errors import GateClosed
from sidestage.plan.plan import Blocked, Plan, PlannedStep, Reason
from sidestage.release.difference import Difference, world_digest
from sidestage.release.gate import Evidence, gates, require_open
from sidestage.store.records import ComparisonRecord, Environment, Run

NOW = datetime(2013, 1, 1, tzinfo=UTC)
FOUND = (Difference("total", "2013-01-01", "v1", "v2"),)
STEP = PlannedStep("flow.t@1", "flow.t", "total", "1", Reason("missing", "never"), ())
REHEARSED, CHECKED, COMPARED, PASSED = (
    "rehearsed on all of production",
    "checks passed",
    "compared",
    "comparison passed",
)


def plan(*, steps=(), blocked=()) -> Plan:
    return Plan("flow", "fix", "production", "git:1", {}, steps, blocked)


def run(state="done") -> Run:
    return Run(7, "flow", "fix", state, "git:1", "ann", "", "", NOW, NOW)


def comparison(*, passed=True, found=FOUND) -> ComparisonRecord:
    verdict = "as declared" if passed else "total is off"
    return ComparisonRecord(
        3, "fix", "production", NOW, passed, verdict, world_digest(found), "{}", "report.html"
    )


def evidence(**other) -> Evidence:
    values = {
        "environment": Environment("fix", "production", "git:1", "open", NOW),
        "plan": plan(),
        "run": run(),
        "comparison": comparison(),
        "found": FOUND,
    }
    return Evidence(**{**values, **other})


def closed(given: Evidence) -> list[str]:
    return [gate.name for gate in gates(given) if not gate.open]


def test_all_are_open():
    assert closed(evidence()) == []
    require_open(gates(evidence()), "fix")


def test_also_where_nothing_differs():
    assert closed(evidence(found=(), comparison=comparison(found=()))) == []


@pytest.mark.parametrize(
    ("given", "wanted", "text"),
    [
        ({"plan": plan(steps=(STEP,))}, [REHEARSED], "1 steps are still to be staged"),
        ({"run": None}, [REHEARSED, CHECKED], "never staged"),
        ({"run": run("failed")}, [CHECKED], "staging run 7 is failed"),
        ({"run": run("running")}, [CHECKED], "staging run 7 is running"),
        ({"run": run("cancelled")}, [CHECKED], "staging run 7 is cancelled"),
        ({"comparison": None}, [COMPARED, PASSED], "never compared"),
        ({"found": ()}, [COMPARED], "comparison 3 is outdated"),
        ({"found": (Difference("total", "2013-01-01", "v5", "v2"),)}, [COMPARED], "outdated"),
        ({"comparison": comparison(passed=False)}, [PASSED], "verdict: total is off"),
    ],
)
def test_each_closes_for_its_reason(given, wanted, text):
    found = gates(evidence(**given))
    assert [gate.name for gate in found if not gate.open] == wanted
    with pytest.raises(GateClosed, match=r"^fix may not be promoted") as caught:
        require_open(found, "fix")
    assert text in caught.value.message
    assert all(f"{name}: " in caught.value.message for name in wanted)
    first = next(gate for gate in found if not gate.open)
    assert caught.value.hint == f"Next: {first.next_step}"
    assert first.next_step


def test_a_partition_that_cannot_be_rehearsed_though_it_is_shown_closes():
    stuck = Blocked("flow.t", "total", "2013-01-02", "waits for rates (2013-01-02)", shown=True)
    given = evidence(plan=plan(blocked=(stuck,)))
    assert closed(given) == [REHEARSED]
    assert "1 cannot be: flow.t of 2013-01-02 waits for rates" in gates(given)[0].evidence


def test_a_partition_that_neither_side_shows_does_not():
    waiting = Blocked("flow.t", "total", "2013-01-02", "waits for rates (2013-01-02)")
    assert closed(evidence(plan=plan(blocked=(waiting,)))) == []


def test_no_combination_slips_through():
    plans = [plan(), plan(steps=(STEP,))]
    runs = [run(), run("failed"), None]
    comparisons = [comparison(), comparison(passed=False), comparison(found=()), None]
    opened = []
    for values in product(plans, runs, comparisons):
        given = evidence(**dict(zip(("plan", "run", "comparison"), values, strict=True)))
        if not closed(given):
            opened.append(values)
    assert opened == [(plans[0], runs[0], comparisons[0])]
