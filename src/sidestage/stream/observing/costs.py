"""What a run has cost: processor time per item and stage, and what the plumbing took beside the stages."""

from collections.abc import Iterator, Sequence

import msgspec

from sidestage.stream.settings import Ended


class StageCost(msgspec.Struct, frozen=True):
    """What one stage has cost, in seconds for each item: by the clock, and of processor time.

    ``cpu`` is estimated from some of its chunks; None if none was looked at.
    """

    name: str
    items: int
    wall: float
    cpu: float | None


class Cost(msgspec.Struct, frozen=True):
    """What a run has cost, in seconds of processor time: in all, for reading sources, for plumbing.

    ``plumbing`` is what the workers used outside of stages and sources: taking chunks, handing them on,
    sending them to processes, acknowledging them. The loop over the items of a chunk is part of its stage.
    """

    stages: tuple[StageCost, ...]
    cpu: float
    reading: float
    plumbing: float

    @property
    def plumbing_share(self) -> float:
        """The share of the processor time that plumbing took."""
        return self.plumbing / self.cpu if self.cpu else 0.0

    def __str__(self) -> str:
        return "\n".join(as_table(list(self._rows()), ">"))

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "stage", "items", "time/item", "CPU/item", "CPU"
        yield "(reading)", "", "", "", self._share(self.reading)
        for each in self.stages:
            known = each.cpu is not None
            cpu = shown_seconds(each.cpu) if each.cpu is not None else "?"
            share = self._share(each.items * (each.cpu or 0.0)) if known else "?"
            yield each.name, f"{each.items:,}", shown_seconds(each.wall), cpu, share
        yield "(plumbing)", "", "", "", self._share(self.plumbing)
        yield "(all)", "", "", "", f"{self.cpu:.2f} s"

    def _share(self, seconds: float) -> str:
        return f"{seconds / self.cpu:.0%}" if self.cpu else ""


def cost(ended: Ended) -> Cost:
    """Return what a run has cost. Its text is a table.

    Processor time of threads that the source, a bulkhead or a library has of its own is nobody's here.
    """
    stages = tuple(
        StageCost(
            each.name,
            each.processed,
            each.seconds_per_item,
            each.cpu / each.processed if each.cpu is not None and each.processed else None,
        )
        for each in ended.stages
    )
    known = sum(each.items * each.cpu for each in stages if each.cpu is not None)
    return Cost(stages, ended.cpu, ended.reading, max(0.0, ended.cpu - ended.reading - known))


def shown_seconds(seconds: float) -> str:
    """Return a duration as people would write it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def as_table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return lines in which columns stand below one another: the first to the left, others as told."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if at == 0 else align}{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
