"""One process that runs attempts, as its worker sees it: what it was given, prints, uses, how it stops."""

import signal
from collections import deque
from collections.abc import Collection
from pathlib import Path

import msgspec

from sidestage.clock import Clock
from sidestage.run.crews import Home
from sidestage.run.messages import Execute, Failed, Written
from sidestage.runtime.orphans import end_group
from sidestage.runtime.output import Output
from sidestage.runtime.process import ChildProcess, died_of
from sidestage.runtime.temporary import remove
from sidestage.runtime.watch import Watch

ASK = signal.SIGUSR1
"""Asks a process to stop what it is doing: the task's code sees an exception."""

_SENT_AHEAD_BYTES = 50_000
"""What a process may have before it that it has not read: more might not fit, and hold its worker up."""


class Patience(msgspec.Struct, frozen=True):
    """Seconds after which an attempt that was asked to stop is told (SIGTERM), and then killed."""

    until_told: float = 1.0
    until_killed: float = 1.5


class Hand:
    """A process of one home, with the requests it was given: the first one runs, the others wait.

    ``temporary`` is its folder for temporary files, which goes with it; the folder's path marks all that the
    process starts as its group. After ``most_attempts`` it is spent, and replaced.
    """

    def __init__(
        self,
        child: ChildProcess,
        home: Home,
        output: Output,
        clock: Clock,
        *,
        temporary: Path,
        most_attempts: int,
        patience: Patience,
    ) -> None:
        self.home = home
        self.output = output
        self.requests: deque[Execute] = deque()
        self.isolation = "process"
        self.is_loaded = False
        self.unwanted: set[str] = set()
        self.doomed = ""
        self._child = child
        self._clock = clock
        self._temporary = temporary
        self._attempts_left = most_attempts
        self._patience = patience
        self._unsent: deque[bytes] = deque()
        self._sent: deque[int] = deque()
        self._watch: Watch | None = None
        self._asked_at: float | None = None
        self._told = False
        self._is_mute = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, and is not loading code that somebody waits for."""
        return self.is_loaded and not self.requests

    @property
    def is_spent(self) -> bool:
        """Whether it ran as many attempts as it may, or was spoilt by one."""
        return self._attempts_left <= 0

    @property
    def is_dead(self) -> bool:
        """Whether it ended, as far as the system knows: others may still hold its end of the channel."""
        return self._child.is_dead

    @property
    def stopping(self) -> bool:
        """Whether what it runs is to stop."""
        return self._asked_at is not None

    @property
    def began(self) -> bool:
        """Whether it had begun the first of its requests."""
        return self.is_loaded and bool(self.requests)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors to listen on."""
        return (self._child.channel.fileno(),) if self._is_mute else (
            self._child.channel.fileno(),
            self.output.fileno(),
        )  # fmt: skip

    def mute(self) -> None:
        """Note that nothing more will be printed."""
        self._is_mute = True

    def takes_more(self, ahead: int) -> bool:
        """Whether it may be given one more request."""
        return (
            not self.stopping
            and len(self.requests) < min(ahead, self._attempts_left)
            and (self.is_loaded or not self.requests)
        )

    def give(self, request: Execute) -> None:
        """Have it run a request after those it has."""
        self.requests.append(request)
        self._unsent.append(msgspec.json.encode(request))
        if self.is_loaded:
            if len(self.requests) == 1:
                self._begin()
            self._send()

    def received(self) -> list[bytes] | None:
        """Return the messages that have come from it, or None if it is gone."""
        return self._child.channel.receive_ready()

    def loaded(self, isolation: str) -> None:
        """Note that it has loaded its code."""
        self.is_loaded = True
        self.isolation = isolation
        if self.requests:
            self._begin()
            self._send()

    def expects(self, answer: Written | Failed) -> bool:
        """Whether an answer is the one to what it runs."""
        return bool(self._sent) and self.requests[0].step == answer.step

    def finish(self, answer: Written | Failed) -> tuple[Execute, bool, Written | Failed]:
        """Return the request that an answer belongs to, and whether anybody wants it."""
        request = self.requests.popleft()
        self._sent.popleft()
        # If it was asked to stop too late, then what follows may be what heard it.
        spoilt = answer.is_last or self.stopping
        self._attempts_left = 0 if spoilt else self._attempts_left - 1
        self.output.end()
        if self.doomed and isinstance(answer, Failed):
            answer = msgspec.structs.replace(answer, failure_class="resource", message=self.doomed)
        wanted = request.version not in self.unwanted
        self.unwanted.discard(request.version)
        self._asked_at, self._told, self.doomed, self._watch = None, False, "", None
        if self.requests and not spoilt:
            self._begin()
            self._send()
        return request, wanted, answer

    def stop(self, versions: Collection[str]) -> None:
        """Have it stop what it runs if that is one of these; those that wait are never wanted again."""
        if not self.is_loaded:  # so nothing was sent yet
            self.requests = deque(each for each in self.requests if each.version not in versions)
            self._unsent = deque(msgspec.json.encode(each) for each in self.requests)
            return
        self.unwanted.update(each.version for each in self.requests if each.version in versions)
        if self.requests and self.requests[0].version in self.unwanted:
            self._ask()

    def look(self) -> None:
        """See to its limits, and to the attempt that was asked to stop."""
        if self._watch is not None and not self.stopping:
            exceeded = self._watch.exceeded()
            if exceeded is not None:
                self.doomed = f"The task {exceeded}; it was stopped."
                self._ask()
        if self._asked_at is None:
            return
        waited = self._clock.monotonic() - self._asked_at
        if waited >= self._patience.until_killed:
            self._child.kill()
        elif waited >= self._patience.until_told and not self._told:
            self._told = True
            self._child.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, without waiting for it to be gone."""
        self._child.kill()

    def end(self) -> str:
        """End it if it is still there, keep what it printed, and say how it ended."""
        how = died_of(self._child.end())
        self._clear_away()
        return how

    def ended(self) -> str:
        """Say how it ended, once it is gone, and keep what it printed."""
        how = died_of(self._child.ended())
        self._clear_away()
        return how

    def _clear_away(self) -> None:
        if not self.is_idle:  # or it has done so itself
            end_group(str(self._temporary))
        remove(self._temporary)
        self.output.end()
        self.output.close()

    def _begin(self) -> None:
        """Note that the first request is what it runs."""
        request = self.requests[0]
        self.output.begin(Path(request.log), request.limits.log)
        limits = request.limits
        if (limits.memory, limits.cpu, limits.time, limits.temporary) != (None, None, None, None):
            self._watch = Watch(self.pid, limits, self._temporary, self._clock)
        if request.version in self.unwanted:
            self._ask()

    def _ask(self) -> None:
        if self._asked_at is None:
            self._asked_at = self._clock.monotonic()
            self._child.signal(ASK)

    def _send(self) -> None:
        while self._unsent and (not self._sent or sum(self._sent) + len(self._unsent[0]) < _SENT_AHEAD_BYTES):
            message = self._unsent.popleft()
            self._sent.append(len(message))
            self._child.send(message)
