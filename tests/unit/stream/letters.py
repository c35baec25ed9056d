"""Dead letters to look through."""

from typing import Any

from sidestage.policy.failure import FailureClass
from sidestage.stream.chunk import Origin
from sidestage.stream.failing import DeadLetter


def letter(
    item: Any,
    *,
    stage: str = "decode",
    error: Exception | None = None,
    failure: FailureClass = "bug",
    place: int | None = 7,
    trace: str | None = "",
) -> DeadLetter:
    """Return a letter; its trace follows from its place unless it is given."""
    origin = None if place is None else Origin("topic/3", 100, place)
    found = trace if trace != "" else None if place is None else f"{place:032x}"
    return DeadLetter(stage, item, error or ValueError("no"), failure, 1, origin, 0.0, found, "anna")
