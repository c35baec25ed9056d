"""Going on after a transaction was lost: a new engine begins where the sink says that the old one came to."""

import random
from collections.abc import Callable
from threading import Event

from sidestage.clock import Clock
from sidestage.errors import StreamFailed
from sidestage.policy.failure import RETRYABLE, classify
from sidestage.policy.restart import Restart, Restarts
from sidestage.stream.contract import TransactionLost
from sidestage.stream.settings import Ended


def run_again_if_lost(
    run: Callable[[], Ended],
    restart: Restart,
    clock: Clock,
    rest: Callable[[float], object] | None = None,
) -> Ended:
    """Run to the end, with as many engines as the budget of restarts allows; ``run`` begins a new one.

    What is set aside in a transaction that is lost is set aside again, with the same origin; counts are those
    of the last engine. ``rest`` waits for so many seconds. Raises what an engine does, StreamFailed if
    transactions are lost too often.
    """
    restarts = Restarts(restart, random.random)
    was_lost = False
    while True:
        try:
            return run()
        except TransactionLost as error:
            was_lost = True
            cause: Exception = error
        except Exception as error:
            if not was_lost or classify(error) not in RETRYABLE:
                raise
            cause = error  # the place may still be down when it is opened anew
        pause = restarts.next_pause(clock.monotonic())
        if pause is None:
            raise StreamFailed(
                f"A transaction was lost, and not for the first time: {cause}",
                hint="Run it again: it goes on from what was committed. Or allow more: Settings(restart=).",
            ) from cause
        (rest or Event().wait)(pause)
