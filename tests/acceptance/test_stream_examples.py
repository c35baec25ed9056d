"""The example of a streaming aggregation, as it is run: a real broker, the command, what Prometheus reads."""

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.servers.kafka import Broker

from sidestage.stream import read_letters

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SECONDS = 180.0
MINUTE = 60


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "kafka"
    folder.mkdir()
    broker = Broker(folder)
    broker.start()
    yield broker
    broker.stop(signal.SIGKILL)


def metrics(url: str) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=SECONDS) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 503:
            raise
        return {}  # nothing runs yet
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_clicks_per_minute_and_region(sidestage, broker, tmp_path):
    broker.create_topic("clicks", 1)
    first = int(time.time()) // MINUTE * MINUTE - 60 * MINUTE
    clicks = [
        ("eu", first + 1),
        ("us", first + 2),
        ("eu", first + 59),
        ("eu", first + MINUTE),
        ("eu", first + 3 * MINUTE),  # the first two minutes are over
        ("eu", first + 30),  # three minutes late: counted after all
        ("us", time.time() + 10 * MINUTE),  # whose clock is ahead
        ("us", first + 10 * MINUTE),
        ("us", first + 5),  # ten minutes late
        ("us", first + 11 * MINUTE + 10),
    ]
    producer = Producer({"bootstrap.servers": broker.servers})
    for region, at in clicks:
        producer.produce("clicks", json.dumps({"region": region, "time": at}))
    producer.produce("clicks", b'{"region": "e')
    producer.flush()

    process = sidestage.start(
        *("stream", "run", "traffic:flow", "--metrics", "0", "--dead-letters", str(tmp_path / "letters")),
        at=EXAMPLES / "traffic_counts",
        env={"SERVERS": broker.servers},
    )
    line = process.stderr.readline()
    url = re.fullmatch(r"Metrics: (http://\S+)/metrics\n", line).group(1)
    deadline = time.monotonic() + SECONDS
    processed = 'pipeline_stage_processed_total{stage="per minute"}'  # of a chunk, once all of it went on
    while (found := metrics(url)).get('clicks_total{region="us"}', 0) < 2 or found.get(processed, 0) < 10:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said

    # Minutes that are not over yet are counted when the stream drains, after the last look.
    assert found['clicks_total{region="eu"}'] == 5
    assert found['clicks_total{region="us"}'] == 2
    assert found['clicks_per_minute{region="eu"}'] == 1
    assert found["clicks_late_total"] == 1
    assert found["clicks_early_total"] == 1
    assert found[processed] == 10
    assert [letter.value() for letter in read_letters(tmp_path / "letters")] != []
