"""Every item has a trace id, which its dead letter, its span and its error share; some chunks are traced."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.stream.places import Kept, Parts

from sidestage.errors import DefinitionError, StreamFailed
from sidestage.policy.rate import Rate
from sidestage.stream.failing import DeadLetter, SetAside
from sidestage.stream.letters.file import LetterFile, read_letters
from sidestage.stream.observing.traces import is_sampled, trace_id
from sidestage.stream.operators import MOST_AT_ONCE
from sidestage.stream.places.sinks import Collected
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream
from sidestage.stream.windows.aggregates import count
from sidestage.stream.windows.plan import WindowPlan, tumbling
from sidestage.stream.windows.watermarks import EventTime

ALL = Settings(trace=1.0, chunk=10)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def identity(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


def fails_on_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def slowly(number: int) -> int:
    return number + 1


async def soon(number: int) -> int:
    return number * 2


@given(st.text(), st.text(), st.integers() | st.text(), st.integers(0, 10**6))
def test_an_id_is_the_same_for_the_same_place_and_no_other(
    source: str, part: str, position: int | str, index: int
) -> None:
    one = trace_id(source, part, position, index)
    assert one == trace_id(source, part, position, index)
    assert len(one) == 32
    assert int(one, 16) > 0
    others = {
        trace_id(source + "x", part, position, index),
        trace_id(source, part + "x", position, index),
        trace_id(source, part, position, index + 1),
        trace_id(source, part, position, None),
    }
    assert one not in others
    assert len(others) == 4


def test_an_id_never_changes_with_a_release() -> None:
    assert trace_id("clicks", "topic/3", 100, None) == "df4feb801ea88d1f7c9e5e80c6f7f73c"


def test_a_share_of_ids_is_sampled() -> None:
    ids = [trace_id("s", "p", number, None) for number in range(20_000)]
    assert 0.09 < sum(is_sampled(each, 0.1) for each in ids) / len(ids) < 0.11
    assert all(is_sampled(each, 1.0) for each in ids)
    assert not any(is_sampled(each, 0.0) for each in ids)
    assert all(is_sampled(each, 0.5) for each in ids if is_sampled(each, 0.1))


def letters_of(sizes: Sequence[int]) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    stream = Stream(Parts({"a": range(100, 120)}, sizes)).filter(lambda n: n != 103).map(lambda n: n + n)
    failing = stream.map(lambda n: [n, n // (n - 214)], on_error=SetAside())
    failing.to(Kept()).run(dead_letters=letters.append)
    return letters


def test_an_item_has_the_same_id_in_whatever_batch_it_is_read() -> None:
    (one,), (other,) = letters_of([20]), letters_of([3])
    assert (one.item, other.item) == (214, 214)
    assert one.origin != other.origin
    assert one.trace == other.trace == trace_id("parts", "a", 7, None)


def test_an_error_that_ends_a_stream_tells_the_id() -> None:
    with pytest.raises(StreamFailed, match=trace_id("parts", "a", 7, None)):
        Stream(Parts({"a": range(10)})).map(fails_on_seven).to(Kept()).run()


def test_what_was_put_together_has_no_id() -> None:
    letters: list[DeadLetter] = []
    stream = Stream(Parts({"a": range(4)}, [2])).batch(4).map(lambda _: 1 // 0, on_error=SetAside())
    stream.to(Kept()).run(dead_letters=letters.append)
    assert [(letter.item, letter.trace) for letter in letters] == [([0, 1, 2, 3], None)]


def test_letters_tell_the_key_as_long_as_it_is_the_items_own(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    keyed = Stream([(b"x", 0), ("u", 1), (("t", 1), 2)]).by_key(lambda pair: pair[0]).filter(lambda _: True)
    bad = keyed.map(lambda pair: 1 // (pair[1] - pair[1]), name="first", workers=2)
    with LetterFile(path) as letters:
        bad.to(Kept()).run(fail="soft", dead_letters=letters)
    stored = {letter.shown: letter.key for letter in read_letters(path)}
    assert stored == {"(b'x', 0)": "b'x'", "('u', 1)": "u", "(('t', 1), 2)": "('t', 1)"}
    assert {letter.trace for letter in read_letters(path)} == {
        trace_id("list", "all", number, None) for number in range(3)
    }
    after: list[DeadLetter] = []
    other = keyed.map(lambda pair: pair[1]).map(lambda _: 1 // 0, name="later")
    other.to(Kept()).run(fail="soft", dead_letters=after.append)
    assert [letter.key for letter in after] == [None] * 3


def test_letters_of_windows_tell_the_key_of_the_window() -> None:
    letters: list[DeadLetter] = []
    plan = WindowPlan(
        windows=tumbling(60), aggregate=count(), key=lambda it: it[1], time=EventTime(at=lambda it: it[0])
    )
    stream = Stream([(1, "eu"), (2, "us")]).window(plan).map(lambda _: 1 // 0, name="late")
    stream.to(Kept()).run(fail="soft", dead_letters=letters.append)
    assert sorted(letter.key for letter in letters) == ["eu", "us"]


def test_letters_written_by_earlier_releases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    path.write_text(
        '{"at":"2026-01-02T03:04:05Z","stage":"decode","failure_class":"bug","error":"ValueError","message":"no",'
        '"attempt":1,"origin":{"part":"a","first":0,"index":1},"shown":"1","item":1,"pickled":null,'
        '"is_replayable":true}\n'
    )
    (letter,) = read_letters(path)
    assert (letter.value(), letter.trace, letter.key) == (1, None, None)


def test_a_chunk_is_traced_through_stages_threads_processes_and_coroutines(
    spans: InMemorySpanExporter,
) -> None:
    out = Kept()
    stream = Stream(range(3), name="numbers").map(slowly).map(soon, workers=2).map(abs, workers=2)
    stream.map(slowly, name="apart", on="process").to(out, name="store").run(settings=ALL)
    assert out.items == [3, 5, 7]
    found = by_name(spans)
    assert {name: len(each) for name, each in found.items()} == {
        "numbers": 1, "slowly": 1, "soon": 1, "abs": 1, "apart": 1, "store": 1,
    }  # fmt: skip
    (root,) = found["numbers"]
    assert identity(root)[0] == int(trace_id("numbers", "all", 0, None), 16)
    assert dict(root.attributes or {}) == {
        "sidestage.source": "numbers", "sidestage.part": "all", "sidestage.position": 0, "sidestage.items": 3,
    }  # fmt: skip
    before = root
    for name in ("slowly", "soon", "abs", "apart", "store"):
        (span,) = found[name]
        assert parent(span) == identity(before)
        assert dict(span.attributes or {}) == {"sidestage.stage": name, "sidestage.items": 3}
        assert span.start_time is not None
        assert span.end_time is not None
        assert root.end_time is not None
        assert span.start_time <= span.end_time <= root.end_time
        before = span


def test_nothing_is_traced_at_share_zero_and_only_sampled_chunks_else(spans: InMemorySpanExporter) -> None:
    stream = Stream(range(1000), name="numbers").map(slowly)
    stream.to(Kept()).run(settings=Settings(chunk=1))
    assert spans.get_finished_spans() == ()
    stream.to(Kept()).run(settings=Settings(chunk=1, trace=0.1))
    traced = {identity(span)[0] for span in by_name(spans)["numbers"]}
    ids = [trace_id("numbers", "all", number, None) for number in range(1000)]
    assert traced == {int(each, 16) for each in ids if is_sampled(each, 0.1)}


def test_branches_are_traced_apart(spans: InMemorySpanExporter) -> None:
    stream = Stream(range(3), name="numbers")
    one = stream.map(slowly, name="left").to(Kept(), name="one")
    two = stream.map(slowly, name="right").to(Kept(), name="two")
    one.also(two).run(settings=ALL)
    found = by_name(spans)
    root = found["numbers"][0]
    assert parent(found["left"][0]) == parent(found["right"][0]) == identity(root)
    assert parent(found["one"][0]) == identity(found["left"][0])
    assert parent(found["two"][0]) == identity(found["right"][0])


def test_parts_by_key_keep_the_trace_and_tell_the_key_of_a_single_item(spans: InMemorySpanExporter) -> None:
    stream = Stream([1, 2], name="numbers").by_key(lambda n: n, into=2).map(slowly, workers=2)
    stream.to(Kept()).run(settings=ALL)
    found = by_name(spans)
    assert {(span.attributes or {}).get("sidestage.key") for span in found["slowly"]} == {"1", "2"}
    assert {parent(span) for span in found["slowly"]} == {identity(found["by_key"][0])}


def test_a_batch_goes_on_with_one_trace_and_links_to_the_others(spans: InMemorySpanExporter) -> None:
    stream = Stream(Parts({"a": range(9)}, [3])).batch(9).map(len)
    stream.to(Kept()).run(settings=ALL)
    found = by_name(spans)
    assert len(found["parts"]) == len(found["batch"]) == 3
    (after,) = found["len"]
    batches = [identity(span) for span in found["batch"]]
    assert parent(after) == batches[0]
    assert [(link.context.trace_id, link.context.span_id) for link in after.links] == batches[1:]


def test_a_batch_that_was_held_back_is_traced_at_the_end(spans: InMemorySpanExporter) -> None:
    Stream(Parts({"a": range(5)}, [5])).map(slowly).batch(100).map(len).to(Kept()).run(settings=ALL)
    found = by_name(spans)
    assert parent(found["len"][0]) == identity(found["batch"][0])
    assert parent(found["batch"][0]) == identity(found["slowly"][0])


def test_failures_are_noted_by_the_id_of_their_item(spans: InMemorySpanExporter) -> None:
    letters: list[DeadLetter] = []
    stream = Stream(range(10), name="numbers").map(fails_on_seven)
    stream.to(Kept()).run(fail="soft", dead_letters=letters.append, settings=ALL)
    (event,) = by_name(spans)["numbers"][0].events
    assert dict(event.attributes or {}) == {
        "sidestage.stage": "fails_on_seven", "sidestage.trace": letters[0].trace, "sidestage.failure_class": "bug",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("came_with", "links"),
    [
        (
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            [(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)],
        ),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", []),
        ("nonsense", []),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01", []),
        (None, []),
    ],
)
def test_a_trace_that_an_item_came_with_is_linked(
    spans: InMemorySpanExporter, came_with: str | None, links: list[tuple[int, int]]
) -> None:
    Stream([(came_with, 1)], name="headers", trace=lambda item: item[0]).to(Kept()).run(settings=ALL)
    (root,) = by_name(spans)["headers"]
    assert [(link.context.trace_id, link.context.span_id) for link in root.links] == links


def test_a_missing_extra_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    flow = Stream([1]).to(Collected())
    with pytest.raises(
        DefinitionError, match=r"opentelemetry-api is not installed.*sidestage\[opentelemetry\]"
    ):
        flow.run(settings=ALL)
    flow.run()


def test_shares_are_checked() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(DefinitionError):
            Settings(trace=share)


def test_events_are_logged_by_kind_and_never_with_items(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestage.stream")
    letters: list[DeadLetter] = []

    def leaves(text: str) -> str:
        if text == "secret":
            raise SystemExit(text)
        return text

    Stream(["a", "secret"]).map(leaves).to(Kept()).run(fail="soft", dead_letters=letters.append)
    assert len(letters) == 1
    restarts = [record for record in caplog.records if getattr(record, "event", "") == "WorkerRestarted"]
    assert len(restarts) == 2
    data = getattr(restarts[0], "data")  # noqa: B009
    assert set(data) == {"worker", "pause", "left"}
    assert restarts[0].levelname == "WARNING"
    assert "secret" not in caplog.text


def test_parts_of_a_chunk_go_separate_ways(spans: InMemorySpanExporter) -> None:
    out = Kept()
    stream = Stream([1], name="numbers").flat_map(lambda _: range(MOST_AT_ONCE + 5), name="many").map(slowly)
    stream.to(out).run(settings=ALL)
    assert len(out.items) == MOST_AT_ONCE + 5
    found = by_name(spans)
    root = identity(found["numbers"][0])
    assert sorted(span.attributes["sidestage.items"] for span in found["slowly"] if span.attributes) == [
        5,
        MOST_AT_ONCE,
    ]  # type: ignore[type-var]
    parents = {parent(span) for span in found["slowly"]}
    assert parents == {root, identity(found["many"][0])}


def test_what_a_rate_limit_holds_back_keeps_its_trace(spans: InMemorySpanExporter) -> None:
    stream = Stream(range(4), name="numbers").limit(Rate(2, 0.05), by=lambda _: "one").map(slowly)
    stream.to(Kept()).run(settings=ALL)
    found = by_name(spans)
    traces = {identity(span)[0] for each in found.values() for span in each}
    assert traces == {identity(found["numbers"][0])[0]}
    assert sum(span.attributes["sidestage.items"] for span in found["slowly"] if span.attributes) == 4  # type: ignore[misc]


def test_a_list_of_one_batch_is_no_single_item_either() -> None:
    letters: list[DeadLetter] = []
    stream = Stream(Parts({"a": range(4)}, [4])).batch(2).map(lambda _: 1 // 0, on_error=SetAside())
    stream.to(Kept()).run(dead_letters=letters.append)
    assert [(letter.item, letter.trace, letter.origin) for letter in letters] == [
        ([0, 1], None, None), ([2, 3], None, None),
    ]  # fmt: skip


def test_what_comes_of_a_list_is_not_taken_for_an_item_of_the_source() -> None:
    letters: list[DeadLetter] = []
    stream = (
        Stream(Parts({"a": range(4)}, [4])).batch(2).flat_map(list).map(lambda _: 1 // 0, on_error=SetAside())
    )
    stream.to(Kept()).run(dead_letters=letters.append)
    assert [(letter.item, letter.trace) for letter in letters] == [(number, None) for number in range(4)]


def test_a_trace_goes_on_with_the_first_item_where_each_goes_alone(spans: InMemorySpanExporter) -> None:
    stream = Stream(range(3), name="numbers").revocable(lambda n: n).map(slowly)
    stream.to(Kept(), name="kept").run(settings=ALL)
    found = by_name(spans)
    assert [dict(span.attributes or {})["sidestage.items"] for span in found["slowly"]] == [1]
    assert parent(found["kept"][0]) == identity(found["slowly"][0])


@pytest.mark.parametrize("where", ["on_start", "on_end"])
def test_whoever_takes_spans_and_fails_costs_no_item(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SpanProcessor):
        called = 0

        def fail(self, *_what: object, **_more: object) -> None:
            Broken.called += 1
            raise RuntimeError("the collector is broken")

    setattr(Broken, where, Broken.fail)
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    monkeypatch.setattr(otel, "get_tracer", provider.get_tracer)
    out = Kept()
    ended = Stream(range(5)).map(slowly).batch(2).to(out).run(settings=ALL)
    provider.shutdown()
    assert ended.complete
    assert out.items == [[1, 2], [3, 4], [5]]
    assert Broken.called
