"""Which partitions of which tasks a selection means."""

from collections.abc import Iterator
from datetime import datetime

from sidestage.data.partition import Partition, PartitionSet
from sidestage.errors import NotFound, PartitionKeyError
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.plan.world import Selection


def selected_tasks(manifest: Manifest, selection: Selection) -> tuple[TaskSpec, ...]:
    """Return the tasks that are asked for, inputs first. Raises NotFound."""
    manifest.pipeline(selection.pipeline)
    of_pipeline = [task for task in manifest.tasks if task.pipeline == selection.pipeline]
    names = {task.name for task in of_pipeline}
    for name in selection.tasks:
        if name not in names:
            raise NotFound(
                f"The pipeline {selection.pipeline!r} has no task {name!r}.",
                hint=f"Its tasks are: {', '.join(sorted(names))}.",
            )
    return tuple(task for task in of_pipeline if not selection.tasks or task.name in selection.tasks)


class PartitionChoice:
    """The partitions that an expression selects, in every set that it says something about.

    An expression is read by each set that can read it; a set that cannot (a monthly one given days of a week,
    a static one given dates) takes the partitions that overlap the time that the others select.
    """

    def __init__(self, expression: str | None, sets: list[PartitionSet], now: datetime) -> None:
        self._expression = expression
        self._now = now
        self._direct: dict[PartitionSet, tuple[Partition, ...]] = {}
        if expression is not None:
            self._read(expression, sets)

    def _read(self, expression: str, sets: list[PartitionSet]) -> None:
        refusal: PartitionKeyError | None = None
        for partitions in dict.fromkeys(sets):
            try:
                self._direct[partitions] = partitions.select(expression, self._now)
            except PartitionKeyError as error:
                refusal = refusal or error
        if not self._direct and refusal is not None:
            raise refusal

    def of(self, partitions: PartitionSet) -> Iterator[Partition]:
        """Yield the selected partitions of a set that are closed, oldest first."""
        if self._expression is None:
            yield from partitions.closed(self._now)
            return
        chosen = self._direct.get(partitions)
        if chosen is None:
            chosen = self._overlapping(partitions)
        for partition in chosen:
            if partition.end is None or partition.end <= self._now:
                yield partition

    def _overlapping(self, partitions: PartitionSet) -> tuple[Partition, ...]:
        timed = [
            (chosen[0].start, chosen[-1].end)
            for chosen in self._direct.values()
            if chosen and chosen[0].start is not None and chosen[-1].end is not None
        ]
        if not timed:
            return tuple(partitions.closed(self._now))
        starts = [start for start, _ in timed if start is not None]
        ends = [end for _, end in timed if end is not None]
        return partitions.overlapping(min(starts), max(ends))
