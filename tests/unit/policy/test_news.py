"""News: in order, one at a time, and never lost."""

import threading
from datetime import UTC, datetime

from sidestage.events import Event
from sidestage.policy.news import News


class Numbered(Event, frozen=True):
    number: int


def numbered(number: int) -> Numbered:
    return Numbered(datetime(2013, 1, 1, tzinfo=UTC), number)


def test_nobody_listens():
    news = News(None)
    news.note(numbered(1))
    news.tell()


def test_what_a_listener_sets_off_is_told_after_what_it_hears():
    heard = []

    def listen(event) -> None:
        if event.number < 3:
            news.note(numbered(event.number + 1))
            news.tell()
        heard.append(event.number)

    news = News(listen)
    news.note(numbered(1))
    news.tell()
    assert heard == [1, 2, 3]


def test_many_threads():
    heard, inside = [], []

    def listen(event) -> None:
        inside.append(1)
        assert len(inside) == 1, "two at once"
        heard.append(event.number)
        inside.pop()

    news, lock, noted = News(listen), threading.Lock(), []

    def work(first: int) -> None:
        for number in range(first, first + 500):
            with lock:
                news.note(numbered(number))
                noted.append(number)
            news.tell()

    threads = [threading.Thread(target=work, args=(each * 1000,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert heard == noted
