"""What a worker prints: kept by attempt, the first and the last of it, never more than a bound."""

import fcntl
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.runtime.output import Output

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.fixture
def output():
    made = Output()
    yield made
    made.close()


def printed(output, *pieces):
    for each in pieces:
        os.write(output.writing_end, each)
        output.drain()


def test_nothing_printed_no_file(output, tmp_path):
    output.begin(tmp_path / "run-1" / "a.log", 1000)
    printed(output, output.mark)
    output.end()
    assert list(tmp_path.iterdir()) == []


def test_what_is_printed_can_be_followed_and_is_whole_at_the_end(output, tmp_path):
    log = tmp_path / "run-1" / "a.log"
    output.begin(log, 1000)
    printed(output, b"one\n")
    assert log.read_bytes() == b"one\n"
    os.write(output.writing_end, b"two\n")
    output.end()
    assert log.read_bytes() == b"one\ntwo\n"


@steady
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=30), st.integers(0, 20_000))
def test_of_too_much_the_first_and_the_last_are_kept(tmp_path_factory, pieces, limit):
    log = tmp_path_factory.mktemp("log") / "a.log"
    output = Output()
    output.begin(log, limit)
    printed(output, *pieces)
    output.end()
    output.close()
    whole = b"".join(pieces)
    kept = log.read_bytes() if log.exists() else b""
    assert len(kept) <= limit
    half = max(0, limit - 64) // 2
    if len(whole) <= 2 * half:
        assert kept == whole
    elif half:
        assert kept.startswith(whole[:half])
        assert kept.endswith(whole[-half:])
        assert f"\n[... {len(whole) - 2 * half} bytes left out ...]\n".encode() in kept


def test_ten_thousand_tiny_pieces_are_kept_in_few(output, tmp_path):
    log = tmp_path / "a.log"
    output.begin(log, 4_000)
    for number in range(10_000):
        printed(output, b"%d\n" % number)
    assert len(output._tail) < 5
    output.end()
    text = log.read_text()
    assert text.startswith("0\n1\n2\n")
    assert text.endswith("9998\n9999\n")


def test_what_is_printed_after_the_mark_is_the_next_one_s(output, tmp_path):
    first, second, third, fourth = (tmp_path / name for name in "abcd")
    output.begin(first, 1000)
    printed(output, b"of the first" + output.mark + b"of the second")
    # The worker is well ahead: the parent has not even read the first one's answer.
    printed(output, b", too" + output.mark + b"of the third" + output.mark + b"of the fourth")
    output.end()
    for log in (second, third, fourth):
        output.begin(log, 1000)
        output.drain()
        output.end()
    assert [each.read_bytes() for each in (first, second, third, fourth)] == [
        b"of the first",
        b"of the second, too",
        b"of the third",
        b"of the fourth",
    ]


def test_all_that_came_at_once_is_told_apart(output, tmp_path):
    logs = [tmp_path / str(number) for number in range(50)]
    output.begin(logs[0], 1000)
    os.write(output.writing_end, b"".join(log.name.encode() + output.mark for log in logs))
    for following in [*logs[1:], tmp_path / "none"]:
        output.end()
        output.begin(following, 1000)
    output.end()
    assert [log.read_text() for log in logs] == [log.name for log in logs]
    assert not (tmp_path / "none").exists()


def test_a_mark_that_comes_with_what_came_before_is_seen_at_the_end(output, tmp_path):
    output.begin(tmp_path / "a", 1000)
    os.write(output.writing_end, b"all of it" + output.mark)
    output.end()
    output.begin(tmp_path / "b", 1000)
    output.end()
    assert (tmp_path / "a").read_bytes() == b"all of it"
    assert not (tmp_path / "b").exists()


def test_a_mark_fits_a_full_pipe_in_one_piece(output, tmp_path):
    output.begin(tmp_path / "a", 1_000_000)
    capacity = fcntl.fcntl(output.writing_end, fcntl.F_GETPIPE_SZ)
    os.set_blocking(output.writing_end, False)
    os.write(output.writing_end, b"x" * (capacity - 10))
    with pytest.raises(BlockingIOError):
        os.write(output.writing_end, output.mark)
    output.drain()
    os.write(output.writing_end, output.mark)
    output.end()
    assert (tmp_path / "a").stat().st_size == capacity - 10


def test_what_was_printed_before_any_attempt_goes_with_the_first_one_and_is_bounded(output, tmp_path):
    for _ in range(40):
        printed(output, b"x" * 4096)
    printed(output, b"the end")
    assert len(output.early()) <= 65_536 + 4096
    assert output.early().endswith("the end")
    output.begin(tmp_path / "a", 1_000_000)
    output.end()
    assert (tmp_path / "a").read_bytes().endswith(b"the end")


def test_the_end_is_noticed(output):
    assert output.drain()
    output.started()
    assert not output.drain()


def test_a_log_that_cannot_be_written_costs_nothing_else(output, tmp_path):
    (tmp_path / "file").touch()
    output.begin(tmp_path / "file" / "a.log", 1000)
    printed(output, b"lost")
    output.end()


def test_two_attempts_with_one_log_are_both_in_it(output, tmp_path):
    for number in (b"1", b"2"):
        output.begin(tmp_path / "a", 1000)
        printed(output, number)
        output.end()
    assert (tmp_path / "a").read_bytes() == b"12"
