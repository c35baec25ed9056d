"""A TCP proxy that breaks a connection to PostgreSQL in the middle of a commit."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

Fault = Literal["none", "answer lost", "request lost", "half open"]
"""What happens at a commit.

- "none": all is well.
- "answer lost": the server commits, but its answer comes to nobody.
- "request lost": the server never hears of the commit, but that the connection is gone.
- "half open": the server hears of neither, and waits for the rest of the transaction.
"""


class Proxy:
    """Passes everything on, from ``port`` to the server, but breaks the commits it was told to break."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._faults: list[Fault] = []
        self.broken = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def break_next(self, *faults: Fault) -> None:
        """Break the next commits, one for each fault."""
        self._faults += faults

    def close(self) -> None:
        """Break everything and stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for each in self._open:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()  # the server is away
                continue
            self._open += [client, server]
            passing = threading.Thread(target=self._pass_on, args=(client, server))
            self._threads.append(passing)
            passing.start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pass_back, args=(client, server, lost := threading.Event()))
        back.start()
        for data in _read(client):
            fault = self._faults.pop(0) if self._faults and b"COMMIT\0" in data else None
            if fault == "answer lost":
                lost.set()
            if fault in ("request lost", "half open"):
                self.broken += 1
                _end(client)
                if fault == "half open":
                    back.join()
                    return
                break
            with contextlib.suppress(OSError):
                server.sendall(data)
        _end(server)
        back.join()

    def _pass_back(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        for data in _read(server):
            if lost.is_set():
                self.broken += 1
                break
            with contextlib.suppress(OSError):
                client.sendall(data)
        _end(client)


def _read(connection: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            yield data


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
