"""What a run has cost, what one will need, and which metrics it will have."""

import asyncio
import math
import time

import pytest
from tests.unit.stream.places import Kept

from sidestage.errors import DataError, DefinitionError
from sidestage.stream.observing.costs import cost, shown_seconds
from sidestage.stream.observing.exposition import exposition
from sidestage.stream.observing.metrics import Meter, StageCounts
from sidestage.stream.observing.scraping import scraped
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.stream import Stream


def counts(
    name: str, processed: int, seconds: float, workers: int = 1, cpu: float | None = None
) -> StageCounts:
    meter = Meter()
    meter.took(processed, seconds)
    return StageCounts(name, workers, 0, processed, 0, seconds, tuple(meter.buckets), cpu=cpu)


def burns(_number: int) -> int:
    """Uses the processor for five milliseconds."""
    until = time.thread_time() + 0.005
    while time.thread_time() < until:
        pass
    return 1


def waits(number: int) -> int:
    time.sleep(0.005)
    return number


def stage(ended: Ended, name: str) -> StageCounts:
    return next(each for each in ended.stages if each.name == name)


def test_a_cost_is_what_was_used_and_the_rest_is_plumbing() -> None:
    stages = (counts("decode", 1000, 3.0, cpu=1.0), counts("store", 10, 1.0), counts("none", 0, 0.0))
    spent = cost(Ended(complete=True, seconds=4.0, dead_letters=0, stages=stages, cpu=2.0, reading=0.5))
    assert [(each.wall, each.cpu) for each in spent.stages] == [(0.003, 0.001), (0.1, None), (0.0, None)]
    assert spent.plumbing == pytest.approx(0.5)
    assert spent.plumbing_share == pytest.approx(0.25)
    assert str(spent).splitlines() == [
        "stage       items  time/item  CPU/item     CPU",
        "(reading)                                  25%",
        "decode      1,000       3 ms      1 ms     50%",
        "store          10     100 ms         ?       ?",
        "none            0       0 ns         ?       ?",
        "(plumbing)                                 25%",
        "(all)                                   2.00 s",
    ]
    nothing = cost(Ended(complete=True, seconds=0.0, dead_letters=0, stages=(), cpu=0.0))
    assert nothing.plumbing_share == 0.0


def test_processor_time_is_told_apart_from_waiting_in_threads() -> None:
    stream = Stream(range(40), name="numbers").map(burns).map(waits).map(burns, name="again", workers=2)
    ended = stream.to(Kept(), name="kept").run(settings=Settings(chunk=1))
    spent = {each.name: each for each in cost(ended).stages}
    assert spent["burns"].cpu == pytest.approx(0.005, rel=0.5)
    assert spent["again"].cpu == pytest.approx(0.005, rel=0.5)
    waited = spent["waits"]
    assert waited.wall >= 0.005
    assert waited.cpu is not None
    assert waited.cpu < 0.0025
    assert ended.cpu >= 40 * 2 * 0.005
    assert cost(ended).plumbing_share < 0.5


def test_processor_time_of_processes_is_that_of_their_items() -> None:
    ended = Stream(range(20)).map(burns, on="process").to(Kept()).run()
    used = stage(ended, "burns").cpu
    assert used is not None
    assert 20 * 0.005 <= used < 20 * 0.02
    assert ended.cpu >= used


def test_coroutines_are_busy_while_they_have_an_item_and_use_the_processor_of_their_loop() -> None:
    async def idles(number: int) -> int:
        await asyncio.sleep(0.02)
        return number

    ended = Stream(range(40)).map(idles, workers=10).to(Kept()).run()
    idle = stage(ended, "idles")
    assert idle.seconds >= 40 * 0.02 * 0.99  # ten at a time, and each took its time
    assert idle.seconds_per_item >= 0.0198
    assert idle.cpu is not None
    assert 0 < idle.cpu < 0.4


def test_reading_is_told_apart_from_plumbing() -> None:
    class Source:
        name = "slow"

        def open(self, resume: object) -> "Source":
            self.left = 20
            return self

        def read(self, limit: int, wait: float) -> object:
            from sidestage.stream.contract import Batch

            burns(0)
            self.left -= 1
            return None if self.left < 0 else (Batch("all", self.left, [self.left], self.left + 1),)

        def stop(self) -> None: ...
        def commit(self, positions: object) -> None: ...
        def lost(self) -> tuple[str, ...]:
            return ()

        def close(self) -> None: ...

    ended = Stream(Source()).map(waits).to(Kept()).run()  # type: ignore[type-var, arg-type, var-annotated]
    assert ended.reading == pytest.approx(20 * 0.005, rel=0.5)


def test_durations_are_shown_as_people_write_them() -> None:
    assert [shown_seconds(each) for each in (0.0, 2.5e-8, 1e-6, 0.0015, 90.0, math.inf)] == [
        "0 ns", "25 ns", "1 us", "1.5 ms", "90 s", "inf s",
    ]  # fmt: skip


def flow_of_logs():  # type: ignore[no-untyped-def]
    logs = Stream(iter([""]), name="logs").map(str.split, name="decode").by_key(len, into=16)
    return logs.map(tuple, name="enrich", workers=4).batch(100, name="batch").to(Kept(), name="index")


