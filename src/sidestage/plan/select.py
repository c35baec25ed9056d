"""Which partitions of which tasks a selection means."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from sidestage.data.partition import Partition, PartitionSet
from sidestage.errors import NotFound, PartitionKeyError
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.plan.world import Selection


def selected_pipeline(manifest: Manifest, selection: Selection) -> str:
    """Return the name of the pipeline that is asked for, or of the only one. Raises NotFound."""
    if selection.pipeline is not None:
        return manifest.pipeline(selection.pipeline).name
    names = [pipeline.name for pipeline in manifest.pipelines]
    if len(names) != 1:
        raise NotFound(
            f"This project declares {len(names)} pipelines.", hint=f"Name one: {', '.join(names)}."
        )
    return names[0]


def selected_tasks(manifest: Manifest, selection: Selection) -> tuple[TaskSpec, ...]:
    """Return the tasks that are asked for, inputs first. Raises NotFound."""
    pipeline = selected_pipeline(manifest, selection)
    of_pipeline = [task for task in manifest.tasks if task.pipeline == pipeline]
    names = {task.name for task in of_pipeline}
    for name in selection.tasks:
        if name not in names:
            raise NotFound(
                f"The pipeline {pipeline!r} has no task {name!r}.",
                hint=f"Its tasks are: {', '.join(sorted(names))}.",
            )
    return tuple(task for task in of_pipeline if not selection.tasks or task.name in selection.tasks)


def services_of(manifest: Manifest, pipeline: str) -> dict[str, str]:
    """Return the fingerprint of each service of a pipeline."""
    return {service.id: service.fingerprint for service in manifest.pipeline(pipeline).services}


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
        # Sets cut by time come first: their refusal is the one that helps whoever asked for days.
        for partitions in sorted(dict.fromkeys(sets), key=lambda each: each.usual_length is None):
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
        spans = _spans(partition for chosen in self._direct.values() for partition in chosen)
        if not spans:
            return tuple(partitions.closed(self._now))
        found = (partition for start, end in spans for partition in partitions.overlapping(start, end))
        return tuple(dict.fromkeys(found))


def _spans(chosen: Iterable[Partition]) -> list[tuple[datetime, datetime]]:
    """Return the time that partitions cover, oldest first, those that touch put together."""
    timed = ((each.start, each.end) for each in chosen if each.start is not None and each.end is not None)
    spans: list[tuple[datetime, datetime]] = []
    for start, end in sorted(timed):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans
