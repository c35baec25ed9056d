"""The stream benchmark counts right: what is not right is told, and what is told is what was measured."""

import json
import random

import pytest
from benchmarks.stream.__main__ import chosen
from benchmarks.stream.engines import CASES, ENGINES, REFERENCE, Engine
from benchmarks.stream.events import CACHE, HOT, PARTITIONS, account_of, line, users
from benchmarks.stream.figures import (
    LEADING,
    Measurement,
    expected_total,
    figures_of,
    per_hop,
    percentile,
    summed_up,
    wrong,
)
from benchmarks.stream.memory import flatness
from benchmarks.stream.plain_cases import LAYOUTS, add_up, add_up_in_tasks
from benchmarks.stream.program import compared, loop
from benchmarks.stream.report import COLUMNS, markdown


def engine(name, title="An engine", note=""):
    return Engine(
        name=name, title=title, program="plain", variant="map", sizes={}, environment="plain", note=note
    )


def plumbing(name, hop, size=1000, error=""):
    figures = {} if error else {"hop": hop, "processor": hop, "rate": 1.0, "plain": 50.0}
    return Measurement("plumbing", name, size, figures, 0.0, error)


def test_a_hop_costs_what_the_calls_alone_do_not():
    assert per_hop(seconds=1.5, plain_seconds=0.25, items=1_000_000) == pytest.approx(250)


def test_figures_of_plumbing_are_nanoseconds_per_item_and_hop():
    answer = {
        "size": 1000,
        "seconds": 0.002,
        "plain_seconds": 0.001,
        "processor": 0.004,
        "plain_processor": 0.001,
    }
    assert figures_of("plumbing", answer) == pytest.approx(
        {"hop": 200, "processor": 600, "rate": 500_000, "plain": 200}
    )


def test_figures_of_the_other_shapes():
    enriched = {"size": 1000, "seconds": 0.5, "processor": 0.75, "hits": 0.95}
    assert figures_of("enrichment", enriched) == pytest.approx({"rate": 2000, "processor": 750, "hits": 95})
    worked = {"size": 10, "seconds": 2.0, "processor": 4.0, "plain_seconds": 3.8, "start": 0.02}
    assert figures_of("cores", worked | {"first_start": 0.2}) == pytest.approx(
        {"alone": 3.8, "together": 2.0, "speedup": 1.9, "start": 20, "first_start": 200}
    )
    waited = {"waits": [number * 1e-6 for number in range(1, 201)]}
    assert figures_of("latency", waited) == pytest.approx({"p50": 100, "p99": 198})


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (0, 1), (0.5, 1)])
def test_a_percentile_is_one_of_the_values(percent, value):
    values = random.Random(1).sample(range(1, 101), 100)
    assert percentile(values, percent) == value
    assert percentile([7], percent) == 7


@pytest.mark.parametrize("items", [0, 1, 2, 500])
def test_the_sum_that_is_expected_is_that_of_the_loop_and_of_every_plain_layout(items):
    assert loop(items) == expected_total(items)
    for layout in LAYOUTS.values():
        assert add_up(layout, items) == expected_total(items)
    assert add_up_in_tasks(items) == expected_total(items)


def test_a_program_that_adds_up_wrongly_does_not_answer():
    with pytest.raises(AssertionError, match="the sum is 5, not"):
        compared(lambda _: 5, loop, 10)


@pytest.mark.parametrize(
    ("case", "answer", "told"),
    [
        ("plumbing", {"total": expected_total(9)}, ""),
        ("plumbing", {"total": 1}, "the sum is 1, not 72"),
        ("memory", {"total": 71}, "the sum is 71, not 72"),
        ("latency", {"waits": [0.1] * 9}, ""),
        ("latency", {"waits": [0.1] * 8}, "the number of items is 8, not 9"),
        ("enrichment", {"events": 9, "total": 33, "hits": 0.95}, ""),
        ("enrichment", {"events": 8, "total": 33, "hits": 0.95}, "the number of events is 8, not 9"),
        ("enrichment", {"events": 9, "total": 32, "hits": 0.95}, "the sum is 32, not 33"),
        ("enrichment", {"events": 9, "total": 33, "hits": 1.0}, "100.0% of the users were found in a cache"),
        ("plumbing", {"total": 72, "size": 10}, "it answers another question"),
    ],
)
def test_what_is_not_right_is_told(case, answer, told):
    assert wrong(case, {"case": case, "size": 9, **answer}, 9, events_total=33) == told


