"""How a stream is run, and how that ended."""

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.restart import Restart
from sidestage.policy.surge import Surge
from sidestage.stream.metrics import StageCounts


class Settings(msgspec.Struct, frozen=True):
    """How a stream is run. Raises DefinitionError for what makes no sense.

    ``chunk``: how many items move together at most. ``buffer``: how many may wait before each worker.
    ``commit_every``: seconds between two notes of how far the sources have been dealt with. ``restart``: how
    often workers that died are started again, all together. ``grace``: seconds that workers may take to end
    when they are told to stop, before they are named as hanging. ``surge``: which errors are too many, of
    each stage that does not say so itself; None: nobody watches.
    """

    chunk: int = 1024
    buffer: int = 4096
    commit_every: float = 1.0
    restart: Restart = Restart(delay=0.1)
    grace: float = 30.0
    surge: Surge | None = None

    def __post_init__(self) -> None:
        if not (self.chunk >= 1 and self.buffer >= 1 and self.commit_every >= 0 and self.grace >= 0):
            raise DefinitionError(
                f"{self} makes no sense.",
                hint="chunk and buffer count items; commit_every and grace count seconds.",
            )


class Ended(msgspec.Struct, frozen=True):
    """How a run of a stream ended, and what each stage did.

    ``complete``: the sources had come to their end, and all of it was dealt with.
    """

    complete: bool
    seconds: float
    dead_letters: int
    stages: tuple[StageCounts, ...]
