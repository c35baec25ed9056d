"""Production: made by the first run, given its code by the first complete one, changed by promotion only."""

from sidestage.clock import Clock
from sidestage.errors import GateClosed
from sidestage.plan.plan import Plan
from sidestage.project.worlds import PRODUCTION
from sidestage.store.contract import Catalog
from sidestage.store.records import CodeChange, Environment, NewMove


def ensure_production(catalog: Catalog, clock: Clock) -> None:
    """Make the environment production, if there is none yet."""
    if catalog.environment(PRODUCTION) is None:
        catalog.save_environment(Environment(PRODUCTION, None, "", "open", clock.now()))


def require_given(catalog: Catalog, plan: Plan) -> None:
    """Refuse to run code that production was given nothing instead of yet. Raises GateClosed."""
    if not plan.code.keys() <= catalog.released(PRODUCTION).keys():
        raise GateClosed(
            f"Production was not given all the code of {plan.pipeline!r} yet.",
            hint=f"Its first complete run does that, attended: sidestage run {plan.pipeline}",
        )


def require_released(plan: Plan) -> None:
    """Refuse to run code in production that was never promoted. Raises GateClosed."""
    changed = {entry.task: entry.location for entry in plan.unreleased}
    to_run = {step.task for step in plan.steps}
    needed = [task for task in changed if task in to_run]
    if needed:
        listed = ", ".join(f"{task} ({changed[task]})" for task in needed)
        raise GateClosed(
            f"Production was given other code than is here for: {listed}.",
            hint=f"Rehearse it: sidestage stage {plan.pipeline} --code . ; then compare and promote.",
        )


def release_first_code(catalog: Catalog, clock: Clock, plan: Plan, by: str) -> None:
    """Give production the code of those tasks and services that it has none for; what it was given stays."""
    released = catalog.released(PRODUCTION)
    code = {**plan.code, **plan.services}
    first = tuple(CodeChange(name, None, made) for name, made in code.items() if name not in released)
    if first:
        move = NewMove(
            kind="promote",
            environment=PRODUCTION,
            by=by,
            reason="first complete run",
            source="",
            changes=(),
            code=first,
            code_name=plan.code_name,
        )
        catalog.move(move, clock.now())
