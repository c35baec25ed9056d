"""A stream as a process of its own, and signals: nothing acknowledged is lost, whoever presses how often."""

import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.letters.file import read_letters

CODE = """
import os, time
from sidestage.stream import Called, SetAside, Stream

written = open("written", "ab", buffering=0)
HELD = "HELD" in os.environ


def numbers():
    n = 0
    while n < int(os.environ.get("MOST", 10**9)):
        yield n
        n += 1
        time.sleep(0.0005)


def decode(n):
    if n % 7 == 3:
        raise ValueError(n)
    return n


def cpu(n):
    return n


def write(items):
    if HELD and items[-1] > 50:
        open("held", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    written.write("".join(f"{n}\\n" for n in items).encode())
    os.fsync(written.fileno())


def flow():
    stream = Stream(numbers(), name="numbers").map(decode, workers=2, on_error=SetAside())
    if os.environ.get("PROCESSES"):
        stream = stream.map(cpu, workers=2, on="process")
    return stream.to(Called(write))


not_a_flow = 7
"""
WAIT_SECONDS = 180.0


class Service:
    """A stream, started by the command in a folder of its own."""

    def __init__(self, sidestage, folder: Path) -> None:
        self.sidestage = sidestage
        self.folder = folder
        (folder / "numbered.py").write_text(CODE)

    def start(self, *more: str, **env: str):
        words = (
            "stream",
            "run",
            "numbered:flow",
            "--checkpoint",
            "progress",
            "--dead-letters",
            "letters",
            "--json",
        )
        return self.sidestage.start(*words, *more, at=self.folder, env=env)

    def go(self) -> None:
        """Let a sink go on that is held."""
        (self.folder / "go").touch()

    def written(self) -> list[int]:
        path = self.folder / "written"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def set_aside(self) -> list[int]:
        path = self.folder / "letters"
        return [letter.item for letter in read_letters(path)] if path.exists() else []

    @property
    def position(self) -> int:
        return int(Checkpoint(self.folder / "progress").positions("numbers").get("all", 0))

    def holds_all_that_is_acknowledged(self) -> None:
        safe = {*self.written(), *self.set_aside()}
        missing = [n for n in range(self.position) if n not in safe]
        assert missing == []


@pytest.fixture
def service(sidestage, tmp_path):
    return Service(sidestage, tmp_path)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_until(process, kind: str) -> list[str]:
    """Return the lines that a process prints, until it tells of an event of this kind."""
    late = threading.Timer(WAIT_SECONDS, process.kill)
    late.start()
    lines: list[str] = []
    while not any(f'"{kind}"' in line for line in lines[-1:]):
        lines.append(process.stdout.readline())
        assert lines[-1], f"it never told of {kind}: {lines}"
    late.cancel()
    return lines


def ended(process, lines: Sequence[str] = ()) -> tuple[int, list[dict], str]:
    """Wait until a process ends by itself; return its status, all events and its errors."""
    late = threading.Timer(WAIT_SECONDS, process.kill)
    late.start()
    with process:
        printed = [*lines, *process.stdout]  # also what was read ahead of the lines
        err = process.stderr.read()
    late.cancel()
    return process.returncode, [json.loads(line) for line in printed], err


def kinds(events: list[dict]) -> list[str]:
    return [event.get("type", "error") for event in events]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", ["", "yes"])
def test_one_signal_drains(service, number, processes):
    process = service.start(PROCESSES=processes)
    until(lambda: service.position > 100)
    process.send_signal(number)
    code, events, err = ended(process)
    assert (code, err) == (0, "")
    assert kinds(events) == ["StreamStarted", "StreamBooted", "StreamDraining", "StreamEnded", "Result"]
    assert events[2]["why"] == f"signal {number.name}"
    assert events[3]["outcome"] == "drained"
    everything = sorted({*service.written(), *service.set_aside()})
    assert everything == list(range(service.position)), "what was read is dealt with and acknowledged"
    assert len(service.written()) + len(service.set_aside()) == len(everything)
    process = service.start(MOST=str(service.position + 50))
    code, events, _ = ended(process)
    assert code == 0
    assert events[-1]["complete"] is True
    everything = sorted([*service.written(), *service.set_aside()])
    assert everything == list(range(service.position)), "the next run goes on where this one ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_its_processes_drains_it_too(service, number):
    """As Ctrl-C on a terminal does, and a supervisor that tells a whole group."""
    process = service.start(PROCESSES="yes")
    until(lambda: service.position > 100)
    os.killpg(process.pid, number)
    code, events, _err = ended(process)
    assert code == 0
    assert events[-1]["type"] == "Result"
    everything = sorted([*service.written(), *service.set_aside()])
    assert everything == list(range(service.position))


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGINT], 4),
    ],
)
def test_a_second_signal_cancels_and_loses_nothing_acknowledged(service, signals, status):
    process = service.start(HELD="yes")
    until((service.folder / "held").exists)
    lines: list[str] = []
    for number, turn in zip(signals, ("StreamDraining", "StreamCancelled", ""), strict=False):
        process.send_signal(number)
        lines += read_until(process, turn) if turn else []
    if status != 4:
        service.go()
    code, events, _err = ended(process, lines)
    assert "StreamCancelled" in kinds(events)
    assert code == status
    if status == 4:  # told again while its sink is held: it does not wait for that, and says so
        assert any(event.get("error") == "StreamHangs" for event in events)
    else:
        assert events[-2]["outcome"] == "cancelled"
    service.holds_all_that_is_acknowledged()
    service.go()
    ended(service.start(MOST=str(service.position + 50)))
    service.holds_all_that_is_acknowledged()
    assert {*service.written(), *service.set_aside()} >= set(range(service.position))


def test_a_drain_that_takes_longer_than_its_grace_is_cancelled(service):
    process = service.start("--grace", "0.2", HELD="yes")
    until((service.folder / "held").exists)
    process.send_signal(signal.SIGTERM)
    lines = read_until(process, "StreamCancelled")
    service.go()
    code, events, _ = ended(process, lines)
    assert code == 143
    (cancelled,) = [event for event in events if event["type"] == "StreamCancelled"]
    assert cancelled["why"] == "its drain took longer than 0.2 s"
    service.holds_all_that_is_acknowledged()


def test_kill_loses_nothing_acknowledged(service):
    process = service.start()
    until(lambda: service.position > 100)
    process.kill()
    process.communicate()
    service.holds_all_that_is_acknowledged()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_health_are_served_while_it_runs(service):
    process = service.start("--metrics", "0")
    line = process.stderr.readline()
    url = re.fullmatch(r"Metrics: (http://127\.0\.0\.1:\d+)/metrics\n", line)[1]
    until(lambda: service.position > 100)
    status, text = get(f"{url}/healthz")
    assert (status, json.loads(text)["phase"]) == (200, "steady")
    status, text = get(f"{url}/metrics")
    assert status == 200
    assert 'pipeline_phase{phase="steady"} 1' in text
    assert re.search(r'pipeline_stage_errors_total\{stage="decode"\} [1-9]', text)
    assert get(f"{url}/else")[0] == 404
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/healthz")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("numbered", "does not name a flow"),
        ("nowhere:flow", "No module named"),
        ("numbered:nothing", "has no attribute"),
        ("numbered:not_a_flow", "is int, not a flow"),
    ],
)
def test_what_is_no_flow_is_said(service, name, says):
    result = service.sidestage("stream", "run", name, at=service.folder, expect=2)
    assert says in result.err
    assert "Traceback" not in result.err
