"""A check of the columns themselves: names and types, so that a schema never drifts unseen."""

from collections.abc import Mapping

import msgspec

from sidestage.data.check import Finding
from sidestage.data.version import Digest
from sidestage.errors import DefinitionError


class Columns(msgspec.Struct, frozen=True, tag="columns"):
    """Columns of these types are there; with ``exact``, and no others."""

    types: tuple[tuple[str, str], ...]
    exact: bool = True
    blocking: bool = True

    @property
    def name(self) -> str:
        """Such as ``columns(order_id, amount)``."""
        return f"columns({', '.join(column for column, _ in self.types)})"

    def from_digest(self, digest: Digest) -> Finding:
        """Answer from the columns that the digest describes."""
        found = {column.name: column.type for column in digest.columns}
        wanted = dict(self.types)
        faults = [f"{column} is missing" for column in wanted if column not in found]
        faults += [
            f"{column} is {found[column]}, not {kind}"
            for column, kind in wanted.items()
            if column in found and found[column] != kind
        ]
        if self.exact:
            faults += [f"{column} is new" for column in found if column not in wanted]
        message = "; ".join(faults) if faults else "As declared"
        return Finding(self.name, not faults, self.blocking, f"{message}.", observed=str(len(faults)))

    def aggregates(self) -> tuple[str, ...]:
        """Nothing has to be read."""
        return ()

    def judge(self, values: tuple[object, ...]) -> Finding:  # noqa: ARG002 -- the contract's shape
        """Never asked: the digest answers."""
        return Finding(self.name, passed=False, blocking=self.blocking, message="Not answered by the digest.")


def columns(types: Mapping[str, str], *, exact: bool = True, blocking: bool = True) -> Columns:
    """Require columns of these types: ``{"order_id": "int64", "amount": "double", "product": "string"}``.

    Types are Arrow's names without what is only layout (one ``string``, one ``timestamp`` of any unit).
    Raises DefinitionError without a column.
    """
    if not types:
        raise DefinitionError("columns() names no column.", hint='Write columns({"order_id": "int64"}).')
    return Columns(tuple(types.items()), exact, blocking)