def test_rows_hold_medians_the_range_and_the_ratio_to_go_and_come_best_first():
    engines = [engine("slow", note="slowly"), engine(REFERENCE), engine("wrong"), engine("not run")]
    found = [
        *(plumbing("slow", hop) for hop in (900.0, 500.0, 600.0)),
        *(plumbing(REFERENCE, hop) for hop in (200.0, 300.0)),
        plumbing("wrong", 0.0, error="the sum is 1, not 2"),
    ]
    first, second, last = summed_up(engines, found, "plumbing")
    assert (first.engine, second.engine, last.engine) == (REFERENCE, "slow", "wrong")
    assert (first.figures["hop"], first.figures["ratio"], first.repeats) == (250.0, 1.0, 2)
    assert second.figures["hop"] == 600.0
    assert (second.figures["low"], second.figures["high"], second.figures["ratio"]) == (500.0, 900.0, 2.4)
    assert (last.figures, last.repeats, last.note) == ({}, 0, "failed: the sum is 1, not 2")
    text = markdown(engines, found, ["a machine"])
    assert "| An engine | 600 | 500 | 900 | 600 | 2.40 | 1.00 | 50.0 | 1,000 | 3 | slowly |" in text
    assert "| An engine | - | - | - | - | - | - | - | 1,000 | 0 | failed: the sum is 1, not 2 |" in text


def test_more_events_per_second_are_better():
    engines = [engine("slow"), engine("failed"), engine("fast")]
    rates = {"slow": 1.0, "fast": 2.0}
    found = [
        Measurement("enrichment", each, 9, {"rate": rate, "processor": 1.0, "hits": 95.0}, 0.0)
        for each, rate in rates.items()
    ]
    found.append(Measurement("enrichment", "failed", 9, {}, 0.0, "status 1"))
    assert [row.engine for row in summed_up(engines, found, "enrichment")] == ["fast", "slow", "failed"]


def test_memory_that_grows_is_seen_and_memory_at_the_start_is_not_counted():
    flat = [1.0, 5.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0]
    assert flatness(flat) == {"early": 20.0, "late": 20.0, "peak": 20.0, "growth": 0.0}
    growing = [float(number) for number in range(100)]
    assert flatness(growing) == pytest.approx(
        {"early": 29.5, "late": 89.5, "peak": 99, "growth": 203.39}, 1e-4
    )
    assert flatness([3.0])["growth"] == 0.0


def test_events_come_mostly_from_users_who_fill_the_caches_last():
    filling, measured = users(2000)
    assert len(filling) == len({*filling}) == PARTITIONS * CACHE
    hot = {*filling[-HOT:]}
    assert sum(user in hot for user in measured) / 2000 == pytest.approx(0.95, abs=0.015)
    assert not {*measured} & {*filling[:-HOT]}


def test_an_event_is_about_240_bytes_of_json_that_name_its_user():
    event = line(123_456, "user-00000007")
    assert event.endswith(b"}\n")
    assert json.loads(event)["user"] == "user-00000007"
    assert 230 <= len(event) <= 250
    assert account_of("user-00000007") == 7 * 7919


def test_every_engine_has_a_name_of_its_own_and_a_table_for_each_of_its_cases():
    assert len({each.name for each in ENGINES}) == len(ENGINES)
    assert {case for each in ENGINES for case in each.sizes} == {*CASES}
    assert all(LEADING[case] in COLUMNS[case] for case in CASES)
    assert REFERENCE in {each.name for each in ENGINES}


def test_engines_are_chosen_by_the_first_words_of_their_names():
    names = ["go-select-16", "go-select-0", "plain-map"]
    assert [name for name in names if chosen(name, None)] == names
    assert [name for name in names if chosen(name, ["go"])] == names[:2]
    assert [name for name in names if chosen(name, ["go-select-1", "plain-map"])] == ["plain-map"]
