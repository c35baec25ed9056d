"""Following a file: whole lines only, each once, through rotations and restarts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.connectors.tail import Tail
from sidestage.errors import DataError, DefinitionError
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import Batch, Position
from sidestage.stream.places.sinks import Called
from sidestage.stream.stream import Stream
from sidestage.testing.turned_clock import HandClock


class Log:
    """A log that is written to and rotated, and its follower, who may be restarted at its last position."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.clock = HandClock()
        self.settings = settings
        self.resume: dict[str, Position] = {}
        self.reader: Any = None
        self.turns = 0

    def append(self, text: str | bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        self.turns += 1
        os.utime(self.path, (self.turns, self.turns))

    def rotate(self) -> None:
        numbers = sorted(
            (int(each.name.rpartition(".")[2]) for each in self.path.parent.glob("log.*")), reverse=True
        )
        for number in numbers:
            self.path.with_name(f"log.{number}").rename(self.path.with_name(f"log.{number + 1}"))
        if self.path.exists():
            self.path.rename(self.path.with_name("log.1"))

    def open(self) -> None:
        self.close()
        tail = Tail(self.path, clock=self.clock, patience=5.0, **self.settings)
        self.reader = tail.open(json.loads(json.dumps(self.resume)))

    def batches(self, limit: int = 100) -> list[Batch]:
        if self.reader is None:
            self.open()
        found: list[Batch] = []
        while some := self.reader.read(limit, 0.0):
            found += some
        for each in found:
            assert self.resume.get(each.part, each.first) == each.first
            self.resume = {each.part: each.next}
        return found

    def read(self, limit: int = 100) -> list[str]:
        return [item.decode() for batch in self.batches(limit) for item in batch.items]

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "log")
    yield made
    made.close()


def test_what_is_appended_is_read_once_its_line_has_ended(log):
    assert log.read() == []
    log.append("one\ntw")
    assert log.read() == ["one"]
    assert log.read() == []
    log.append("o\r\n\nthree\u2028\x85")
    assert log.read() == ["two", ""]
    log.append("\n")
    assert log.read() == ["three\u2028\x85"]


def test_a_restart_goes_on_exactly_where_it_was(log):
    log.append("one\ntwo\nthr")
    assert log.read(limit=1) == ["one", "two"]
    log.open()
    assert log.read() == []
    log.append("ee\n")
    assert log.read() == ["three"]
    log.open()
    assert log.read() == []


def test_what_comes_to_a_renamed_file_is_read_before_the_new_one(log):
    log.append("1\n")
    assert log.read() == ["1"]
    log.rotate()
    assert log.read() == []
    log.append("3\n")
    with log.path.with_name("log.1").open("a") as late:
        late.write("2\n")
    assert log.read() == ["2"]
    log.clock.advance(4.9)
    assert log.read() == []
    log.clock.advance(0.2)
    assert log.read() == ["3"]
    assert log.read() == []


def test_a_line_that_never_got_its_end_counts_when_the_file_is_left(log):
    log.append("1\nhalf")
    assert log.read() == ["1"]
    log.rotate()
    log.append("2\n")
    assert log.read() == []
    log.clock.advance(6)
    assert log.read() == ["half", "2"]


@pytest.mark.parametrize("is_open", [True, False])
def test_several_rotations_that_nobody_saw_are_caught_up_with(log, is_open):
    log.append("1\n2\n")
    assert log.read(limit=1)[:1] == ["1"]
    if not is_open:
        log.close()
    for name in ("3", "4", "5"):
        log.append(f"{name}\n")
        log.rotate()
    (log.path.with_name("log.2.gz")).write_bytes(b"packed meanwhile")
    log.append("6\n")
    found = log.read()
    log.clock.advance(6)
    assert found + log.read() == ["3", "4", "5", "6"]


