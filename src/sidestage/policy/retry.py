"""How often, and after how long, a failed step is tried again."""

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.failure import RETRYABLE, FailureClass


class Retry(msgspec.Struct, frozen=True):
    """Retries for failures that trying again can cure.

    ``times`` counts the tries after the first one; ``delay`` is the first wait in seconds, doubled each
    time up to ``longest``. A bug, a failed check, a refused login or a full disk is never retried.
    """

    times: int = 3
    delay: float = 1.0
    longest: float = 300.0

    def __post_init__(self) -> None:
        if not (self.times >= 0 and 0 <= self.delay <= self.longest):  # so that nan fails, too
            raise DefinitionError(
                f"Retry(times={self.times}, delay={self.delay}, longest={self.longest}) makes no sense.",
                hint="times and delay must not be negative, and longest not be below delay.",
            )

    def wait_before(self, attempt: int, failure: FailureClass, jitter: float) -> float | None:
        """Return the seconds to wait before the attempt after ``attempt``, or None to give up.

        ``attempt`` counts from 1; ``jitter`` lies in [0, 1) and spreads a herd over half the wait
        ("equal jitter", AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).
        """
        if failure not in RETRYABLE or attempt > self.times:
            return None
        full = min(self.delay * 2.0 ** min(attempt - 1, 60), self.longest)
        return full / 2 + full / 2 * jitter
