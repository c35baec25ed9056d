"""Named data that tasks read and write, one version per partition."""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidestage.data.check import Check
from sidestage.data.keyed import AnyPartitions, Single
from sidestage.data.mapping import AllOf, AnyMapping, Fixed, Latest, Same, Window
from sidestage.data.names import check_dataset_name
from sidestage.errors import DefinitionError, NameRefused

RESERVED = "sidestage"
"""First segment of the names of datasets that the platform itself writes."""


class Dataset:
    """Named data with a set of partitions.

    ``name``
        Segments of letters, digits, ``-`` and ``_``, joined by ``/``: ``flights/delays``.
    ``partitions``
        The slices it consists of; a single one if left out.
    ``key``
        Columns that identify a row within a partition; comparisons join on them.
    ``checks``
        What must be true of every version before anybody can see it.
    ``compare``
        Rules by which a candidate's versions are judged against production's.

    Raises NameRefused or DefinitionError.
    """

    __slots__ = ("checks", "compare", "description", "key", "name", "partitions")

    is_value = False
    """Whether a partition is one small value instead of rows."""

    def __init__(
        self,
        name: str,
        partitions: AnyPartitions | None = None,
        *,
        key: Sequence[str] = (),
        checks: Sequence[Check] = (),
        compare: Sequence[msgspec.Struct] = (),
        description: str = "",
    ) -> None:
        self.name = check_dataset_name(name)
        if name.split("/", 1)[0].casefold() == RESERVED:
            raise NameRefused(
                f"The dataset name {name!r} begins with {RESERVED}/, which is kept for the platform's own.",
                hint="Begin it with another word.",
            )
        self.partitions: AnyPartitions = Single() if partitions is None else partitions
        self.key = _columns(name, key)
        self.checks = tuple(checks)
        self.compare = tuple(compare)
        self.description = description
        _refuse_foreign(name, "checks", self.checks, Check)
        _refuse_foreign(name, "compare", self.compare, msgspec.Struct)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.partitions.describe()})"


class Value(Dataset):
    """A dataset whose every partition is one small value: text, numbers, lists and mappings, as in JSON.

    It lies in the catalog itself, without a file: for watermarks, counts, the receipt of an order that was
    sent. Whoever reads one partition gets the value; whoever reads several, a mapping from keys to values.
    """

    __slots__ = ()

    is_value = True

    def __init__(self, name: str, partitions: AnyPartitions | None = None, *, description: str = "") -> None:
        super().__init__(name, partitions, description=description)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.partitions.describe()})"


class Read:
    """A dataset as a task's input, and which of its partitions the task needs (None: decided by the sets)."""

    __slots__ = ("dataset", "mapping")

    def __init__(self, dataset: Dataset, mapping: AnyMapping | None = None) -> None:
        self.dataset = dataset
        self.mapping = mapping

    def __repr__(self) -> str:
        return f"Read({self.dataset.name!r}, {self.mapping})"


def same(dataset: Dataset) -> Read:
    """Read the partition with the same key."""
    return Read(dataset, Same())


def window(dataset: Dataset, *, before: int = 0, after: int = 0) -> Read:
    """Read the partition with the same key, and so many before and after it."""
    return Read(dataset, Window(before=before, after=after))


def all_of(dataset: Dataset) -> Read:
    """Read all partitions that lie in the period of the partition being made, such as all days of a month."""
    return Read(dataset, AllOf())


def latest(dataset: Dataset) -> Read:
    """Read the newest partition that was closed when the partition being made was."""
    return Read(dataset, Latest())


def fixed(dataset: Dataset, key: str) -> Read:
    """Read always this one partition."""
    return Read(dataset, Fixed(key))


def _columns(name: str, key: Sequence[str]) -> tuple[str, ...]:
    if isinstance(key, str):
        raise DefinitionError(
            f"Dataset {name!r}: key is one string, but must list columns.", hint=f"Write key=[{key!r}]."
        )
    return tuple(key)


def _refuse_foreign(name: str, what: str, values: tuple[Any, ...], contract: type) -> None:
    for value in values:
        if not isinstance(value, contract):
            raise DefinitionError(
                f"Dataset {name!r}: {value!r} in {what} is not one of Sidestage's.",
                hint="Import checks and comparison rules from sidestage.checks.",
            )
