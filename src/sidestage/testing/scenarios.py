"""What simulated histories are about: small plans of many shapes, with queues left alone and pools shared."""

import random
from functools import cache

import msgspec

from sidestage.data.version import Digest, Stored
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.plan.plan import Plan, PlannedStep, Reason, StepInput
from sidestage.policy.pool import Pool
from sidestage.policy.retry import Retry
from sidestage.store.records import NewStep

CODE = "c1"
ENVIRONMENT = "production"
PIPELINE = "simulated"
POOLS = (Pool("heavy", 2),)
_DATASET = "simulated/data"
_TASK = f"{PIPELINE}.make"
_SHAPES = 200
_RETRY = Retry(times=6, delay=0.1, longest=1.0)
_REASON = Reason("missing", "nothing is there")


class Scenario(msgspec.Struct, frozen=True):
    """A plan, and the steps that the store is given for it."""

    plan: Plan
    steps: tuple[NewStep, ...]


def scenario(number: int) -> Scenario:
    """Return one of the shapes; the number says which, and any number will do."""
    return _scenario(number % _SHAPES)


@cache
def manifest() -> Manifest:
    """Return what the simulated project declares: one task, tried again a few times."""
    task = TaskSpec(
        id=_TASK,
        pipeline=PIPELINE,
        name="make",
        reads=(),
        writes=_DATASET,
        fingerprint=CODE,
        location="simulated.py:1",
        retry=_RETRY,
    )
    return Manifest(pipelines=(), datasets=(), tasks=(task,))


def stored(partition: str, version: str) -> Stored:
    """Return what a simulated attempt writes aside."""
    return Stored(f"{_DATASET}/{partition}~{version}.parquet", 1, "0" * 32, (), _DIGEST)


_DIGEST = Digest("d1", 1, "0" * 32, ())


@cache
def _scenario(number: int) -> Scenario:
    dice = random.Random(number)  # noqa: S311  # shapes, not secrets
    names = [f"p{number}-{n}" for n in range(dice.randint(2, 5))]
    planned: list[PlannedStep] = []
    steps: list[NewStep] = []
    for position, name in enumerate(names):
        before = [each for each in names[:position] if dice.random() < 0.3]  # noqa: PLR2004
        inputs = tuple(StepInput("rows", _DATASET, each, None) for each in before)
        planned.append(PlannedStep(f"make@{name}", _TASK, _DATASET, name, _REASON, inputs))
        pool = "heavy" if dice.random() < 0.25 else None  # noqa: PLR2004
        after = tuple(f"make@{each}" for each in before)
        steps.append(
            NewStep(
                f"make@{name}", _TASK, _DATASET, name, None, after, pool=pool, slots=dice.choice((1, 1, 2, 3))
            )
        )
    plan = Plan(PIPELINE, ENVIRONMENT, None, "tree:1", {_TASK: CODE}, tuple(planned))
    return Scenario(plan, tuple(steps))
