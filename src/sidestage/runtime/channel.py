"""A pair of connected ends that carry whole messages between a process and its child."""

import socket
import struct

_LENGTH = struct.Struct("!Q")
_RECEIVE_BYTES = 1 << 16
_READS_AT_ONCE = 64
"""So that one that sends without end holds nobody up."""


class Channel:
    """One end. Messages are bytes and arrive whole and in order.

    ``receive`` waits, ``receive_ready`` does not; both may be used on one end.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = bytearray()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message, or the end, has come."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Send a message. Raises OSError if nobody is at the other end any more."""
        self._socket.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self) -> bytes | None:
        """Return the next message, waiting for it, or None if the other end is closed."""
        while (message := self._next()) is None:
            if not self._read(0):
                return None
        return message

    def receive_ready(self) -> list[bytes] | None:
        """Return the messages that have come, or None if there are none and the other end is closed."""
        is_open = True
        for _ in range(_READS_AT_ONCE):
            before = len(self._received)
            is_open = self._read(socket.MSG_DONTWAIT)
            if len(self._received) == before:
                break
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages if messages or is_open else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _read(self, flags: int) -> bool:
        try:
            data = self._socket.recv(_RECEIVE_BYTES, flags)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._received += data
        return bool(data)

    def _next(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message


def connected_pair() -> tuple[Channel, Channel]:
    """Return two connected ends."""
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


def adopt(descriptor: int) -> Channel:
    """Return the end whose file descriptor was inherited from the parent."""
    return Channel(socket.socket(fileno=descriptor))
