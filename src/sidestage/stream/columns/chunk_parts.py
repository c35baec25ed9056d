"""Which part of a source the times of a chunk belong to."""

from collections.abc import Callable, Collection, Hashable

from sidestage.stream.chunk import Chunk

_ALL = "all"


class ChunkParts:
    """Names a part of a source, as long as chunks keep to one.

    Where parts were put together nobody knows any more which item came from which, so all are one then;
    ``forget`` is called with each of those that had a name before.
    """

    def __init__(self, forget: Callable[[Hashable], None]) -> None:
        self._forget = forget
        self._seen: set[Hashable] = set()
        self._is_mixed = False

    def go_on_with(self, parts: Collection[Hashable]) -> None:
        """Go on with the names that were given before a checkpoint."""
        self._is_mixed = _ALL in parts
        self._seen = set(parts) - {_ALL}

    def name(self, chunk: Chunk) -> Hashable:
        """Return what the times of a chunk belong to."""
        parts = {(ticket.source, ticket.part) for ticket in chunk.tickets}
        if not self._is_mixed and (len(parts) > 1 or any(ticket.is_several for ticket in chunk.tickets)):
            self._is_mixed = True
            for part in self._seen:
                self._forget(part)
        if self._is_mixed:
            return _ALL
        self._seen |= parts
        return next(iter(parts), _ALL)
