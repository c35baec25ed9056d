"""What ties the process of a service to its worker: it goes on only while it is told to.

A worker that is dead, paused, or cannot reach the store does not tell; another worker may take the service
when the lease is over. Before that the stream is cancelled, and a little later the process is gone, whatever
its code does.
"""

import os
import select
import threading
from collections.abc import Callable

import msgspec

from sidestage.run.service_messages import GoOn, ToService
from sidestage.runtime.channel import Channel

LOST = 75
"""Exit status of a process that was not told to go on."""

_LOOK_SECONDS = 0.25
"""The clock that waiting goes by stands still while the host sleeps: look at the other one now and then."""

_DECODER: msgspec.json.Decoder[ToService] = msgspec.json.Decoder(ToService)


class Tether:
    """Listens in a thread of its own; ``lost`` is called when nothing was heard for too long.

    ``uptime`` returns seconds by a clock that the worker shares; ``leave`` ends the process.
    """

    def __init__(
        self,
        channel: Channel,
        uptime: Callable[[], float],
        word: GoOn,
        lost: Callable[[], None],
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._channel = channel
        self._uptime = uptime
        self._word = word
        self._lost = lost
        self._leave = leave
        self._over = threading.Event()
        self.is_lost = False
        self._thread = threading.Thread(target=self._watch, name="tether", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def end(self) -> None:
        """Stop listening: nothing is under way any more."""
        self._over.set()

    def _watch(self) -> None:
        while self._listen():
            pass
        self.is_lost = True
        # In a thread of its own: to cancel may take longer than there is time.
        threading.Thread(target=self._leave_in_time, name="tether's end", daemon=True).start()
        self._lost()

    def _leave_in_time(self) -> None:
        while (left := self._word.over - self._uptime()) > 0:
            if self._over.wait(min(left, _LOOK_SECONDS)):
                return
        self._leave(LOST)

    def _listen(self) -> bool:
        """Wait for the next word; return False if there was none in time, or never will be."""
        left = max(0.0, self._word.until - self._uptime())
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.poll(min(left, _LOOK_SECONDS) * 1000)
        received = self._channel.receive_ready()
        if received is None:
            return False
        for each in received:
            message = _DECODER.decode(each)
            if isinstance(message, GoOn):
                self._word = message
        # Asked last: the code may have kept this thread from running while words came in time.
        return self._word.until > self._uptime()
