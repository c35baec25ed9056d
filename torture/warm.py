"""Loaded once by the process that publishers are forked from, so that each starts in milliseconds."""

import sys
from collections.abc import Sequence

import torture.publisher  # noqa: F401  # what the publishers need


class NoPandas:
    """Hides pandas, where it is installed: pyarrow loads it for nothing, at a second for each publisher."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:  # noqa: ARG002
        """Find nothing; for pandas, say that it is not there."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoPandas())
