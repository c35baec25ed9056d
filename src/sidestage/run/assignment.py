"""What one worker is given to do its work: who it is, what it takes on, who listens, and its chance."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sidestage.events import Listener
from sidestage.policy.pool import Pool
from sidestage.store.records import Outcome, Settled, Worker

LEASE_SECONDS = 2.5
"""How long a worker may be silent before others take over what it runs."""


class Assignment(msgspec.Struct, frozen=True):
    """Who a worker is and what it takes on: queues, pools, one run only or any; its lease in seconds."""

    worker: Worker
    lease: float = LEASE_SECONDS
    queues: tuple[str, ...] | None = None
    pools: tuple[Pool, ...] = ()
    only: int | None = None


class Done(msgspec.Struct, frozen=True):
    """What became of one step, as the worker that ran it tells it."""

    outcome: Outcome
    result: Settled
    user_seconds: float


class Audience(NamedTuple):
    """Who hears what happens: all events, and what became of every step."""

    listener: Listener
    tell: Callable[[Done], None]


class Chance(NamedTuple):
    """What must not repeat itself: ids of versions to be made, and numbers in [0, 1) that spread retries."""

    version_id: Callable[[], str]
    jitter: Callable[[], float]
