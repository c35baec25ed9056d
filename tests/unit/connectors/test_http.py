"""Something polled over HTTP, from a real server that is slow, cut, overloaded, or lies."""

import gzip
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.http import Answer, HttpPoll, linked_page
from sidestage.errors import DefinitionError
from sidestage.policy.failure import classify
from sidestage.policy.retry import Retry
from sidestage.stream import Checkpoint, Collected, Stream
from sidestage.testing.turned_clock import HandClock

Play = Callable[["Stage"], None]
AT_ONCE = Retry(times=3, delay=0.0, longest=0.0)


class Stage(BaseHTTPRequestHandler):
    """Answers as the server's plays say, one for each request; the last one stays."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        plays = self.server.plays
        play = plays.popleft() if len(plays) > 1 else plays[0]
        play(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name is given
        pass

    def send(self, body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Stage)
        self.plays: deque[Play] = deque()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests go away in the middle


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving()


@pytest.fixture
def other() -> Iterator[Server]:
    yield from serving()


def serving() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def say(items: Any, status: int = 200, **headers: str) -> Play:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda stage: stage.send(json.dumps(items).encode(), status, named)


def unchanged(stage: Stage) -> None:
    stage.send(status=304)


def source(server: Server, path: str = "/", **more: Any) -> HttpPoll[Any]:
    given = {"items": json.loads, "retry": AT_ONCE, "every": None, "timeout": 5.0, **more}
    return HttpPoll(url=server.url + path, **given)


def everything(polled: HttpPoll[Any], resume: Mapping[str, Any] | None = None, limit: int = 100) -> list[Any]:
    with closing(polled.open(resume or {})) as reader:
        found: list[Any] = []
        while (batches := reader.read(limit, 0.01)) is not None:
            found += [item for each in batches for item in each.items]
        return found


def some(reader: Any, limit: int = 100) -> list[Any]:
    batches = reader.read(limit, 0.0)
    while reader.is_asking:
        batches = reader.read(limit, 0.1)
    return [item for each in batches or () for item in each.items]


def test_it_is_fetched_once(server):
    server.plays.append(say([1, 2, 3]))
    assert everything(source(server, "/a?b=c", headers={"X-Key": "k"}), limit=2) == [1, 2, 3]
    assert [path for path, _ in server.asked] == ["/a?b=c"]
    assert server.asked[0][1]["x-key"] == "k"


def test_what_has_not_changed_is_not_sent_again(server):
    server.plays.extend([say([1, 2], ETag='"a"'), unchanged, say([3], ETag='"b"')])
    clock = HandClock()
    with closing(source(server, every=60.0, clock=clock).open({})) as reader:
        assert some(reader) == [1, 2]
        assert some(reader) == []
        assert len(server.asked) == 1
        clock.advance(60)
        assert some(reader) == []
        clock.advance(60)
        assert some(reader) == [3]
    assert [headers.get("if-none-match") for _, headers in server.asked] == [None, '"a"', '"a"']


def test_without_tags_the_date_and_the_body_itself_tell(server):
    date = format_datetime(datetime(2026, 1, 1, tzinfo=UTC), usegmt=True)
    server.plays.extend([say([1], Last_Modified=date), say([1]), say([1]), say([1, 2])])
    clock = HandClock()
    found = []
    with closing(source(server, every=1.0, clock=clock).open({})) as reader:
        for _ in range(4):
            found.append(some(reader))
            clock.advance(1)
    assert found == [[1], [], [], [1, 2]]
    assert [headers.get("if-modified-since") for _, headers in server.asked] == [None, date, None, None]


def test_of_what_grows_only_the_rest_is_passed_on(server):
    server.plays.extend([say([1, 2]), say([1, 2, 3, 4]), say([9])])
    clock = HandClock()
    found = []
    with closing(source(server, every=1.0, grows=True, clock=clock).open({})) as reader:
        for _ in range(3):
            found.append(some(reader))
            clock.advance(1)
    assert found == [[1, 2], [3, 4], []]


def test_it_goes_on_in_the_middle_of_what_it_was_passing_on(server):
    server.plays.append(say([1, 2, 3], ETag='"a"'))
    polled = source(server)
    with closing(polled.open({})) as reader:
        (batch,) = reader.read(2, 5.0) or ()
    assert batch.items == [1, 2]
    assert everything(polled, {"all": batch.next}) == [3]
    assert "if-none-match" not in server.asked[-1][1]  # or the third would never have come
    with closing(polled.open({"all": batch.next})) as reader:
        (batch,) = reader.read(2, 5.0) or ()
    server.plays[0] = unchanged
    assert everything(polled, {"all": batch.next}) == []
    assert server.asked[-1][1]["if-none-match"] == '"a"'


def test_pages_by_a_cursor(server):
    pages = {"/": ([1, 2], "?after=2"), "/?after=2": ([], "/?after=2b"), "/?after=2b": ([3], None)}

    def play(stage: Stage) -> None:
        items, following = pages[stage.path]
        stage.send(json.dumps({"items": items, "next": following}).encode())

    server.plays.append(play)
    polled = source(
        server,
        items=lambda body: json.loads(body)["items"],
        next_page=lambda answer: json.loads(answer.body)["next"],
    )
    assert everything(polled) == [1, 2, 3]
    with closing(polled.open({})) as reader:
        (batch,) = reader.read(10, 5.0) or ()
    assert json.loads(str(batch.next)) == {"url": f"{server.url}/?after=2"}
    server.asked.clear()
    assert everything(polled, {"all": batch.next}) == [3]
    assert [path for path, _ in server.asked] == ["/?after=2", "/?after=2b"]


def test_the_last_page_is_asked_for_more(server):
    link = {"Link": f'<{server.url}/first>; rel="first", <?page=2>; title="a, b"; rel="next"'}
    first: Play = lambda stage: stage.send(b"[1]", headers=link)  # noqa: E731
    server.plays.extend([first, say([2], ETag='"x"'), say([2, 3], ETag='"y"')])
    clock = HandClock()
    found = []
    polled = source(server, every=5.0, grows=True, next_page=linked_page, clock=clock)
    with closing(polled.open({})) as reader:
        found += [some(reader), some(reader)]
        assert some(reader) == []
        assert len(server.asked) == 2
        clock.advance(5)
        found.append(some(reader))
    assert found == [[1], [2], [3]]
    assert [path for path, _ in server.asked] == ["/", "/?page=2", "/?page=2"]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<b>; rel="next"', "http://a/b"),
        ("</b>; rel=next", "http://a/b"),
        ('<c>; rel="prev", <d>; rel="last next"', "http://a/d"),
        ('<c>; rel="nextish"', None),
        ("", None),
    ],
)
def test_the_header_link(link, expected):
    assert linked_page(Answer("http://a/x", 200, {"link": link}, b"")) == expected


def test_pages_on_another_server_are_refused(server, other):
    server.plays.append(say([1]))
    with pytest.raises(ConnectorError, match="another server"):
        everything(source(server, next_page=lambda _: other.url))
    assert other.asked == []


def test_redirects_are_followed_without_giving_secrets_away(server, other):
    server.plays.append(lambda stage: stage.send(status=302, headers={"Location": f"{other.url}/there"}))
    other.plays.append(say([1]))
    assert everything(source(server, headers={"Authorization": "secret", "X-Key": "secret"})) == [1]
    assert "secret" in str(server.asked)
    assert "secret" not in str(other.asked)
    own = [lambda stage: stage.send(status=301, headers={"Location": "/b"}), say([2])]
    server.plays = deque(own)
    assert everything(source(server, headers={"X-Key": "secret"})) == [2]
    assert server.asked[-1][0] == "/b"
    assert server.asked[-1][1]["x-key"] == "secret"


@pytest.mark.parametrize(("to", "said"), [("/", "more than 5 times"), ("file:///etc/passwd", "redirects to")])
def test_redirects_that_lead_nowhere_are_refused(server, to, said):
    server.plays.append(lambda stage: stage.send(status=302, headers={"Location": to}))
    with pytest.raises(ConnectorError, match=said):
        everything(source(server))


@pytest.mark.parametrize(
    ("status", "failure", "tries"),
    [
        (400, "bug", 1),
        (401, "authentication", 1),
        (403, "authentication", 1),
        (404, "bug", 1),
        (410, "bug", 1),
        (429, "rate-limited", 4),
        (500, "transient", 4),
        (503, "transient", 4),
    ],
)
def test_answers_that_are_none_are_said(server, status, failure, tries):
    server.plays.append(lambda stage: stage.send(b"not\n you", status=status))
    with pytest.raises(ConnectorError, match=rf"it answered {status} \(not you\)") as raised:
        everything(source(server))
    assert classify(raised.value) == failure
    assert len(server.asked) == tries


def test_a_server_that_recovers_in_time_is_forgiven(server):
    def cut(stage: Stage) -> None:
        stage.send_response(200)
        stage.send_header("Content-Length", "100")
        stage.end_headers()
        stage.wfile.write(b"[1,")
        stage.close_connection = True

    server.plays.extend([say([], 500), cut, say([], 429), say([1])])
    assert everything(source(server)) == [1]


def test_the_count_of_failures_begins_anew_with_each_success(server):
    bad = say([], 500)
    server.plays.extend([bad, bad, bad, say([1]), bad, bad, bad, say([2]), bad])
    clock = HandClock()
    with closing(source(server, every=1.0, clock=clock).open({})) as reader:
        found = []
        for _ in range(8):
            found += some(reader)
            clock.advance(1)
        assert found == [1, 2]
        for _ in range(3):
            assert some(reader) == []
        with pytest.raises(ConnectorError):
            some(reader)


def test_the_server_says_when_to_come_again(server):
    clock = HandClock()
    date = format_datetime(clock.now() + timedelta(seconds=90), usegmt=True)
    server.plays.extend([say([], 429, Retry_After="30"), say([], 503, Retry_After=date), say([1])])
    with closing(source(server, clock=clock).open({})) as reader:
        for seconds, asked in ((0, 1), (29, 1), (2, 2), (58, 2)):
            clock.advance(seconds)
            assert some(reader) == []
            assert len(server.asked) == asked
        clock.advance(2)
        assert some(reader) == [1]
    server.plays = deque([say([], 429, Retry_After="999999")])
    with pytest.raises(ConnectorError, match="429"):
        everything(source(server))
    server.plays = deque([say([], 429, Retry_After="soon"), say([1])])
    assert everything(source(server)) == [1]


def test_pauses_grow(server):
    server.plays.append(say([], 500))
    clock = HandClock()
    polled = source(server, retry=Retry(times=3, delay=10.0, longest=25.0), clock=clock)
    with closing(polled.open({})) as reader:
        for most in (10.0, 20.0, 25.0):
            asked = len(server.asked)
            assert some(reader) == []
            clock.advance(most / 2 - 0.1)
            assert some(reader) == []
            assert len(server.asked) == asked + 1
            clock.advance(most / 2 + 0.2)
        with pytest.raises(ConnectorError):
            some(reader)


def test_a_body_has_a_limit_also_when_it_is_compressed(server):
    server.plays.append(say([0] * 1000))
    with pytest.raises(ConnectorError, match="more than 1,000 bytes") as raised:
        everything(source(server, most_bytes=1000, retry=Retry(times=0)))
    assert raised.value.failure_class == "resource"
    bomb = gzip.compress(b" " * 10_000_000)
    server.plays[0] = lambda stage: stage.send(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(ConnectorError, match="more than 1,000,000 bytes"):
        everything(source(server, most_bytes=1_000_000, retry=Retry(times=0)))
    server.plays[0] = lambda stage: stage.send(gzip.compress(b"[1]"), headers={"Content-Encoding": "gzip"})
    assert everything(source(server)) == [1]


@pytest.mark.parametrize("first_byte", [False, True])
def test_a_slow_server_is_not_waited_for_forever(server, first_byte):
    gone = threading.Event()

    def drip(stage: Stage) -> None:
        stage.send_response(200)
        stage.send_header("Content-Length", "100000")
        stage.end_headers()
        while first_byte and not gone.wait(0.05):
            stage.wfile.write(b" " * 1000)
            stage.wfile.flush()
        gone.wait(600)

    server.plays.append(drip)
    begun = time.monotonic()
    try:
        with pytest.raises(ConnectorError) as raised:
            everything(source(server, timeout=0.3, retry=Retry(times=0)))
    finally:
        gone.set()
    assert raised.value.failure_class == "transient"
    assert time.monotonic() - begun < 300


def test_whoever_reads_is_not_held_up_by_a_slow_server(server):
    answered = threading.Event()

    def late(stage: Stage) -> None:
        answered.wait(600)
        stage.send(b"[1]")

    server.plays.append(late)
    with closing(source(server, timeout=300.0).open({})) as reader:
        for _ in range(3):
            assert reader.read(10, 0.01) == ()
        answered.set()
        assert some(reader) == [1]
        assert len(server.asked) == 1


def test_nobody_there(server):
    server.plays.append(say([]))
    polled = HttpPoll(url="http://127.0.0.1:9/", items=json.loads, retry=AT_ONCE, every=None)
    with pytest.raises(ConnectorError) as raised:
        everything(polled)
    assert raised.value.failure_class == "transient"


def test_what_is_no_item_is_said(server):
    server.plays.append(lambda stage: stage.send(b"<html>"))
    with pytest.raises(ConnectorError, match="no items can be made") as raised:
        everything(source(server))
    assert raised.value.failure_class == "validation"
    assert len(server.asked) == 1


def test_descriptions_that_make_no_sense_are_refused(server):
    for url in ("nonsense", "ftp://x/", "http://"):
        with pytest.raises(DefinitionError, match="no address"):
            HttpPoll(url=url, items=json.loads)
    for wrong in ({"every": 0.0}, {"timeout": -1.0}, {"most_bytes": 0}):
        with pytest.raises(DefinitionError):
            source(server, **wrong)
    for position in (3, "x", '{"url":"http://elsewhere/"}'):
        with pytest.raises(DefinitionError, match="cannot go on"):
            source(server).open({"all": position})
    shown = repr(HttpPoll(url="http://u:secret@h:1/p?key=secret", items=json.loads))
    assert shown == "HttpPoll('http://h:1/p')"


def test_a_stream_goes_on_behind_what_it_has_dealt_with(server, tmp_path):
    server.plays.append(say([1, 2]))
    for expected, then in (([1, 2], [1, 2]), ([], [5]), ([5], [5])):
        kept: Collected[int] = Collected()
        Stream(source(server)).to(kept).run(checkpoint=Checkpoint(tmp_path / "point"))
        assert kept.items == expected
        server.plays[0] = say(then)


def test_a_stop_ends_the_waiting(server):
    server.plays.append(say([1, 2]))
    with closing(source(server, every=3600.0).open({})) as reader:
        assert some(reader, limit=1) == [1]
        reader.stop()
        assert some(reader, limit=1) == [2]
        assert reader.read(1, 0.0) is None
