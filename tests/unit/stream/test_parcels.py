"""Values arrive at the other end of a pipe as they were, large or small."""

import threading
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest

from sidestage.stream.workers.parcels import parcel, receive, send


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, "two", b"three"],
        b"",
        b"x" * 3_000_000,
        bytearray(),
        bytearray(b"y" * 2_000_000),
        [bytearray(b"y" * 100_000), bytearray(), "z" * 100_000],
    ],
)
def test_values_arrive(value: Any) -> None:
    ours, theirs = Pipe()
    sender = threading.Thread(target=send, args=(ours, parcel(value)))
    sender.start()
    assert receive(theirs) == value
    send(theirs, parcel("done"))
    assert receive(ours) == "done"
    sender.join()
    ours.close()
    theirs.close()


def test_arrays_arrive_and_can_be_changed() -> None:
    ours, theirs = Pipe()
    arrays = [np.arange(400_000.0), np.ones((300, 300))[:, ::2], np.empty(0)]
    sender = threading.Thread(target=send, args=(ours, parcel(arrays)))
    sender.start()
    came = receive(theirs)
    sender.join()
    assert all(np.array_equal(one, other) for one, other in zip(came, arrays, strict=True))
    came[0][0] = 7.0
    assert arrays[0][0] == 0.0
    ours.close()
    theirs.close()


def test_whoever_ends_within_a_buffer_is_heard_of() -> None:
    ours, theirs = Pipe()
    sent = parcel(bytearray(5_000_000))

    def send_to_nobody() -> None:
        with pytest.raises(OSError, match=r"."):
            send(ours, sent)

    sender = threading.Thread(target=send_to_nobody)
    sender.start()
    theirs.recv_bytes()
    theirs.close()
    sender.join()
    ours.close()
    ours, theirs = Pipe()
    ours.send_bytes((1).to_bytes(8, "little") + (100_000).to_bytes(8, "little"))
    ours.close()
    with pytest.raises(EOFError):
        receive(theirs)
    theirs.close()
