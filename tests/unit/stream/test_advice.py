"""What counts say, and how they are written for others."""

import math

import pytest
from tests.unit.stream.places import Kept

from sidestage.stream.observing.advice import advice, bottleneck, buffer_for, loads, quantile
from sidestage.stream.observing.exposition import exposition
from sidestage.stream.observing.metrics import BOUNDS, Meter, StageCounts, add_up
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream


def counts(name: str, workers: int, processed: int, seconds: float, **more: int) -> StageCounts:
    meter = Meter()
    meter.took(processed, seconds)
    pending, errors = more.get("pending", 0), more.get("errors", 0)
    return StageCounts(name, workers, pending, processed, errors, seconds, tuple(meter.buckets))


def test_the_stage_that_could_do_least_is_named_with_what_would_balance_it() -> None:
    stages = [counts("decode", 1, 1000, 6.0), counts("enrich", 4, 1000, 39.2), counts("store", 1, 1000, 2.0)]
    assert advice(stages, 10.0) == "enrich is the bottleneck: 4 workers 98% busy; 7 would balance."
    found = bottleneck(stages, 10.0)
    assert found is not None
    assert found[0].per_second == pytest.approx(4 / 0.0392)
    assert [round(load.busy, 2) for load in loads(stages, 10.0)] == [0.6, 0.98, 0.2]
    fast = [counts("slow", 2, 10, 10.0), counts("fast", 1, 10, 0.001)]
    assert advice(fast, 10.0) == "slow is the bottleneck: 2 workers 50% busy; more would help."
    idle = [counts("slow", 1, 100, 0.3), counts("fast", 1, 100, 0.1)]
    assert advice(idle, 10.0) == "No stage holds the others up: slow is 3% busy; the source sets the pace."
    assert advice([counts("only", 1, 10, 1.0)], 2.0) == "only is the bottleneck: 1 worker 50% busy."
    assert advice([], 1.0) == advice([counts("idle", 1, 0, 0.0)], 1.0) == "Nothing has been done yet."


def test_buffers_follow_the_unevenness_of_a_stage() -> None:
    meter = Meter()
    assert buffer_for(counts("even", 1, 1000, 1.0)) == 4
    for _ in range(97):
        meter.took(1, 0.0009)
    for _ in range(3):
        meter.took(1, 0.02)
    uneven = StageCounts("uneven", 1, 0, 100, 0, 1.0, tuple(meter.buckets))
    assert quantile(uneven.buckets, 0.5) == pytest.approx(0.001)
    assert quantile(uneven.buckets, 0.99) == pytest.approx(0.025)
    assert buffer_for(uneven) == 50
    assert buffer_for(counts("nothing", 1, 0, 0.0)) == 4


def test_meters_add_up() -> None:
    one, other = Meter(), Meter()
    one.took(3, 0.3)
    other.took(1, 1e9)
    other.took(0, 5.0)
    total = add_up([one, other])
    assert (total.processed, total.seconds, sum(total.buckets), total.buckets[-1]) == (4, 1e9 + 0.3, 4, 1)
    assert list(BOUNDS) == sorted(BOUNDS)
    assert quantile(total.buckets, 1.0) == math.inf


def test_the_exposition_has_the_names_that_dashboards_know() -> None:
    text = exposition([counts('a "b"\n', 1, 5, 0.005, pending=25, errors=2)])
    lines = text.splitlines()
    assert 'pipeline_stage_in_pending{stage="a \\"b\\"\\n"} 25' in lines
    assert 'pipeline_stage_processed_total{stage="a \\"b\\"\\n"} 5' in lines
    assert 'pipeline_stage_errors_total{stage="a \\"b\\"\\n"} 2' in lines
    assert "# TYPE pipeline_stage_duration_seconds histogram" in lines
    assert 'pipeline_stage_duration_seconds_bucket{stage="a \\"b\\"\\n",le="0.001"} 5' in lines
    assert 'pipeline_stage_duration_seconds_bucket{stage="a \\"b\\"\\n",le="0.0005"} 0' in lines
    assert 'pipeline_stage_duration_seconds_count{stage="a \\"b\\"\\n"} 5' in lines


async def soon(number: int) -> int:
    return number


def test_a_description_is_drawn_without_being_run() -> None:
    stream = Stream(iter([1]), name="clicks").map(str, name="decode").by_key(len, into=16)
    stream = stream.map(len, name="enrich", workers=4).map(soon, workers=100).batch(1000, within=5.0)
    assert stream.to(Kept()).explain(Settings(chunk=100, buffer=2000)).splitlines() == [
        "clicks + decode + by_key [into 16]  (1 thread)",
        "by_key --[400 lines, 8,000 items]--> enrich  (4 threads, in order by key)",
        "enrich --[400 lines, 2,000 items]--> soon  (1 thread, up to 100 at once, in order by key)",
        "soon --[2,000 items]--> batch [1,000 within 5 s] + > kept  (1 thread)",
        "7 threads; at most 32,600 items under way, and what batches and windows hold",
    ]
