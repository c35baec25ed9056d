"""What an attempt's answer means for its step: published, tried again, or failed. One pure function each."""

from sidestage.data.version import InputVersion, Version
from sidestage.plan.plan import PlannedStep
from sidestage.policy.retry import Retry
from sidestage.run.crews import WorkerDied
from sidestage.run.messages import Failed, Written
from sidestage.store.records import Claim, Failure, Publication


def publication(
    claim: Claim,
    answer: Written,
    version_id: str,
    step: PlannedStep,
    inputs: tuple[InputVersion, ...],
    *,
    code: str,
    environment: str,
    isolation: str,
) -> Publication:
    """Return the publication of what an attempt wrote."""
    version = Version(
        id=version_id,
        dataset=step.dataset,
        partition=step.partition,
        stored=answer.stored,
        environment=environment,
        run=str(claim.run),
        step=step.id,
        code=code,
        inputs=inputs,
        created_at=answer.at,
        seconds=answer.seconds,
    )
    return Publication(claim=claim, version=version, findings=answer.findings, isolation=isolation)


def failure(claim: Claim, answer: Failed, retry: Retry, jitter: float, isolation: str) -> Failure:
    """Return the failure of an attempt, with the time after which it is tried again, if it is."""
    return Failure(
        claim=claim,
        failure_class=answer.failure_class,
        message=answer.message,
        details=answer.details,
        findings=answer.findings,
        retry_in=retry.wait_before(claim.attempt, answer.failure_class, jitter),
        isolation=isolation,
    )


def lost(claim: Claim, found: WorkerDied, retry: Retry, jitter: float) -> Failure:
    """Return the failure of an attempt whose worker died."""
    return Failure(
        claim=claim,
        failure_class="worker-died",
        message=f"The worker process {found.how} while it ran {claim.step}.",
        retry_in=retry.wait_before(claim.attempt, "worker-died", jitter),
        isolation=found.isolation,
    )
