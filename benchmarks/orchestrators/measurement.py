"""What was measured, and how the figures of several repeats become one."""

import statistics
from collections.abc import Sequence

from benchmarks.orchestrators.peers import MEMORY, START, TASKS, TIMED, TITLES, Peer
from msgspec import Struct

UNITS = {"idle": "MiB", "peak": "MiB"}
"""Units of what is measured; all else is seconds."""

METRICS = {
    **TITLES,
    "idle": "idle memory (PSS of all processes of the tool) when all is up",
    "peak": "peak memory (PSS) during a fan-out of {size}",
    "import": "import in a new process",
    "help": "the command's --help",
}


class Measurement(Struct, frozen=True):
    """One figure: seconds or MiB. ``busy`` is what others used of the processors just before, in percent."""

    metric: str
    peer: str
    size: int
    value: float
    busy: float
    note: str = ""
    error: str = ""


class Row(Struct, frozen=True):
    """One line of the report; ``value`` is the median, brought to the full size where it was cut."""

    metric: str
    peer: str
    title: str
    durability: str
    repeats: int
    value: float | None
    extrapolated: bool
    to_limit: float | None
    to_sidestage: float | None
    note: str


def full_size(metric: str) -> int:
    """Return the size that figures of a metric are given for."""
    return TIMED.get(metric, TIMED["fanout"] if metric == "peak" else 1)


def tasks(metric: str) -> int:
    """Return how many tasks a case has, or 0 if it is not one."""
    if metric not in TASKS:
        return 0
    each, more = TASKS[metric]
    return each * TIMED[metric] + more


def summed_up(peers: Sequence[Peer], measurements: Sequence[Measurement], metric: str) -> list[Row]:
    """Return the rows of one metric, in the order of the peers."""
    values = {peer.name: _middle(measurements, metric, peer.name) for peer in peers}
    return [
        _row(peer, [one for one in measurements if (one.metric, one.peer) == (metric, peer.name)], values)
        for peer in peers
        if any((one.metric, one.peer) == (metric, peer.name) for one in measurements)
    ]


def _row(peer: Peer, found: Sequence[Measurement], values: dict[str, float | None]) -> Row:
    first, value = found[0], values[peer.name]
    cut = first.size < full_size(first.metric)
    scaled = cut and first.metric in TIMED
    notes = [f"measured with {first.size}"] if cut else []
    notes += [one.note for one in found[:1] if one.note]
    notes += [f"failed: {one.error}" for one in found if one.error][:1]
    return Row(
        first.metric,
        peer.name,
        peer.title,
        peer.durability,
        sum(not one.error for one in found),
        value,
        scaled and value is not None,
        _ratio(value, values.get(peer.limit)),
        _ratio(value, values.get("sidestage")),
        "; ".join(notes),
    )


def _middle(measurements: Sequence[Measurement], metric: str, peer: str) -> float | None:
    found = [one for one in measurements if (one.metric, one.peer, one.error) == (metric, peer, "")]
    if not found:
        return None
    scale = full_size(metric) / found[0].size if metric in TIMED else 1
    return statistics.median(one.value for one in found) * scale


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def metrics_of(case: str) -> tuple[str, ...]:
    """Return what is measured in a case."""
    return {MEMORY: ("idle", "peak"), START: ("import", "help")}.get(case, (case,))
