"""Stages whose workers are processes, which die, hang, and are given what cannot be sent."""

import ctypes
import gc
import multiprocessing.process
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.restart import Restart
from sidestage.policy.retry import Retry
from sidestage.stream.failing import DeadLetter, Default, Skip, StreamDied
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.workers import processes


def double(number: int) -> int:
    return number * 2


def where(_number: int) -> int:
    return os.getpid()


def deadly(number: int) -> int:
    if number == 13:
        ctypes.string_at(0)  # a segmentation fault
    if number == 17:
        os._exit(3)
    if number == 19:
        raise ValueError(number)
    return number


def dies_once(where_to: str) -> int:
    mark = Path(where_to)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def hangs(number: int) -> int:
    if number == 5:
        time.sleep(3600)
    return number


def hangs_and_says_so(item: tuple[int, str]) -> int:
    number, mark = item
    if number == 5:
        Path(mark).touch()
        time.sleep(3600)
    return number


def closes_everything_and_leaves(number: int) -> int:
    if number == 2:
        os.closerange(3, 256)
        time.sleep(1.5)
        os._exit(3)
    return number


def odd_results(number: int) -> Any:
    return threading.Lock() if number == 3 else bytearray(200_000)


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("this one stays here")


def test_processes_do_the_work_in_order() -> None:
    sink, source = Kept(), Parts({"a": range(1000)}, sizes=[50])
    ended = Stream(source).map(double, workers=2, on="process").filter(lambda n: n % 3).to(sink).run()
    assert sink.items == [n * 2 for n in range(1000) if n * 2 % 3]
    assert source.committed == {"a": 1000}
    first = ended.stages[0]
    assert (first.name, first.workers, first.processed) == ("double", 2, 1000)
    pids = set(Stream(range(100)).batch(1).map(len).map(where, workers=2, on="process"))
    assert os.getpid() not in pids


def test_what_kills_its_process_twice_is_set_aside_and_nothing_else_is_lost() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    source = Parts({"a": range(40)}, sizes=[10])
    stream = Stream(source).map(deadly, workers=2, on="process")
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [n for n in range(40) if n not in (13, 17, 19)]
    found = {letter.item: letter for letter in letters}
    assert sorted(found) == [13, 17, 19]
    assert (found[13].failure_class, found[13].attempt) == ("worker-died", 2)
    assert "signal 11" in str(found[13].error)
    assert "exit status 3" in str(found[17].error)
    assert found[19].failure_class == "bug"
    assert source.committed == {"a": 40}


def test_what_kills_its_process_once_is_done_by_the_next(tmp_path: Path) -> None:
    assert list(Stream([str(tmp_path / "mark")] * 3).map(dies_once, on="process")) == [1, 1, 1]


def test_processes_that_keep_dying_end_the_stream() -> None:
    terms = Settings(chunk=1, restart=Restart(times=1, delay=0.0, longest=0.0))
    with pytest.raises(StreamDied, match="exit status 3"):
        Stream([1, 17, 2]).map(deadly, on="process").to(Kept()).run(settings=terms)


def test_what_hangs_is_ended_after_its_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "hangs"
    was_there = False

    def monotonic() -> float:
        """Long after it was seen to hang, it is an hour later; a slow host changes nothing."""
        nonlocal was_there
        hour, was_there = 3600.0 if was_there else 0.0, mark.exists()
        return time.monotonic() + hour

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=monotonic))
    items = [(number, str(mark)) for number in range(8)]
    stream = Stream(items).map(hangs_and_says_so, on="process", timeout=600.0, on_error=Default(-1))
    assert list(stream) == [0, 1, 2, 3, 4, -1, 6, 7]


def test_how_a_process_ended_is_known_although_it_takes_its_time() -> None:
    letters: list[DeadLetter] = []
    sink = Kept()
    stream = Stream([1, 2, 3]).map(closes_everything_and_leaves, on="process")
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == [1, 3]
    assert [str(letter.error) for letter in letters] == ["its process ended with exit status 3"]


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(DefinitionError, match="cannot be sent to a process") as error:
        Stream([1]).map(lambda n: n, on="process").to(Kept()).run()
    assert "top level" in error.value.hint
    letters: list[DeadLetter] = []
    sink = Kept()
    Stream([1, Unsendable(), 2]).map(repr, on="process").to(sink).run(
        fail="soft", dead_letters=letters.append
    )
    assert sink.items == ["1", "2"]
    assert [str(letter.error) for letter in letters] == ["this one stays here"]
    made = list(Stream(range(5)).map(odd_results, on="process", on_error=Skip()))
    assert [len(each) for each in made] == [200_000] * 4


