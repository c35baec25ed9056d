"""Trace ids: every item has one, and nothing is carried along with it for that.

The id is made from where the item came from, so whoever knows that - a dead letter, a span, the message of an
error - finds the same one, in every process and on every run.
"""

from typing import TYPE_CHECKING

import xxhash

from sidestage.stream.contract import Position

if TYPE_CHECKING:
    from sidestage.stream.chunk import Ticket


def trace_id(source: str, part: str, position: Position, index: int | None) -> str:
    """Return the id, as 32 hexadecimal digits, of the item at this place.

    ``index`` counts from ``position`` on; None: the position is the item's own. The id is XXH3 (128 bits) of
    the place, written as a Python value in ASCII: another Python writes the same.
    """
    place = ascii((source, part, position) if index is None else (source, part, position, index))
    return f"{xxhash.xxh3_128_intdigest(place.encode('ascii')) or 1:032x}"  # zero means "no trace" elsewhere


def trace_of(ticket: "Ticket", index: int) -> str:
    """Return the id of one item of a batch.

    Where positions count items, an item has the same id whatever batch it is read in; elsewhere it has the
    same id whenever its batch begins at the same position.
    """
    first, after = ticket.first, ticket.next
    if isinstance(first, int) and isinstance(after, int) and after - first == ticket.size:
        return trace_id(ticket.source, ticket.part, first + index, None)
    return trace_id(ticket.source, ticket.part, first, index)


def is_sampled(trace: str, share: float) -> bool:
    """Whether an id is among this share of all: its last 64 bits decide, as for other samplers by ratio."""
    return int(trace[16:], 16) < round(share * (1 << 64))
