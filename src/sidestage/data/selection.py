"""How people name several partitions at once: ``A``, ``A:B``, ``A:``, ``:B``, ``*``, joined by commas."""

from typing import NamedTuple

from sidestage.data.partition import quoted
from sidestage.errors import PartitionKeyError

MOST_SELECTED = 1_000_000
"""A selection larger than this is taken for a slip of the pen."""


class Span(NamedTuple):
    """One part of an expression. ``first`` or ``last`` is None where that end is left open."""

    text: str
    first: str | None
    last: str | None


def parts_of(expression: str, example: str) -> tuple[str, ...]:
    """Split an expression at its commas. Raises PartitionKeyError if it is not text or has an empty part."""
    parts = tuple(part.strip(" ") for part in expression.split(",")) if isinstance(expression, str) else ("",)
    if not all(parts):
        raise PartitionKeyError(
            f"The selection {quoted(expression)} names nothing, or has a comma too many.",
            hint=f"Write it like {example!r}, or '*' for all.",
        )
    return parts


def span_of(part: str, example: str) -> Span:
    """Read one part of an expression. Raises PartitionKeyError if it has more than one colon."""
    if part == "*":
        return Span(part, None, None)
    first, colon, last = part.partition(":")
    if not colon:
        return Span(part, part, part)
    first, last = first.strip(" "), last.strip(" ")
    if ":" in last or not (first or last):
        raise PartitionKeyError(
            f"The selection {quoted(part)} is not a range.",
            hint=f"Write 'first:last', 'first:', ':last' or '*', with keys like {example!r}.",
        )
    return Span(part, first or None, last or None)


def nothing_selected(part: str, description: str, example: str) -> PartitionKeyError:
    """Return the error for a part that names no partition of its set."""
    return PartitionKeyError(
        f"{quoted(part)} selects none of the {description}.",
        hint=f"Write it like {example!r}, or '*' for all.",
    )


def too_many(part: str) -> PartitionKeyError:
    """Return the error for a part that names more partitions than anybody means."""
    return PartitionKeyError(
        f"{quoted(part)} selects more than {MOST_SELECTED:,} partitions.", hint="Name a shorter range."
    )
