"""The process of a service, as its worker sees it."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from sidestage.run.service_messages import FromService, GoOn, Serve
from sidestage.runtime.lifeline import this_process
from sidestage.runtime.orphans import end_group, mark
from sidestage.runtime.process import ChildProcess
from sidestage.runtime.temporary import empty, remove

LOG = "log"
"""What a service prints, and what becomes of its stream, one line of JSON for each event."""

_LARGEST_LOG = 10 * 1024 * 1024
_DECODER: msgspec.json.Decoder[FromService] = msgspec.json.Decoder(FromService)


class ServiceChild(Protocol):
    """What runs a service, whatever it is: a process, or a test's stand-in."""

    def heard(self) -> tuple[FromService, ...]:
        """Return what it said since the last call."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it is gone."""
        ...

    def go_on(self, word: GoOn) -> None:
        """Tell it to go on."""
        ...

    def stop(self) -> None:
        """Have it drain; if it was told before, cancel."""
        ...

    def end(self) -> int:
        """Kill it if it is still there, and all that it started; return how it ended, as subprocess does."""
        ...


StartService = Callable[[Serve], ServiceChild]


class ServiceProcess:
    """A ``ServiceChild`` that is a process. The thread that makes one outlives it, or it dies with that."""

    def __init__(self, request: Serve, environment: Mapping[str, str]) -> None:
        folder = Path(request.folder)
        self._is_told = False
        self._temporary = folder / "temporary"
        folder.mkdir(parents=True, exist_ok=True)
        empty(self._temporary)
        _make_room(folder / LOG)
        given = {**environment, "TMPDIR": str(self._temporary)}
        output = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._child = ChildProcess(
                [sys.executable, "-u", "-m", "sidestage.run.service", str(os.getpid())],
                directory=Path(request.root),
                environment=mark(given, this_process(), str(self._temporary)),
                output=output,
            )
        finally:
            os.close(output)
        self._child.send(msgspec.json.encode(request))

    @property
    def is_over(self) -> bool:
        """Whether it is gone."""
        return self._child.is_dead

    def heard(self) -> tuple[FromService, ...]:
        """Return what it said since the last call."""
        return tuple(_DECODER.decode(each) for each in self._child.channel.receive_ready() or ())

    def go_on(self, word: GoOn) -> None:
        """Tell it to go on."""
        self._child.send(msgspec.json.encode(word))

    def stop(self) -> None:
        """Have it drain; if it was told before, cancel."""
        # Another signal the second time: of two that are alike, a process that is busy may see one only.
        self._child.signal(signal.SIGINT if self._is_told else signal.SIGTERM)
        self._is_told = True

    def end(self) -> int:
        """Kill it if it is still there, and all that it started; return how it ended, as subprocess does."""
        status = self._child.end()
        end_group(str(self._temporary))
        remove(self._temporary)
        return status


def _make_room(log: Path) -> None:
    """Put a log that has grown large beside, in place of the one before it."""
    try:
        if log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_name(f"{LOG}.previous"))
    except FileNotFoundError:
        return
