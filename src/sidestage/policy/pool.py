"""Pools: named, limited resources that steps hold slots of while they run."""

from collections.abc import Mapping

import msgspec

from sidestage.errors import DefinitionError


class Pool(msgspec.Struct, frozen=True):
    """A named resource with a number of slots.

    ``reserved`` keeps slots for pipelines, by name: others cannot take them, also while they are free, so
    that a slow pipeline never starves another. Raises DefinitionError for numbers that make no sense.
    """

    name: str
    slots: int
    reserved: Mapping[str, int] = {}

    def __post_init__(self) -> None:
        kept = sum(self.reserved.values())
        if self.slots < 1 or any(slots < 0 for slots in self.reserved.values()) or kept > self.slots:
            raise DefinitionError(
                f"Pool {self.name!r} has {self.slots} slots, of which {kept} are reserved.",
                hint="Give it at least one slot, and reserve no more than it has.",
            )

    def free_for(self, pipeline: str, held: Mapping[str, int]) -> int:
        """Return the slots that a pipeline can take now, where ``held`` are those taken, by pipeline."""
        kept = sum(
            max(0, slots - held.get(other, 0)) for other, slots in self.reserved.items() if other != pipeline
        )
        return self.slots - sum(held.values()) - kept