def test_an_estimate_says_who_saturates_and_how_many_workers_are_enough() -> None:
    seconds = {"decode": 20e-6, "enrich": 1e-3, "batch": 1e-6, "index": 0.01}
    needs = flow_of_logs().estimate(
        8000, seconds=seconds, item_bytes=500, settings=Settings(chunk=100, buffer=400)
    )
    decode, enrich, store = needs.groups
    assert (decode.name, decode.workers, decode.buffer) == ("logs + decode + by_key", 1, 0)
    assert decode.busy == pytest.approx(0.16)
    assert (enrich.workers, enrich.busy, enrich.enough, enrich.buffer) == (4, pytest.approx(2.0), 10, 400)
    assert [each.rate for each in store.stages] == [8000, 80]
    assert store.busy == pytest.approx(0.808)
    assert (needs.saturates, needs.most_rate) == ("enrich", pytest.approx(4000))
    assert (needs.items, needs.memory) == (9 * 400 + 6 * 100, 4200 * 500)
    assert (needs.cores, needs.threads_cores) == (None, None)
    text = str(needs)
    assert text.startswith("At 8,000 items/s:\n")
    assert "enrich saturates first, at 4,000 items/s." in text
    assert "At most 4,200 items are under way: about 2.1 MB." in text
    assert needs.items == 4200  # as explain() says
    assert "at most 4,200 items" in flow_of_logs().explain(Settings(chunk=100, buffer=400))


def test_an_estimate_goes_by_what_was_measured_unless_something_else_is_declared() -> None:
    stream = (
        Stream(range(10), name="numbers").filter(bool, name="few").by_key(hash, into=2).map(abs, workers=2)
    )
    flow = stream.to(Kept(), name="kept")
    measured = [
        counts("few", 1000, 0.1, cpu=0.1),
        counts("abs", 100, 0.4, 2, cpu=0.2),
        counts("kept", 100, 0.1),
    ]
    needs = flow.estimate(5000, counts=measured)
    rates = {each.name: each.rate for group in needs.groups for each in group.stages}
    assert rates == {"numbers": 5000, "few": 5000, "by_key": 5000, "abs": 500, "kept": 500}
    assert needs.cores == pytest.approx(5000 * 1e-4 + 500 * 2e-3)
    assert "Python code in threads needs 1.50 cores" in str(needs)
    other = flow.estimate(5000, counts=measured, seconds={"abs": 0.1})
    assert other.saturates == "abs"
    assert flow.estimate(1).saturates == ""
    assert flow.estimate(1).most_rate == math.inf


@pytest.mark.parametrize(
    ("rate", "seconds", "said"),
    [
        (0, {}, "makes no sense"),
        (math.nan, {}, "makes no sense"),
        (1, {"decode": -1.0}, "makes no sense"),
        (1, {"decod": 1.0}, "There is no stage 'decod' in this flow. Its stages: batch, by_key, decode"),
    ],
)
def test_an_estimate_refuses_what_makes_no_sense(rate: float, seconds: dict[str, float], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        flow_of_logs().estimate(rate, seconds=seconds)


def test_the_metrics_are_known_before_a_run_and_are_those_it_has() -> None:
    flow = Stream([1, 2], name="numbers").map(abs, name='a"b').to(Kept(), name="kept")
    view = flow.metrics_view()
    assert '    {stage="a\\"b"}' in view.splitlines()
    assert (
        'pipeline_source_lag_seconds (gauge): Age of the oldest items under way.\n    {source="numbers"}'
        in view
    )
    engine = flow.engine()
    engine.run()
    named = {line.split()[2] for line in engine.metrics().splitlines() if line.startswith("# TYPE")}
    assert named == {line.split()[0] for line in view.splitlines() if not line.startswith(" ")}
    assert 'pipeline_source_lag_seconds{source="numbers"} 0.0' in engine.metrics()
    assert "kept" in engine.advice() or 'a"b' in engine.advice()


def test_metrics_are_read_back_as_they_were_written() -> None:
    stages = (counts('a "b"\n\\', 7, 0.05, 3, cpu=0.25), counts("c", 0, 0.0))
    found = scraped(exposition(stages, {"s": 1.5}))
    assert found.stages == stages
    assert found.lags == {"s": 1.5}
    with pytest.raises(DataError, match="not the metrics of a stream"):
        scraped('# HELP x y\nx{stage="a"} 1\nprocess_cpu 3\n')
    broken = scraped('pipeline_stage_processed_total{stage="a"} 4\npipeline_stage_workers{stage="a"} many\n')
    assert (broken.stages[0].processed, broken.stages[0].workers) == (4, 1)


def test_the_age_of_the_oldest_items_under_way_is_told() -> None:
    import threading

    there, go_on = threading.Event(), threading.Event()

    def stops(number: int) -> int:
        there.set()
        assert go_on.wait(120)
        return number

    engine = Stream([1], name="numbers").map(stops, workers=1).to(Kept()).engine()
    engine.start()
    assert there.wait(120)
    first = engine.lags()["numbers"]
    while engine.lags()["numbers"] <= first:
        time.sleep(0.001)
    go_on.set()
    engine.join()
    assert engine.lags() == {"numbers": 0.0}
