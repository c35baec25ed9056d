r"""Streaming aggregation: clicks per minute and region, from a Kafka topic to Prometheus.

    clicks -> decode -> by region, per minute -> what Prometheus reads
                             \-> too late or too early -> counted

Run it with ``sidestage stream run traffic:flow --metrics 9464``. SERVERS, SOURCE and GROUP are read from
the environment.
"""

import os
import threading
from collections import Counter
from collections.abc import Sequence

import msgspec

from sidestage.connectors.kafka import KafkaSource, Message, messages
from sidestage.stream import (
    EarlyItem,
    EventTime,
    Flow,
    LateItem,
    SetAside,
    Stream,
    Windowed,
    WindowPlan,
    count,
    tumbling,
)

MINUTE = 60.0
LATEST = 5 * MINUTE
"""How much later than its minute a click may come and be counted in it."""


class Click(msgspec.Struct, frozen=True):
    """One click: where, and when by the clock of whoever served it (seconds since 1970)."""

    region: str
    time: float


def decode(message: Message) -> Click:
    """Return the click of a message. One that says no time gets the one at which the broker took it in."""
    said = _decoder.decode(message.value or b"")
    return Click(said.region, (message.time or 0) / 1000 if said.time is None else said.time)


class _Said(msgspec.Struct):
    region: str
    time: float | None = None


_decoder = msgspec.json.Decoder(_Said)


class Traffic:
    """What Prometheus reads: clicks of the newest full minute by region, and all that did not count.

    Nothing is kept beyond the process: after a restart counts begin anew.
    """

    name = "traffic"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, Windowed[str, int]] = {}
        self._total: Counter[str] = Counter()
        self._seen: dict[tuple[str, float], int] = {}

    def open(self) -> "Traffic":
        """Begin."""
        return self

    def write(self, items: Sequence[Windowed[str, int]]) -> None:
        """Take minutes that are over, or were corrected by late clicks."""
        with self._lock:
            for each in items:
                known = self._newest.get(each.key)
                if known is None or each.start >= known.start:
                    self._newest[each.key] = each
                self._total[each.key] += each.value - self._seen.get((each.key, each.start), 0)
                self._seen[each.key, each.start] = each.value
            newest = max((each.start for each in self._newest.values()), default=0.0)
            self._seen = {
                (region, start): value
                for (region, start), value in self._seen.items()
                if start >= newest - LATEST - 2 * MINUTE
            }

    def exposition(self) -> str:
        """Return it in the text format of Prometheus."""
        with self._lock:
            lines = ["# TYPE clicks_per_minute gauge"]
            lines += [
                f'clicks_per_minute{{region="{region}"}} {each.value}'
                for region, each in sorted(self._newest.items())
            ]
            lines.append("# TYPE clicks_total counter")
            lines += [
                f'clicks_total{{region="{region}"}} {number}'
                for region, number in sorted(self._total.items())
            ]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End."""


class Beside:
    """Counts clicks that came too late, or whose time lies ahead of ours."""

    name = "beside"

    def __init__(self) -> None:
        self.late = self.early = 0

    def open(self) -> "Beside":
        """Begin."""
        return self

    def write(self, items: Sequence[LateItem | EarlyItem]) -> None:
        """Count items."""
        late = sum(isinstance(each, LateItem) for each in items)
        self.late += late
        self.early += len(items) - late

    def exposition(self) -> str:
        """Return it in the text format of Prometheus."""
        return (
            "# TYPE clicks_late_total counter\n"
            f"clicks_late_total {self.late}\n"
            "# TYPE clicks_early_total counter\n"
            f"clicks_early_total {self.early}\n"
        )

    def close(self) -> None:
        """End."""


def flow() -> Flow:
    """Return the stream."""
    source = KafkaSource(
        servers=os.environ.get("SERVERS", "localhost:9092"),
        topics=(os.environ.get("SOURCE", "clicks"),),
        group=os.environ.get("GROUP", "traffic"),
        items=messages,
    )
    per_minute = WindowPlan(
        windows=tumbling(MINUTE),
        aggregate=count(),
        key=lambda click: click.region,
        # A producer whose clock is more than a minute ahead would close everybody's windows too early.
        time=EventTime(at=lambda click: click.time, disorder=5.0, idle=10.0, ahead=MINUTE),
        lateness=LATEST,
    )
    return (
        Stream(source, name="clicks")
        .map(decode, name="decode", on_error=SetAside())
        .window(per_minute, beside=Beside(), name="per minute")
        .to(Traffic())
    )
