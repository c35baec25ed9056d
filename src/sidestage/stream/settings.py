"""How a stream is run, and how that ended."""

from typing import Literal

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.limits import size_of
from sidestage.policy.restart import Restart
from sidestage.policy.surge import Surge
from sidestage.stream.demands import is_count
from sidestage.stream.memory.budget import MemoryCounts
from sidestage.stream.observing.metrics import StageCounts

AUTO_CHUNKS = 4
"""How many chunks may wait before each worker until more is known of the stages."""


class Settings(msgspec.Struct, frozen=True):
    """How a stream is run. Raises DefinitionError for what makes no sense.

    ``chunk``: how many items move together at most. ``buffer``: how many may wait before each worker;
    with "auto" that follows what the stages do, beginning with ``AUTO_CHUNKS`` chunks. ``trace``: the share
    of the chunks (0 to 1) whose way is told as spans of OpenTelemetry. ``commit_every``: seconds between two
    notes of how far the sources have been dealt with. ``restart``: how often workers that died are started
    again, all together. ``grace``: seconds that workers may take to end when they are told to stop, before
    they are named as hanging. ``surge``: which errors are too many, of each stage that does not say so
    itself; None: nobody watches. ``memory``: bytes that all of it may hold at once, as a number or as text
    such as "512 MiB"; None: whatever ``chunk`` and ``buffer`` come to.
    """

    chunk: int = 1024
    buffer: int | Literal["auto"] = 4096
    commit_every: float = 1.0
    restart: Restart = Restart(delay=0.1)
    grace: float = 30.0
    surge: Surge | None = None
    trace: float = 0.0
    memory: int | str | None = None

    def __post_init__(self) -> None:
        buffer_holds = self.buffer == "auto" or is_count(self.buffer)
        times_hold = self.commit_every >= 0 and self.grace >= 0
        if not (is_count(self.chunk) and buffer_holds and times_hold and 0 <= self.trace <= 1):
            raise DefinitionError(
                f"{self} makes no sense.",
                hint='chunk and buffer count items, or buffer="auto"; commit_every and grace count '
                "seconds; trace is a share from 0 to 1.",
            )

        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes. Raises DefinitionError if it is no size."""
        return None if self.memory is None else size_of(self.memory, "Settings(memory)")

    @property
    def first_buffer(self) -> int:
        """How many items may wait before each worker at the beginning."""
        return AUTO_CHUNKS * self.chunk if isinstance(self.buffer, str) else self.buffer


class Ended(msgspec.Struct, frozen=True):
    """How a run of a stream ended, and what each stage did.

    ``complete``: the sources had come to their end, and all of it was dealt with. ``cpu`` is the processor
    time of all its workers, in seconds, and ``reading`` the part of it that reading the sources took.
    ``memory`` is what it held, if that was declared.
    """

    complete: bool
    seconds: float
    dead_letters: int
    stages: tuple[StageCounts, ...]
    cpu: float = 0.0
    reading: float = 0.0
    memory: MemoryCounts | None = None