def test_cancelling_ends_a_process_that_hangs() -> None:
    engine = Stream([5]).map(hangs, workers=1, on="process").to(Kept()).engine()
    engine.start()
    time.sleep(0.5)  # long enough for the process to be at work, most of the time; it does not matter if not
    engine.cancel()
    assert not engine.join().complete


# Workers that are threads


def leaves(number: int) -> int:
    if number == 7:
        raise SystemExit("I am off")
    return number


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_a_worker_whose_code_leaves_is_started_again(workers: int | None) -> None:
    sink, letters = Kept(), list[DeadLetter]()
    source = Parts({"a": range(30)}, sizes=[10])
    stream = Stream(source).filter(lambda n: n % 2).map(leaves, workers=workers)
    stream.to(sink).run(
        fail="soft", dead_letters=letters.append, settings=Settings(restart=Restart(delay=0.0))
    )
    assert sink.items == [n for n in range(30) if n % 2 and n != 7]
    assert [(letter.item, letter.failure_class, letter.attempt) for letter in letters] == [
        (7, "worker-died", 2)
    ]
    assert letters[0].origin is not None
    assert letters[0].origin.index == 7
    assert source.committed == {"a": 30}


def test_a_worker_that_may_not_be_started_again_ends_the_stream() -> None:
    crash = Settings(restart=Restart(times=0))
    with pytest.raises(StreamDied):
        Stream(range(10)).map(leaves, workers=1).to(Kept()).run(settings=crash)
    with pytest.raises(StreamFailed, match="I am off"):
        Stream(range(10)).map(leaves, workers=1).to(Kept()).run(settings=Settings(restart=Restart(delay=0.0)))


def test_tries_again_in_a_process_are_tries_of_the_one_item() -> None:
    stream = Stream([18, 19, 20]).map(deadly, on="process", retry=Retry(times=1, delay=0.0), on_error=Skip())
    assert list(stream) == [18, 20]


class Two(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self) -> Any:
        return refuse_to_be, ()


def refuse_to_be() -> None:
    raise TypeError("not here")


def two(number: int) -> int:
    raise Two("one", "other")


def test_errors_and_items_that_cannot_be_read_again_cost_their_item_only() -> None:
    sink, letters = Kept(), list[DeadLetter]()
    Stream([1]).map(two, on="process").to(sink).run(fail="soft", dead_letters=letters.append)
    assert [str(letter.error) for letter in letters] == ["Two: one"]
    letters.clear()
    stream = Stream([1, Unreadable(), 2]).map(repr, on="process")
    stream.to(sink).run(fail="soft", dead_letters=letters.append)
    assert sink.items == ["1", "2"]
    assert [str(letter.error) for letter in letters] == ["not here"]


def changed(array: bytearray) -> bytearray:
    array[0] = 7
    return array


def test_buffers_can_be_changed_there_and_here() -> None:
    (array,) = Stream([bytearray(1_000_000)]).map(changed, on="process")
    array[1] = 8
    assert array[:3] == b"\x07\x08\x00"


def test_a_long_path_for_temporary_files_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the workers of a project: no socket can lie there."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    config = multiprocessing.process.current_process()._config
    monkeypatch.delitem(config, "tempdir", raising=False)
    assert list(Stream(range(3)).map(double, on="process")) == [0, 2, 4]


def end_within(number: int) -> bytearray:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return bytearray(3_000_000)


def test_a_process_that_dies_among_large_results_costs_its_item_only() -> None:
    made = list(Stream(range(5)).map(end_within, workers=2, on="process", on_error=Skip()))
    assert [len(each) for each in made] == [3_000_000] * 4


def lengths(items: Any) -> int:
    return sum(len(each) for each in items)


