"""Workers that are processes are cancelled, and streams are told to from outside, as an operator would."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.stream.places import Kept, Parts

from sidestage.cli.stream_cancel_command import command
from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.policy.restart import Restart
from sidestage.stream import Settings, Stream
from sidestage.stream.failing import DeadLetter
from sidestage.stream.scopes.events import WorkerCancellation

PATIENT = 120.0


def hangs(number: int) -> int:
    while number == 5:
        pass
    return number


def unreadable() -> Any:
    time.sleep(3600)


class Unreadable:
    """Hangs where it is read."""

    def __reduce__(self) -> Any:
        return unreadable, ()


def test_a_process_that_hangs_is_killed_and_replaced_and_once_is_enough() -> None:
    sink, source, letters = Kept(), Parts({"a": range(40)}, sizes=[10]), list[DeadLetter]()
    never = Settings(restart=Restart(times=0))
    flow = Stream(source).map(hangs, workers=2, on="process").to(sink)
    engine = flow.engine(fail="soft", dead_letters=letters.append, settings=never)
    engine.start()
    seen: set[int] = set()
    while engine.counts()[0].processed < 30:  # all but the chunk of the one that hangs
        time.sleep(0.01)
    (at_work,) = engine.workers()
    assert (at_work.stage, at_work.kind) == ("hangs", "process")
    seen.add(at_work.number)
    came = engine.cancel_worker("hangs", at_work.number, by="ann")
    assert came == WorkerCancellation("hangs", at_work.number, "process", "5")
    assert engine.join().complete, "no restart was allowed, and none was counted"
    assert sink.items == [number for number in range(40) if number != 5]
    (letter,) = letters
    assert (letter.item, letter.failure_class, letter.attempt) == (5, "cancelled", 1)
    assert source.committed == {"a": 40}
    assert engine.counts()[0].cancelled == 1


def test_an_item_that_hangs_before_it_is_at_work_is_found_by_sending_each_by_itself() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    source = Parts({"a": [1, Unreadable(), 3]}, sizes=[3])
    engine = Stream(source).map(repr, on="process").to(sink).engine(fail="soft", dead_letters=letters.append)
    engine.start()
    given = []
    while not (given and given[-1]):
        if any(each.seconds > 2 for each in engine.workers()):  # reading what is sent takes no time
            given.append(engine.cancel_worker("repr", 1).item)
        time.sleep(0.01)
    assert engine.join().complete
    assert given[0] is None, "nobody knows yet which it is"
    assert "Unreadable" in given[-1]
    assert sink.items == ["1", "3"]
    assert [letter.failure_class for letter in letters] == ["cancelled"]


def test_a_branch_with_processes_ends_at_once() -> None:
    main, archive, source = Kept(), Kept(), Parts({"a": range(40)}, sizes=[10])
    stream: Stream[int] = Stream(source)
    archived = stream.map(hangs, workers=1, on="process").to(archive, name="archive")
    engine = stream.to(main, name="main").also(archived).engine()
    engine.start()
    while not engine.workers():
        time.sleep(0.01)
    engine.cancel_stage("archive")
    assert engine.join().complete
    assert main.items == list(range(40))
    assert sum(each.cancelled for each in engine.counts()) + len(archive.items) == 40
    assert source.committed == {"a": 40}


# From outside


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.mark.skipif(sys.platform != "linux", reason="who is at the other end can be asked on Linux only")
def test_an_operator_cancels_a_worker_and_a_stage(tmp_path: Path) -> None:
    (tmp_path / "cancelled_shop.py").write_text(
        textwrap.dedent(
            """
            import time
            from sidestage.stream import Called, Stream

            def wait(number):
                while number == 3:
                    time.sleep(0.01)
                return number

            def flow():
                orders = Stream(range(20), name="orders").map(wait, timeout=3600, name="decode")
                main = orders.to(Called(len), name="main")
                def slow(_items):
                    time.sleep(3600)
                return main.also(orders.to(Called(slow), name="archive", workers=1, timeout=3600))
            """
        )
    )
    with pytest.raises(ConfigurationError, match="No stream cancelled_shop:flow of yours runs here"):
        ran("cancelled_shop:flow", "--stage", "archive")
    arguments = ["run", "cancelled_shop:flow", "--fail", "soft", "--dead-letters", "letters", "--json"]
    running = subprocess.Popen(
        [sys.executable, "-m", "sidestage", "stream", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    try:
        assert running.stdout is not None
        assert "StreamStarted" in running.stdout.readline()
        until = time.monotonic() + PATIENT
        while "decode" not in (said := ran("cancelled_shop:flow").output):
            assert time.monotonic() < until, said
            time.sleep(0.1)
        with pytest.raises(ConfigurationError, match="No stream other:flow of yours"):
            ran("other:flow")
        with pytest.raises(DefinitionError, match="no stage 'strange'"):
            ran("cancelled_shop:flow", "--stage", "strange")
        done = ran("cancelled_shop:flow", "--stage", "decode", "--worker", "1", "--why", "hangs", "--json")
        assert json.loads(done.output)["item"] == "3"
        done = ran("cancelled_shop:flow", "--stage", "archive")
        assert "archive is cancelled" in done.output
        out, _ = running.communicate(timeout=PATIENT)
        assert running.returncode == 0
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            running.communicate()
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds.count("WorkerCancelled") == kinds.count("StageCancelled") == 1
    letter = json.loads((tmp_path / "letters").read_text().splitlines()[0])
    assert "hangs" in json.dumps(letter)
