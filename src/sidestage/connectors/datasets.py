"""Published datasets of a project as sources of a stream: ``Stream(project.rows("shop/orders"))``.

A part is a partition. Which version each one shows is settled when the source is opened, and kept in the
positions: whoever goes on reads the same versions on, whatever was published meanwhile.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from sidestage.data.lake import Lake
from sidestage.errors import DataError, DefinitionError, NotFound
from sidestage.store.contract import Store
from sidestage.stream.contract import Position, Positions

if TYPE_CHECKING:
    from sidestage.connectors.dataset_reader import DatasetReader, Pin

TABLE_ROWS = 65_536


class DatasetRows:
    """The rows of what an environment shows of a dataset, each as a dict by column.

    ``partitions`` are keys; all that are published if none are named. ``partition_as`` names a column to put
    the partition's key in. Of a dataset of values a row has one column, ``value``. The catalog is asked only
    when the source is opened. Versions that were replaced are read on where reading had begun; of those that
    had been read to their end nothing more is read.
    """

    def __init__(
        self,
        store: Store,
        lake: Lake,
        dataset: str,
        *,
        partitions: Collection[str] | None = None,
        environment: str = "production",
        partition_as: str = "",
    ) -> None:
        if isinstance(partitions, str):
            raise DefinitionError("partitions is one text.", hint=f"Say partitions=[{partitions!r}].")
        self._store = store
        self._lake = lake
        self.dataset = dataset
        self.environment = environment
        self.partition_as = partition_as
        self._partitions = None if partitions is None else tuple(partitions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dataset!r})"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"dataset:{self.dataset}"

    @property
    def rows(self) -> int | None:
        """How many rows an item is; None for items that are single rows."""
        return None

    def open(self, resume: Positions) -> "DatasetReader":
        """Settle which versions to read, and begin.

        Raises NotFound if nothing is published, DataError if a version that was being read is gone.
        """
        from sidestage.connectors.dataset_reader import DatasetReader  # noqa: PLC0415 - slow to import

        return DatasetReader(self, self._pins(resume))

    def _pins(self, resume: Positions) -> "list[Pin]":
        """Return what is to be read of each partition: a version, and from which row on."""
        from sidestage.connectors.dataset_reader import Pin, place_at  # noqa: PLC0415 - slow to import

        begun = {part: place_at(position, self.name) for part, position in resume.items()}
        shown = self._shown()
        wanted = {part: begun[part].version if part in begun else version for part, version in shown.items()}
        versions = self._store.versions(wanted.values())
        gone = self._store.data_gone(wanted.values())
        pins = []
        for part, id_ in sorted(wanted.items()):
            row = begun[part].row if part in begun else 0
            version = versions.get(id_)
            if version is not None and row >= version.stored.digest.rows and part in begun:
                continue  # read to its end
            if version is None or id_ in gone:
                raise _replaced(self.name, part, id_, shown[part], resume.get(part))
            stored = version.stored
            path = None if stored.value is not None else self._lake.path(stored)
            pins.append(Pin(part, id_, row, path, stored.value))
        return pins

    def _shown(self) -> dict[str, str]:
        """Return, by partition, the version that the environment shows: its own, else its base's."""
        environment = self._store.environment(self.environment)
        if environment is None:
            known = ", ".join(each.name for each in self._store.environments()) or "none yet"
            raise NotFound(f"There is no environment {self.environment!r}.", hint=f"Known: {known}.")
        found: dict[str, str] = {}
        for name in filter(None, (environment.base, environment.name)):
            pointers = self._store.pointers(name, datasets=[self.dataset])
            found.update({partition: version for (_, partition), version in pointers.items()})
        if self._partitions is not None:
            missing = [partition for partition in self._partitions if partition not in found]
            if missing:
                raise NotFound(
                    f"{self.dataset} has no published partition {missing[0]!r} in {self.environment}.",
                    hint="See: sidestage datasets",
                )
            return {partition: found[partition] for partition in self._partitions}
        if not found:
            raise NotFound(
                f"Nothing of {self.dataset!r} is published in {self.environment}.",
                hint="See: sidestage datasets",
            )
        return found


class DatasetTables(DatasetRows):
    """The same as pyarrow Tables, each of at most 65,536 rows. Positions count rows."""

    @property
    def rows(self) -> int | None:
        """How many rows an item is at most."""
        return TABLE_ROWS


def _replaced(name: str, part: str, begun: str, shown: str, position: Position | None) -> DataError:
    if position is None:
        return DataError(
            f"The data of version {begun}, which {name} shows for {part!r}, is gone.",
            hint="Run the step again.",
        )
    return DataError(
        f"{name} was being read at version {begun} of {part!r}, which was replaced by {shown} and removed.",
        hint="Begin anew, without the checkpoint: items of the old version went through already.",
    )
