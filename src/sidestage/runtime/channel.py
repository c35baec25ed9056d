"""A pair of connected ends that carry whole messages between a process and its child."""

import socket
from multiprocessing.connection import Connection


def connected_pair() -> tuple[Connection, Connection]:
    """Return two connected ends. Messages are bytes and arrive whole and in order."""
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), Connection(theirs.detach())


def adopt(descriptor: int) -> Connection:
    """Return the end whose file descriptor was inherited from the parent."""
    return Connection(descriptor)
