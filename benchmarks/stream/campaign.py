"""Log enrichment on a real Kafka broker, killed again and again: each event has to end exactly once.

Events are written into a topic. Processes of ``examples/log_enrichment`` move them to another, in
transactions; every ``--every`` seconds one of them is killed with SIGKILL and started again. In the end the
whole target and all dead letters are read: each event has to be in one of them, once.

Usage: python -m benchmarks.stream.campaign [--events N] [--seconds 60] [--every 2] [--processes 2]
           [--at-least-once] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from tests.servers.kafka import Broker

from sidestage.stream import read_letters

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "log_enrichment"
PARTITIONS = 4
SOURCE, TARGET, GROUP = "logs", "enriched", "enrichment"


class Outcome(NamedTuple):
    """What became of the events: ``lost`` are nowhere, ``twice`` are more than once among the written."""

    events: int
    written: int
    letters: int
    lost: int
    twice: int
    both: int


class Pipeline:
    """One process of the example, which is started again whenever it is killed."""

    def __init__(self, broker: Broker, number: int, folder: Path, options: argparse.Namespace) -> None:
        self.letters = folder / f"letters-{number}.jsonl"
        self._log = folder / f"pipeline-{number}.log"
        self._environment = {
            **os.environ,
            "SERVERS": broker.servers,
            "SOURCE": SOURCE,
            "TARGET": TARGET,
            "GROUP": GROUP,
            "INSTANCE": str(number),
            "COMMIT": str(options.commit),
            "RATE": str(options.rate),
            "DELIVERY": "at-least-once" if options.at_least_once else "exactly-once",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def start(self) -> None:
        """Start it."""
        words = [sys.executable, "-m", "sidestage", "stream", "run", "enrichment:flow"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*words, "--dead-letters", str(self.letters)],
                cwd=EXAMPLE,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def require_alive(self) -> None:
        """Raise RuntimeError, with what it said, if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"a pipeline has ended by itself:\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self.kills += 1


def committed(broker: Broker) -> int:
    """Return how many events the group has dealt with."""
    return sum(max(0, position) for position in broker.committed(GROUP, SOURCE, PARTITIONS))


def batches(servers: str) -> Iterator[bytes]:
    """Yield all that was committed into the target."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "audit", "isolation.level": "read_committed",
         "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(TARGET, number, 0) for number in range(PARTITIONS)])
        over = 0
        while over < PARTITIONS:
            for message in consumer.consume(500, 1.0):
                if message.error() is not None:
                    over += 1
                else:
                    yield message.value() or b""
    finally:
        consumer.close()


class Numbered(msgspec.Struct):
    """What the audit looks at of an event."""

    id: int


def audit(servers: str, events: int, letters: list[Path]) -> Outcome:
    """Count where each event has gone."""
    decode = msgspec.json.Decoder(Numbered).decode_lines
    counts = np.zeros(events, dtype=np.int64)
    for batch in batches(servers):
        np.add.at(counts, [each.id for each in decode(batch)], 1)
    aside = np.zeros(events, dtype=bool)
    for path in letters:
        # What is set aside in a transaction that is lost is set aside again: once counts.
        for letter in read_letters(path) if path.exists() else ():
            aside[_number(letter.value())] = True
    return Outcome(
        events=events,
        written=int(counts.sum()),
        letters=int(aside.sum()),
        lost=int(((counts == 0) & ~aside).sum()),
        twice=int((counts > 1).sum()),
        both=int(((counts > 0) & aside).sum()),
    )


def _number(line: bytes) -> int:
    """Return the number of an event that was cut off."""
    return int(line.partition(b'"id":')[2].partition(b",")[0])


def campaign(broker: Broker, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill for a while, let the rest pass, and return the figures."""
    pipelines = [Pipeline(broker, number + 1, folder, options) for number in range(options.processes)]
    with ExitStack() as stack:
        for each in pipelines:
            each.start()
            stack.callback(each.kill)
        before = 0
        while not before:  # a new broker's coordinators take their time to load, once
            time.sleep(0.1)
            before = committed(broker)
        began, turn = time.monotonic(), 0
        while (now := time.monotonic() - began) < options.seconds:
            time.sleep(max(0.0, min((turn + 1) * options.every, options.seconds) - now))
            if options.every and now < options.seconds:
                pipelines[turn % len(pipelines)].kill()
                pipelines[turn % len(pipelines)].start()
            turn += 1
        seconds = time.monotonic() - began
        dealt_with = committed(broker) - before
        kills = sum(each.kills for each in pipelines)
        while committed(broker) < options.events:
            for each in pipelines:
                each.require_alive()
            time.sleep(0.25)
    outcome = audit(broker.servers, options.events, [each.letters for each in pipelines])
    return {
        **outcome._asdict(),
        "kills": kills,
        "seconds": round(seconds, 2),
        "events_per_second": round(dealt_with / seconds),
        "all_dealt_with": dealt_with + before == options.events,
    }


def main() -> int:
    """Run a campaign; return 1 if an event is lost, or written twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=16_000_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--commit", type=float, default=0.25, help="seconds between two transactions")
    parser.add_argument("--rate", type=int, default=0, help="most events per second and process")
    parser.add_argument("--at-least-once", action="store_true", help="without transactions: a control")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidestage-campaign-") as name:
        folder = Path(name)
        broker = Broker(folder)
        broker.start()
        try:
            for topic in (SOURCE, TARGET):
                broker.create_topic(topic, PARTITIONS)
            produce = [sys.executable, str(EXAMPLE / "produce.py"), "--servers", broker.servers]
            words = ["--topic", SOURCE, "--target", TARGET, "--events", str(options.events)]
            subprocess.run([*produce, *words], check=True)
            figures = campaign(broker, folder, options)
        finally:
            broker.stop()
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps(figures))
    return int(bool(figures["lost"] or figures["twice"] or figures["both"]))


if __name__ == "__main__":
    sys.exit(main())