def test_large_items_arrive_whatever_they_are() -> None:
    items = [[b"x" * 1_000_000], [bytearray(1_000_000), bytearray(), b""], ["y" * 300_000] * 3, []]
    assert list(Stream(items).map(lengths, on="process")) == [1_000_000, 1_000_000, 900_000, 0]


# Tables, and what is large


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": "x" * (number % 7)} for number in range(count)]


def dies_at_33(table: pa.Table) -> pa.Table:
    if 33 in table["id"].to_pylist():
        os.kill(os.getpid(), signal.SIGKILL)
    return table.append_column("by", pa.array([os.getpid()] * len(table)))


def test_tables_go_to_processes_and_come_back_in_order() -> None:
    source, sink, letters = Parts({"a": rows(100)}, sizes=[30]), Kept(), list[DeadLetter]()
    stream = Stream(source).map_batches(dies_at_33, 10, workers=2, on="process")
    last = stream.map_batches(whole, 25, of="polars", on="process").rows()
    last.to(sink).run(fail="soft", dead_letters=letters.append)
    assert [row["id"] for row in sink.items] == [n for n in range(100) if not 30 <= n < 40]
    assert os.getpid() not in {row["by"] for row in sink.items}
    assert [(letter.failure_class, letter.item.to_pylist()) for letter in letters] == [
        ("worker-died", rows(40)[30:])
    ]
    assert source.committed == {"a": 100}


def whole(frame: Any) -> Any:
    return frame


def even(number: int) -> bool:
    return number % 2 == 0


def twice(number: int) -> Iterator[int]:
    yield from (number, number)


def test_items_are_chosen_and_multiplied_in_processes() -> None:
    stream = Stream(range(8)).filter(even, workers=2, on="process").flat_map(twice, on="process")
    assert list(stream) == [0, 0, 2, 2, 4, 4, 6, 6]


def test_a_table_that_hangs_is_ended_after_its_timeout() -> None:
    terms: Any = {"of": "list", "on": "process", "timeout": 0.5, "on_error": Skip()}
    assert list(Stream(range(8)).map_batches(hang_over_five, 2, **terms)) == [0, 1, 2, 3, 6, 7]


def hang_over_five(numbers: list[int]) -> list[int]:
    return [hangs(number) for number in numbers]


REMEMBERED: list[tuple[int, Any]] = []


def remembers(array: Any) -> tuple[bool, Any]:
    """Keep each array, or a part of it, and say whether all that were kept are as they came."""
    REMEMBERED.append((int(array[0]), array if array[0] % 2 else array[1000:2000]))
    return all((kept == value).all() for value, kept in REMEMBERED), array


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:sidestage-stream")


@pytest.mark.skipif(sys.platform != "linux", reason="segments are files in memory of Linux")
def test_what_is_kept_of_large_arrays_stays_as_it_is_there_and_here() -> None:
    kept: list[tuple[int, Any]] = []
    items = (np.full(2_000_000, number, np.uint8) for number in range(1, 41))
    stream = Stream(items).map(remembers, on="process")
    for number, (is_right, array) in enumerate(stream, 1):
        assert is_right
        if number == 20:
            assert mappings()
        kept.append((number, array[7:500_000]))
        assert all((part == value).all() for value, part in kept)
        if number % 3:
            kept.pop(0)
    del array, kept[:], stream
    gc.collect()
    assert not mappings()


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")
def test_a_program_that_is_killed_leaves_no_process_with_its_memory(tmp_path: Path) -> None:
    program = (
        "import itertools, os, numpy as np\n"
        "from sidestage.stream import Stream\n"
        "from tests.integration.test_stream_processes import told\n"
        "items = (np.ones(2_000_000, np.uint8) for _ in itertools.count())\n"
        "for pid in Stream(items).map(told, on='process').map(lambda it: it[0]).map(int):\n"
        "    print(pid, flush=True)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        children = {int(running.stdout.readline()) for _ in range(3)}
    finally:
        running.kill()
        _, said = running.communicate()
    assert len(children) == 1
    until = time.monotonic() + 120
    while any(map(is_there, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_there, children))
    assert b"resource_tracker" not in said


def told(array: Any) -> tuple[int, Any]:
    return os.getpid(), array
