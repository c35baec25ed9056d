"""Calls through a circuit breaker: failures of the place that is called are waited out, and all behind waits.

They cost no retries and make no dead letters. What is an item's own fault is raised as it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sidestage.clock import Clock
from sidestage.policy.breaker import Breaker, Circuit, Permit
from sidestage.policy.bulkhead import TaskBulkhead
from sidestage.policy.failure import classify
from sidestage.stream.failing import Halt, Stopped

BETWEEN = 0.02
"""Of a breaker's pause: how long an item waits that failed while the circuit stays closed."""


class Outage:
    """What a failure means: that of a place is waited out, for ``patience`` seconds (None: for ever)."""

    def __init__(self, circuit: Circuit, breaker: Breaker, patience: float | None, clock: Clock) -> None:
        self.circuit = circuit
        self.between = breaker.pause * BETWEEN
        self._breaker = breaker
        self._patience = patience
        self._clock = clock

    def is_over_at(self) -> float:
        """Return when patience ends with an item that fails now for the first time."""
        return float("inf") if self._patience is None else self._clock.monotonic() + self._patience

    def is_waited_out(self, permit: Permit, error: Exception, until: float) -> bool:
        """Tell the circuit of a failure; return whether the call is to be made again."""
        failure = classify(error)
        self.circuit.failed(permit, failure)
        return failure in self._breaker.counts and self._clock.monotonic() < until


class GuardedCall:
    """A plain function that is called through a circuit breaker."""

    def __init__(self, function: Callable[[Any], Any], outage: Outage, halt: Halt) -> None:
        self._function = function
        self._outage = outage
        self._halt = halt

    def __call__(self, item: Any) -> Any:
        """Call the function, however often it takes. Raises what is the item's own fault, Stopped."""
        outage, until = self._outage, None
        while True:
            permit = self._permit()
            try:
                made = self._function(item)
            except Exception as error:
                until = outage.is_over_at() if until is None else until
                if not outage.is_waited_out(permit, error, until):
                    raise
                if self._halt.wait(outage.between):
                    raise Stopped from error
            except BaseException:
                outage.circuit.withdrawn(permit)
                raise
            else:
                outage.circuit.succeeded(permit)
                return made

    def _permit(self) -> Permit:
        while True:
            permit = self._outage.circuit.permit()
            if isinstance(permit, Permit):
                return permit
            if self._halt.wait(permit):
                raise Stopped


class GuardedCoroutine:
    """A coroutine function that is called through bulkheads, and through a circuit breaker if it has one."""

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        bulkheads: Sequence[TaskBulkhead],
        outage: Outage | None,
    ) -> None:
        for bulkhead in bulkheads:
            function = _through(bulkhead, function)
        self._function = function
        self._outage = outage

    async def __call__(self, item: Any) -> Any:
        """Call the function, however often it takes. Raises what is the item's own fault."""
        outage, until = self._outage, None
        if outage is None:
            return await self._function(item)
        while True:
            permit = await self._permit(outage.circuit)
            try:
                made = await self._function(item)
            except Exception as error:
                until = outage.is_over_at() if until is None else until
                if not outage.is_waited_out(permit, error, until):
                    raise
                await asyncio.sleep(outage.between)
            except BaseException:
                outage.circuit.withdrawn(permit)
                raise
            else:
                outage.circuit.succeeded(permit)
                return made

    async def _permit(self, circuit: Circuit) -> Permit:
        while True:
            permit = circuit.permit()
            if isinstance(permit, Permit):
                return permit
            await asyncio.sleep(permit)


def _through(
    bulkhead: TaskBulkhead, function: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    return lambda item: bulkhead.call(function, item)
