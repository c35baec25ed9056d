"""A plan: steps in dependency order, each with its reason and expected cost. A frozen value."""

from functools import cached_property
from typing import Literal

import msgspec

ReasonKind = Literal["missing", "requested", "code changed", "inputs changed", "upstream"]


class Reason(msgspec.Struct, frozen=True):
    """Why a step must run: the kind, and one line for people."""

    kind: ReasonKind
    text: str


class StepInput(msgspec.Struct, frozen=True):
    """One partition that a step reads. ``version`` is pinned; None if a step of the same plan makes it."""

    parameter: str
    dataset: str
    partition: str
    version: str | None


class PlannedStep(msgspec.Struct, frozen=True):
    """One task on one partition.

    ``expects`` is what the environment's own pointer showed when the plan was made. ``reuse`` names a version
    made by the same code: if the inputs turn out to have the same content as the ones it was made of, it is
    reused and nothing runs. ``seconds`` is the expected cost, None where there is no history.
    """

    id: str
    task: str
    dataset: str
    partition: str
    reason: Reason
    inputs: tuple[StepInput, ...]
    expects: str | None = None
    reuse: str | None = None
    seconds: float | None = None


class Blocked(msgspec.Struct, frozen=True):
    """A partition that cannot be made now, and why.

    ``shown``: the environment shows a version of it all the same, which may be out of date.
    """

    task: str
    dataset: str
    partition: str
    why: str
    shown: bool = False


class Unreleased(msgspec.Struct, frozen=True):
    """A task whose code is not the one that production was given, at its place in the source."""

    task: str
    location: str


class Withdrawal(msgspec.Struct, frozen=True):
    """A pointer of a candidate's environment that is not wanted any more: its base is the same again."""

    dataset: str
    partition: str
    version: str


class Plan(msgspec.Struct, frozen=True, dict=True):
    """What must run in an environment, and why. Printing it changes nothing; running it needs its world.

    ``code`` maps each task of the pipeline to the fingerprint that the plan was made for; ``current`` counts
    partitions that are up to date and need no step. ``services`` maps each service to its fingerprint: its
    code is released together with that of the tasks.
    """

    pipeline: str
    environment: str
    base: str | None
    code_name: str
    code: dict[str, str]
    steps: tuple[PlannedStep, ...]
    blocked: tuple[Blocked, ...] = ()
    unreleased: tuple[Unreleased, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    current: int = 0
    services: dict[str, str] = {}

    @cached_property
    def step_of(self) -> dict[tuple[str, str], PlannedStep]:
        """Steps by (dataset, partition)."""
        return {(step.dataset, step.partition): step for step in self.steps}

    @cached_property
    def step_by_id(self) -> dict[str, PlannedStep]:
        """Steps by id."""
        return {step.id: step for step in self.steps}

    def predecessors(self, step: PlannedStep) -> tuple[str, ...]:
        """Return the ids of the steps of this plan whose output the step reads."""
        made_here = (
            self.step_of[entry.dataset, entry.partition] for entry in step.inputs if entry.version is None
        )
        return tuple(dict.fromkeys(made.id for made in made_here))

    @property
    def expected_seconds(self) -> float | None:
        """Expected seconds of work in all steps together, None if a step has no history."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return sum(known) if len(known) == len(self.steps) else None
