"""Gates: what must hold before a candidate's pointers may become production's. No option skips one."""

import msgspec

from sidestage.errors import GateClosed
from sidestage.plan.plan import Plan
from sidestage.release.difference import Difference, world_digest
from sidestage.store.records import ComparisonRecord, Environment, Run


class Gate(msgspec.Struct, frozen=True):
    """One condition: whether it holds, the evidence, and what to do if it does not."""

    name: str
    open: bool
    evidence: str
    next_step: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """What the gates look at.

    ``plan`` is what would have to be staged *now* for everything that production has; ``run`` and
    ``comparison`` are the candidate's newest.
    """

    environment: Environment
    plan: Plan
    run: Run | None
    comparison: ComparisonRecord | None
    found: tuple[Difference, ...]


def gates(evidence: Evidence) -> tuple[Gate, ...]:
    """Return every gate with its state."""
    return (_rehearsed(evidence), _checked(evidence), _compared(evidence), _passed(evidence))


def require_open(found: tuple[Gate, ...], environment: str) -> None:
    """Raise GateClosed, naming every gate that is closed and what opens the first one."""
    closed = [gate for gate in found if not gate.open]
    if closed:
        reasons = "; ".join(f"{gate.name}: {gate.evidence}" for gate in closed)
        raise GateClosed(
            f"{environment} may not be promoted. {reasons}.", hint=f"Next: {closed[0].next_step}"
        )


def _rehearsed(evidence: Evidence) -> Gate:
    left = len(evidence.plan.steps)
    # What neither side shows need not be rehearsed; what one shows would be promoted or kept unrehearsed.
    stuck = [entry for entry in evidence.plan.blocked if entry.shown]
    shown = f"{left} steps are still to be staged" if left else "nothing is left to be staged"
    if stuck:
        shown = f"{left} steps are still to be staged and {len(stuck)} cannot be: {stuck[0].task} "
        shown += f"of {stuck[0].partition} {stuck[0].why}"
    name = evidence.environment.name
    return Gate(
        name="rehearsed on all of production",
        open=left == 0 and not stuck and evidence.run is not None,
        evidence=shown,
        next_step=f"sidestage stage {evidence.plan.pipeline} --name {name} --code CODE",
    )


def _checked(evidence: Evidence) -> Gate:
    run = evidence.run
    state = "never staged" if run is None else f"staging run {run.id} is {run.state}"
    return Gate(
        name="checks passed",
        open=run is not None and run.state == "done",
        evidence=state,
        next_step=f"correct the code, then: sidestage stage {evidence.plan.pipeline} --name "
        f"{evidence.environment.name} --code CODE",
    )


def _compared(evidence: Evidence) -> Gate:
    comparison, now = evidence.comparison, world_digest(evidence.found)
    if comparison is None:
        shown, fresh = "never compared", False
    else:
        fresh = comparison.world == now
        shown = f"comparison {comparison.id} " + ("covers exactly these versions" if fresh else "is outdated")
    return Gate(
        name="compared",
        open=fresh,
        evidence=shown,
        next_step=f"sidestage compare {evidence.environment.name}",
    )


def _passed(evidence: Evidence) -> Gate:
    comparison = evidence.comparison
    passed = comparison is not None and comparison.passed
    return Gate(
        name="comparison passed",
        open=passed,
        evidence="no comparison" if comparison is None else f"verdict: {comparison.verdict}",
        next_step="correct the code or the comparison rules, then stage and compare again",
    )
