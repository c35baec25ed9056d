"""Windows over several sources: one that is late to begin, one that ends early, one that is only drained."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sidestage.stream import Checkpoint, Collected, EventTime, Settings, Stream, WindowPlan, count, tumbling

PATIENT = 60.0
QUICK = Settings(chunk=8, commit_every=0.01)


class Seen(NamedTuple):
    source: str
    at: int


class Gate:
    """Opens when a thread says so; who waits for it gives up at last."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self, *_given: Any) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(PATIENT), "it never opened"


def seen(source: str, begin: int, end: int) -> Iterator[Seen]:
    return (Seen(source, at) for at in range(begin, end))


def windowed(*streams: Stream[Seen], workers: int = 1, passed: Any = lambda item: item) -> Any:
    """Count what streams give in windows of ten; ``passed`` is called with each item that comes there."""
    first, *others = streams
    merged = first.merge(*others)
    if workers > 1:
        merged = merged.by_key(lambda item: item.at % 4, into=4)
    plan = WindowPlan(
        windows=tumbling(10),
        aggregate=count(),
        key=lambda item: item.at % 4,
        time=EventTime(at=lambda item: item.at),
    )
    return merged.map(passed, workers=workers).window(plan)


def totals(results: Any) -> dict[int, int]:
    found: dict[int, int] = {}
    for each in results:
        found[int(each.start)] = found.get(int(each.start), 0) + each.value
    return found


def slow(gate: Gate) -> Iterator[Seen]:
    gate.wait()
    yield from seen("slow", 0, 200)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_is_yet_to_come_holds_windows_back(workers: int) -> None:
    gate, kept = Gate(), Collected[Any]()

    def passed(item: Seen) -> Seen:
        if item == Seen("fast", 199):
            gate.open()
        return item

    stream = windowed(Stream(seen("fast", 0, 200)), Stream(slow(gate)), workers=workers, passed=passed)
    stream.to(kept).run(settings=QUICK)

    assert totals(kept.items) == dict.fromkeys(range(0, 200, 10), 20)


def test_a_source_that_is_over_holds_nobody_back() -> None:
    gate = Gate()
    found: list[Any] = []

    def wanted() -> Iterator[Seen]:
        yield from seen("long", 0, 100)
        gate.wait()  # until all windows but the last are there

    def note(result: Any) -> Any:
        found.append(result)
        if result.start == 80:
            gate.open()
        return result

    stream = windowed(Stream(seen("short", 0, 5)), Stream(wanted()))
    stream.map(note).to(Collected()).run(settings=QUICK)

    assert totals(found) == {0: 15} | dict.fromkeys(range(10, 100, 10), 10)


def test_a_source_of_which_nothing_ever_comes_is_over_in_the_end() -> None:
    gate = Gate()

    def wanted() -> Iterator[Seen]:
        yield from seen("long", 0, 100)
        gate.wait()

    def note(result: Any) -> Any:
        if result.start == 80:
            gate.open()
        return result

    kept = Collected[Any]()
    nothing = Stream(seen("nothing", 0, 50)).filter(lambda _item: False)
    windowed(nothing, Stream(wanted())).map(note).to(kept).run(settings=QUICK)

    assert totals(kept.items) == dict.fromkeys(range(0, 100, 10), 10)


def test_a_source_that_was_drained_is_not_over(tmp_path: Path) -> None:
    path, kept = tmp_path / "checkpoint", Collected[Any]()
    counted = threading.Semaphore(0)

    def passed(item: Seen) -> Seen:
        counted.release()
        return item

    def halting(source: str, at: int, gate: Gate) -> Iterator[Seen]:
        yield from seen(source, 0, at)
        gate.wait()
        yield from seen(source, at, 100)

    first, then = Gate(), Gate()
    flow = windowed(Stream(halting("behind", 5, first)), Stream(halting("ahead", 95, then)), passed=passed)
    engine = flow.to(kept).engine(checkpoint=Checkpoint(path), settings=QUICK)
    engine.start()
    for _ in range(100):
        assert counted.acquire(timeout=PATIENT)
    engine.drain()
    first.open()
    time.sleep(0.5)  # long enough for windows to be given out, if the one that ended held nobody back
    then.open()
    engine.join()
    whole = windowed(Stream(seen("behind", 0, 100)), Stream(seen("ahead", 0, 100)))
    whole.to(kept).run(checkpoint=Checkpoint(path), settings=QUICK)

    assert totals(kept.items) == dict.fromkeys(range(0, 100, 10), 20)