def test_a_file_that_is_cut_is_read_from_its_beginning(log):
    log.append("one\ntwo\nhal")
    assert log.read() == ["one", "two"]
    os.truncate(log.path, 0)
    log.append("1\n2\n3\n4\n5\n6\n7\n8\n9\n")  # longer than before: only its beginning tells
    assert log.read() == ["hal", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    log.close()
    os.truncate(log.path, 0)
    log.append("x\n")
    log.open()
    assert log.read() == ["x"]
    os.truncate(log.path, 0)
    assert log.read() == []
    log.append("y\n")
    assert log.read() == ["y"]


def test_a_file_that_is_gone_is_told_of_or_passed_over(log):
    log.append("one\n")
    log.read()
    log.close()
    log.path.rename(log.path.with_name("elsewhere"))
    log.append("new\n")
    with pytest.raises(DataError, match="is gone, and with it perhaps lines"):
        log.open()
    log.settings = {"if_gone": "go-on"}
    log.open()
    assert log.read() == ["new"]
    log.settings = {"rotated": "else*"}
    log.resume = {}
    assert log.read() == []


def test_a_copy_is_not_taken_for_a_file_that_came_after(log):
    log.append("one\n")
    log.read()
    log.path.with_name("log-copy").write_bytes(log.path.read_bytes())
    log.rotate()
    log.append("two\n")
    log.read()
    log.clock.advance(6)
    assert log.read() == ["two"]


def test_it_may_begin_at_the_end_and_a_restart_begins_there_again(log):
    log.settings = {"start": "end"}
    log.append("old\nha")
    assert log.batches()[0].items == []
    log.append("lf\n")
    log.open()
    assert log.read() == ["half"]


def test_it_waits_for_a_while_for_what_is_not_there(log):
    log.settings = {"poll": 0.001}
    log.open()
    assert log.reader.read(10, 0.001) == ()
    log.append("one\n")
    assert log.reader.read(10, 60.0)[0].items == [b"one"]
    log.append("two\n")
    log.reader.stop()
    assert log.reader.read(10, 0.0) is None


@pytest.mark.parametrize("position", ["nonsense", "1-2@3", 7, "a-0-b@0"])
def test_a_position_of_something_else_is_refused(log, position):
    log.resume = {"all": position}
    with pytest.raises(DefinitionError, match="cannot go on from"):
        log.open()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DefinitionError, match="makes no sense"):
        Tail("x", poll=0)
    with pytest.raises(DefinitionError, match="decoded first"):
        Tail("x", encoding="utf-16")


def test_a_stream_of_it_keeps_its_position(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\nt\xffo\nthree\n")
    seen: list[str] = []

    def take(lines: Any) -> None:
        seen.extend(lines)
        engine.drain()

    for expected in (["one", "t\ufffdo", "three"], ["four"]):
        seen.clear()
        flow = Stream(Tail(path, errors="replace")).to(Called(take))
        engine = flow.engine(checkpoint=Checkpoint(tmp_path / "checkpoint"))
        engine.run()
        assert seen == expected
        with path.open("a") as file:
            file.write("four\n")


STEPS = st.lists(
    st.one_of(
        st.text(alphabet="a\n\u2028\x85", min_size=1, max_size=5),
        st.sampled_from(["<rotate>", "<restart>", "<read>", "<wait>"]),
    ),
    max_size=25,
)


@settings(max_examples=200)
@given(STEPS, st.integers(1, 3))
def test_any_history_is_read_once_and_in_order(tmp_path_factory, steps, limit):
    log = Log(tmp_path_factory.mktemp("tail") / "log")
    written: list[bytes] = []
    rest, found = b"", []
    try:
        log.append("begin\n")
        assert log.read() == ["begin"]
        for number, step in enumerate(steps):
            if step == "<rotate>":
                if log.path.exists() and log.path.stat().st_size:
                    log.rotate()
                    written += [rest] if rest else []
                    rest = b""
            elif step == "<restart>":
                log.open()
            elif step == "<read>":
                found += log.read(limit)
            elif step == "<wait>":
                log.clock.advance(6)
            else:
                text = f"{number}:{step}".encode()
                log.append(text)
                *whole, rest = (rest + text).split(b"\n")
                written += whole
        log.append("end\n")
        written.append(rest + b"end")
        found += log.read(limit)
        log.clock.advance(6)
        found += log.read(limit)
    finally:
        log.close()
    assert found == [line.decode() for line in written]
