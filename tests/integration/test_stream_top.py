"""``sidestage stream top`` against a stream that runs and serves its metrics."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from sidestage.cli import stream_top_command
from sidestage.cli.stream_top_command import address_of, command, drawn, read
from sidestage.errors import ConfigurationError, DataError, SidestageError
from sidestage.stream.engine import Engine
from sidestage.stream.observing.watch_server import WatchServer
from sidestage.stream.places.sinks import Called
from sidestage.stream.stream import Stream


class Running:
    """A stream with a stage that is slow, until it is told to end."""

    def __init__(self) -> None:
        self.over = threading.Event()
        flow = (
            Stream(self._numbers(), name="numbers")
            .map(str, name="[decode]")
            .map(self._slow, name="enrich", workers=2)
            .to(Called(lambda _: None, name="store"))
        )
        self.engine: Engine = flow.engine()

    def _numbers(self) -> Iterator[int]:
        number = 0
        while not self.over.is_set():
            yield number
            number += 1

    def _slow(self, text: str) -> str:
        self.over.wait(0.001)
        return text


@pytest.fixture
def server() -> Iterator[WatchServer]:
    running = Running()
    with WatchServer(0) as server:
        running.engine.start()
        server.show(running.engine)
        while not running.engine.counts()[-1].processed:
            running.over.wait(0.001)
        yield server
        running.over.set()
        running.engine.cancel()
        assert running.engine.wait(30)


def test_once_prints_the_stages_and_who_holds_the_others_up(server: WatchServer) -> None:
    done = CliRunner().invoke(command, [server.url, "--once", "--every", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].split() == ["stage", "workers", "pending", "items/s", "errors", "p50", "p99", "busy"]
    assert [line.split()[0] for line in lines[1:4]] == ["[decode]", "enrich", "store"]
    assert "/4,096" in lines[2]
    assert "enrich is the bottleneck: 2 workers" in done.output
    assert "numbers: the oldest item under way is" in done.output


def test_json_has_the_same_for_programs(server: WatchServer) -> None:
    done = CliRunner().invoke(command, [server.url, "--json", "--every", "2"], catch_exceptions=False)
    shown = json.loads(done.output)
    stages = {each["stage"]: each for each in shown["stages"]}
    assert stages["enrich"]["rate"] > 0
    assert stages["enrich"]["p99"] >= 0.001
    assert shown["sources"]["numbers"] > 0
    assert "enrich" in shown["advice"]


def test_the_live_view_looks_again_and_again_and_says_when_nobody_answers_any_more(
    server: WatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def some(address: str):
        if len(looks) == 3:
            raise SidestageError(f"Nothing answers at {address}: gone.")
        looks.append(address)
        return read(address)

    monkeypatch.setattr(stream_top_command, "read", some)
    done = CliRunner().invoke(command, [server.url, "--every", "0.05"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "gone. Has the stream ended?" in done.output
    assert "enrich" in done.output
    assert looks == [f"{server.url}/metrics"] * 3


def test_a_view_is_ended_by_an_interruption(server: WatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_seen):
        raise KeyboardInterrupt

    monkeypatch.setattr(stream_top_command, "drawn", interrupted)
    assert CliRunner().invoke(command, [server.url, "--every", "0.05"], catch_exceptions=False).exit_code == 0


def test_it_says_clearly_when_nothing_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(
            SidestageError, match=r"Nothing answers at http://127.0.0.1:\d+/metrics: .*refused"
        ) as error:
            read(address_of(f"127.0.0.1:{taken.getsockname()[1]}"))
    assert "stream run" in error.value.hint


def test_it_says_clearly_when_something_else_answers(server: WatchServer) -> None:
    with pytest.raises(SidestageError, match="answers 404: There are /metrics and /healthz"):
        read(f"{server.url}/nothing")
    with pytest.raises(DataError, match="not the metrics of a stream"):
        read(f"{server.url}/healthz")


def test_addresses_may_be_short() -> None:
    assert address_of("9100") == "http://localhost:9100/metrics"
    assert address_of("host:9100/") == "http://host:9100/metrics"
    assert address_of("https://host/other") == "https://host/other"
    for wrong in ("host:abc", "ftp://host/metrics", "http://"):
        with pytest.raises(ConfigurationError):
            address_of(wrong)


def test_drawing_needs_no_earlier_look(server: WatchServer) -> None:
    assert drawn(stream_top_command.Seen(read(f"{server.url}/metrics"), None, 1.0)).renderables
