"""One end of the way between two processes: a pipe for what is small, shared memory for what is large.

Where there are no segments, or all are still being read, what is large goes through the pipe's descriptor
straight into the memory that it is to lie in: ``Connection.recv_bytes``, which gathers it piece by piece,
takes ten times as long with 10 MB.
"""

import os
import sys
from collections.abc import Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from sidestage.stream.workers.parcels import LARGE, Buffer, Parcel, unpacked
from sidestage.stream.workers.segments import MOST_BYTES, Borrower, Lender, Segment

_WORTH = 1 << 18
"""From how many bytes on a segment is faster than the pipe."""

_ALIGNED = 64
"""What buffers in a segment begin at multiples of, as Arrow and numpy like it."""


class _Head(msgspec.Struct, array_like=True):
    """What goes first. ``sizes`` are those of the body, 0 if it is here, and of the buffers.

    The first ``shared`` of these lie in the segment ``slot``; if that is ``fresh``, it has so many bytes, and
    its descriptor follows. ``returned``: segments that are not read any more.
    """

    returned: list[int]
    sizes: list[int]
    body: bytes
    shared: int = 0
    slot: int = 0
    fresh: int = 0


class Wire:
    """Sends parcels and receives values. Takes a pipe that works both ways, which it closes.

    What is received may lie in memory that the other end writes to again, once nothing refers to it here.
    """

    def __init__(self, pipe: Connection, *, shares_memory: bool = True) -> None:
        self._pipe = pipe
        self._lender = Lender() if shares_memory else None
        self._borrower = Borrower()
        self._decode = msgspec.msgpack.Decoder(_Head).decode

    def poll(self, seconds: float) -> bool:
        """Wait so long for something to come; return whether it has."""
        return self._pipe.poll(seconds)

    def close(self) -> None:
        """Close it. What came through it stays as it is."""
        self._pipe.close()

    def send(self, sent: Parcel) -> None:
        """Send a parcel. Raises OSError if nobody is there to take it."""
        is_large = len(sent.body) >= LARGE
        pieces: list[Buffer] = [[memoryview(sent.body)] if is_large else [], *sent.buffers]
        sizes = [sum(piece.nbytes for piece in each) for each in pieces]
        head = _Head(self._borrower.returned(), sizes, b"" if is_large else sent.body)
        segment = self._shared(head, pieces)
        if segment is not None and segment.fresh is not None:
            try:
                self._pipe.send_bytes(msgspec.msgpack.encode(head))
                reduction.send_handle(self._pipe, segment.fresh, 0)
            finally:
                os.close(segment.fresh)
        else:
            self._pipe.send_bytes(msgspec.msgpack.encode(head))
        for each in pieces[head.shared :]:
            _send_piece(self._pipe, each)

    def receive(self) -> Any:
        """Return what comes next.

        Raises EOFError and OSError if nothing will, and whatever a value's own code raises.
        """
        head = self._decode(self._pipe.recv_bytes())
        if self._lender is not None:
            self._lender.came_back(head.returned)
        if head.fresh:
            self._borrower.learn(head.slot, reduction.recv_handle(self._pipe), head.fresh)
        came: list[Any] = []
        if head.shared:
            memory = self._borrower.borrow(head.slot)
            came += [memory[at : at + size] for at, size in _places(head.sizes[: head.shared])]
        came += [_receive_piece(self._pipe, size) for size in head.sizes[head.shared :]]
        body, *buffers = came  # which whoever gets them may change
        return unpacked(body if head.sizes[0] else head.body, buffers)

    def _shared(self, head: _Head, pieces: list[Buffer]) -> Segment | None:
        """Put as much as is worth it, and has room, into a segment; return that."""
        if self._lender is None or sum(head.sizes) < _WORTH:
            return None
        places = [each for each in _places(head.sizes) if sum(each) <= MOST_BYTES]
        end = sum(places[-1]) if places else 0
        segment = self._lender.take(end) if end >= _WORTH else None
        if segment is None:
            return None
        head.shared = len(places)
        head.slot = segment.slot
        head.fresh = 0 if segment.fresh is None else segment.size
        for (at, _), each in zip(places, pieces, strict=False):
            for piece in each:
                segment.view[at : at + piece.nbytes] = piece
                at += piece.nbytes  # noqa: PLW2901
        return segment


def _places(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield where in a segment each of those begins that lie there, and its size."""
    at = 0
    for size in sizes:
        yield at, size
        at += -(-size // _ALIGNED) * _ALIGNED


def _send_piece(pipe: Connection, pieces: Buffer) -> None:
    if sys.platform == "win32":
        if any(piece.nbytes for piece in pieces):
            pipe.send_bytes(b"".join(pieces))
        return
    number = pipe.fileno()
    for each in pieces:
        piece = each
        while piece:
            piece = piece[os.write(number, piece) :]


def _receive_piece(pipe: Connection, size: int) -> bytearray:
    piece = bytearray(size)
    if sys.platform == "win32":
        if size:
            pipe.recv_bytes_into(piece)
        return piece
    number, left = pipe.fileno(), memoryview(piece)
    while left:
        count = os.readv(number, [left])
        if not count:
            raise EOFError
        left = left[count:]
    return piece
