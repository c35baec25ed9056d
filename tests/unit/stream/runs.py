"""Runs of drawn stages: stopped at some moment, watched for hanging, and searched for what they leave behind."""

import faulthandler
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from tests.unit.stream.places import Kept, Parts
from tests.unit.stream.stages import QUICK, Stage
from tests.unit.stream.test_transactions import Ledger

from sidestage.errors import StreamFailed
from sidestage.policy.surge import Surge
from sidestage.stream import Ended, Flow, Settings, Stream, TransactionLost
from sidestage.stream.engine import Engine
from sidestage.stream.failing import StreamDied

SECONDS = 60.0
"""After which a run is said to hang."""


def numbers(count: int, first: int, step: int) -> list[int]:
    return [(first + number * step) % 1001 for number in range(count)]


several = st.builds(numbers, st.integers(0, 150), st.integers(0, 1000), st.integers(1, 100))
parts = st.dictionaries(st.sampled_from("ab"), several, min_size=1, max_size=2)
sizes = st.lists(st.integers(1, 30), min_size=1, max_size=3)
terms = st.builds(
    Settings,
    chunk=st.integers(1, 40),
    buffer=st.one_of(st.integers(1, 80), st.just("auto")),
    commit_every=st.sampled_from([0.0, 0.0, 0.01, 10.0]),
    trace=st.sampled_from([0.0, 0.0, 1.0]),
    surge=st.sampled_from([None, Surge()]),
    memory=st.sampled_from([None, None, "20 kB", "1 MB"]),
    restart=st.just(QUICK),
)


def threads_left(before: set[threading.Thread]) -> list[threading.Thread]:
    left = [each for each in threading.enumerate() if each not in before]
    for each in left:
        each.join(120)
    return [each for each in left if each.is_alive()]


@contextmanager
def nothing_left() -> Iterator[str]:
    """Give a folder for temporary files, and see to it that neither those nor threads are left behind."""
    before = set(threading.enumerate())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setattr(os, "fsync", lambda _file: None)  # which is most of the time, and tested elsewhere
        yield folder
        assert threads_left(before) == []
        assert list(Path(folder).iterdir()) == []


class Moment:
    """After so many calls of sources and sinks, tells the engine to do something."""

    def __init__(self, after: int, what: str) -> None:
        self._left = after
        self._what = what
        self.engine: Engine | None = None
        self.has_come = False

    def tick(self) -> None:
        self._left -= 1
        engine = self.engine
        if self._left <= 0 and engine is not None and not self.has_come:
            self.has_come = True
            if self._what == "crash":
                raise StreamFailed("it was told to crash")
            if self._what == "interruption":
                raise KeyboardInterrupt
            self.act(engine)

    def act(self, engine: Engine) -> None:
        getattr(engine, self._what)()


class Ticking(Parts):
    """A source that counts its commits, and checks nothing else."""

    def __init__(self, parts: Mapping[str, Any], sizes: Sequence[int], moment: Moment | None = None) -> None:
        super().__init__(parts, sizes)
        self.moment = moment

    def open(self, resume: Any) -> Any:
        reader = super().open(resume)
        read = reader.read

        def ticking(limit: int, wait: float) -> Any:
            if self.moment is not None:
                self.moment.tick()
            return read(limit, wait)

        reader.read = ticking  # type: ignore[method-assign]
        return reader


class TickingKept(Kept):
    moment: Moment | None = None

    def write(self, items: Sequence[Any]) -> None:
        if self.moment is not None:
            self.moment.tick()
        super().write(items)


def finished(flow: Flow, given: dict[str, Any], moment: Moment | None = None) -> Ended | None:
    """Run a flow to its end, with as many engines as transactions are lost; say where it hangs."""
    for _ in range(1000):
        engine = flow.engine(**given)
        if moment is not None:
            moment.engine = engine
        try:
            engine.start()
            if not engine.wait(SECONDS):
                faulthandler.dump_traceback(all_threads=True)
                engine.cancel()
                pytest.fail("it hangs")
            ended = engine.join()
        except TransactionLost:
            assert engine.wait(SECONDS)
            continue
        except (StreamFailed, StreamDied):
            assert moment is not None
            assert moment.has_come
            assert engine.wait(SECONDS)
            return None
        if ended.memory is not None:
            assert not ended.complete or ended.memory.used == 0
        return ended
    pytest.fail("it never ends")


def built(source: Any, chosen: list[Stage]) -> Stream[Any]:
    return extended(Stream(source), chosen)


def extended(stream: Stream[Any], chosen: list[Stage]) -> Stream[Any]:
    for _, build, _ in chosen:
        stream = build(stream)
    return stream


def wanted(items: Mapping[str, list[int]], chosen: list[Stage]) -> Counter[int]:
    numbers = [number for some in items.values() for number in some]
    for _, _, model in chosen:
        numbers = model(numbers)
    return Counter(numbers)


def roomy(given: Settings, chosen: list[Stage]) -> Settings:
    """Return settings with memory for all windows, joins and tables: they refuse what they have no room for."""
    keeps = any(name.startswith(("window", "join")) for name, _, _ in chosen)
    return msgspec.structs.replace(given, memory="64 MB") if keeps and given.memory else given


def told(chosen: list[Stage]) -> str:
    return " | ".join(name for name, _, _ in chosen)


class TickingLedger(Ledger):
    moment: Moment | None = None

    def fate(self) -> str:
        if self.moment is not None:
            self.moment.tick()
        return super().fate()
