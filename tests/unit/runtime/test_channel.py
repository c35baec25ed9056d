"""Messages between a process and its child: whole, in order, whatever their size."""

import os
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.runtime.channel import Channel, adopt, connected_pair

steady = settings(derandomize=True, database=None, deadline=None, max_examples=50)


@pytest.fixture
def pair():
    ours, theirs = connected_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@steady
@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 40))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(messages, step):
    sending, receiving = socket.socketpair()
    channel = Channel(receiving)
    stream = b"".join(len(each).to_bytes(8, "big") + each for each in messages)
    found = []
    with sending:
        for start in range(0, len(stream), step):
            sending.sendall(stream[start : start + step])
            found += channel.receive_ready()
    assert found == messages
    assert channel.receive_ready() is None
    channel.close()


def test_large_messages_arrive_while_they_are_sent(pair):
    ours, theirs = pair
    large = os.urandom(5_000_000)
    sender = threading.Thread(target=ours.send, args=(large,))
    sender.start()
    assert theirs.receive() == large
    sender.join()


def test_nothing_has_come(pair):
    ours, _ = pair
    assert ours.receive_ready() == []


def test_what_was_sent_before_the_end_is_received_and_half_a_message_is_not(pair):
    ours, theirs = pair
    theirs.send(b"one")
    theirs.send(b"")
    os.write(theirs.fileno(), (100).to_bytes(8, "big") + b"half")
    theirs.close()
    assert ours.receive_ready() == [b"one", b""]
    assert ours.receive_ready() is None
    assert ours.receive() is None


def test_more_than_is_read_at_once_is_read_at_once(pair):
    ours, theirs = pair
    answer = bytes(150_000)
    sender = threading.Thread(target=theirs.send, args=(answer,))
    sender.start()
    found = []
    while not found:
        found = ours.receive_ready()
    sender.join()
    assert found == [answer]


def test_sending_to_nobody_is_an_error(pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        ours.send(b"anybody there?")


def test_both_ways_and_by_number(pair):
    ours, theirs = pair
    adopted = adopt(os.dup(theirs.fileno()))
    ours.send(b"question")
    assert adopted.receive() == b"question"
    adopted.send(b"answer")
    assert ours.receive() == b"answer"
    adopted.close()
