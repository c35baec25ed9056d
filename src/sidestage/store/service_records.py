"""Records of services: streams that workers keep running."""

from datetime import datetime
from typing import Literal

import msgspec

ServiceCondition = Literal[
    "waiting", "starting", "running", "restarting", "draining", "stopped", "ended", "failed"
]
"""What becomes of a service: it waits for code that production was given, is started, runs, is started again
after a pause, finishes what is under way, was given up by its worker for another one, came to the end of its
sources, or was restarted too often."""


class ServiceNote(msgspec.Struct, frozen=True):
    """What its holder says of a service. ``url`` is where its metrics are served, "" if nowhere now."""

    state: ServiceCondition
    note: str = ""
    restarts: int = 0
    url: str = ""


class ServiceState(msgspec.Struct, frozen=True):
    """A service: who holds it, and what was said of it last.

    ``owner`` is None where nobody holds it, also if a lease is over that was not given back. ``fence`` grows
    each time that it is taken. ``since`` is when it came into its state, ``asked`` how often a person asked
    that it be started anew.
    """

    service: str
    owner: str | None
    fence: int
    since: datetime
    said: ServiceNote
    asked: int = 0
