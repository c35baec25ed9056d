"""How a run ended, in a few numbers."""

import msgspec

from sidestage.run.assignment import Done
from sidestage.store.records import Publication, Reuse, RunState


class RunSummary(msgspec.Struct, frozen=True):
    """How a run ended. ``user_seconds`` is the time spent in tasks' own code, by this worker's processes."""

    run: int
    state: RunState
    published: int
    reused: int
    failed: int
    skipped: int
    rows: int
    bytes: int
    seconds: float
    user_seconds: float


class Tally:
    """Running totals of what one worker did."""

    def __init__(self) -> None:
        self.published = 0
        self.reused = 0
        self.rows = 0
        self.bytes = 0
        self.user_seconds = 0.0

    def __call__(self, done: Done) -> None:
        """Count one step."""
        match done.outcome, done.result.result:
            case Publication(version=version), "done":
                self.published += 1
                self.rows += version.stored.digest.rows
                self.bytes += version.stored.bytes
                self.user_seconds += done.user_seconds
            case Reuse(), "reused":
                self.reused += 1
