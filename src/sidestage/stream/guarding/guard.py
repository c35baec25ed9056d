"""What stands between a stage and what it calls: description only."""

import math

import msgspec

from sidestage.errors import DefinitionError
from sidestage.policy.breaker import Breaker
from sidestage.policy.bulkhead import Bulkhead


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between stages and the system outside that they call.

    ``bulkhead``: how many calls at once, for how long each. ``breaker``: when to leave the system alone; then
    its failures are waited out, each item's for ``patience`` seconds at most (None: for as long as it takes).
    Stages whose guards have the same ``name`` share calls, lost threads and circuit; without a name a stage
    has its own. Raises DefinitionError for what makes no sense.
    """

    name: str = ""
    bulkhead: Bulkhead | None = None
    breaker: Breaker | None = None
    patience: float | None = None

    def __post_init__(self) -> None:
        if self.bulkhead is None and self.breaker is None:
            raise DefinitionError(
                f"The guard {self.name!r} guards nothing.", hint="Give it a bulkhead, a breaker, or both."
            )
        if self.patience is None:
            return
        if self.breaker is None or not 0 <= self.patience < math.inf:  # so that nan fails, too
            raise DefinitionError(
                f"A patience of {self.patience} s makes no sense"
                f"{' without a breaker' if self.breaker is None else ''}.",
                hint="It says for how long failures are waited out that a breaker counts, in seconds.",
            )
