"""A sink that is left alone while it is down: what is to be written waits, and all behind it."""

from collections.abc import Sequence
from typing import Any

from sidestage.policy.breaker import Breaker, Circuit, Permit
from sidestage.policy.failure import classify
from sidestage.stream.contract import Refused, Writer
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.guarding.calls import BETWEEN


class GuardedWriter:
    """Writes through a circuit breaker. Failures that are the place's, not the items', are waited out.

    They cost no retries and make no dead letters: mailboxes fill up and the source pauses until the place
    answers again.
    """

    def __init__(self, writer: Writer[Any], circuit: Circuit, breaker: Breaker, halt: Halt) -> None:
        self._writer = writer
        self._circuit = circuit
        self._breaker = breaker
        self._halt = halt

    def write(self, items: Sequence[Any]) -> None:
        """Write items, however long it takes. Raises what is the items' own fault, Stopped."""
        while not self._written(items, self._permit()):
            pass

    def close(self) -> None:
        """Stop writing."""
        self._writer.close()

    def _permit(self) -> Permit:
        while True:
            permit = self._circuit.permit()
            if isinstance(permit, Permit):
                return permit
            if self._halt.wait(permit):
                raise Stopped

    def _written(self, items: Sequence[Any], permit: Permit) -> bool:
        try:
            self._writer.write(items)
        except Refused:
            self._circuit.succeeded(permit)
            raise
        except Exception as error:
            failure = classify(error)
            self._circuit.failed(permit, failure)
            if failure not in self._breaker.counts:
                raise
            if self._halt.wait(self._breaker.pause * BETWEEN):
                raise Stopped from error
            return False
        except BaseException:
            self._circuit.withdrawn(permit)
            raise
        self._circuit.succeeded(permit)
        return True
