"""Keeps the services of a project running: one worker holds each, and runs it in a process of its own.

Whoever holds the lease of a service may run it, nobody else. The process is told to go on with each extension
of the lease, and cancels itself before the lease is over if it is not. So whoever takes the service after
that is alone, whatever became of the worker before.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from sidestage.clock import Clock
from sidestage.pipeline.manifest import ServiceSpec
from sidestage.policy.restart import Restarts
from sidestage.project.worlds import PRODUCTION
from sidestage.run.service_messages import Broke, Finished, FromService, GoOn, OtherCode, Serve, Turned
from sidestage.run.service_process import ServiceChild, StartService
from sidestage.run.tether import LOST
from sidestage.runtime.process import died_of
from sidestage.store.contract import Store
from sidestage.store.service_records import ServiceCondition, ServiceNote, ServiceState

LOOK_SECONDS = 0.5
"""How often the store is asked what others hold, and which code production was given."""

OTHER_CODE_SECONDS = 10.0
"""How long a service whose code is not here is left to others before it is looked at again."""

_EXTENSIONS = 5
_UNTIL, _OVER = 0.6, 0.8
"""The parts of a lease after which a process that hears nothing cancels itself, and is gone."""

_GIVEN_UP: frozenset[ServiceCondition] = frozenset({"ended", "failed"})
_CONDITIONS: dict[str, ServiceCondition] = {
    "boot": "starting",
    "steady": "running",
    "drain": "draining",
    "cancel": "draining",
}


class Holder(NamedTuple):
    """Who keeps services: its name, how long it may be silent (seconds), a clock that processes share."""

    name: str
    lease: float
    uptime: Callable[[], float]


class Site(NamedTuple):
    """Where the code of production lies, and the folders of its services, as absolute paths."""

    root: Path
    services: Path


class _Kept:
    """What is known here of one service."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.fence = 0
        self.child: ServiceChild | None = None
        self.restarts = Restarts(spec.terms.restart, random.random)
        self.said = ServiceNote("stopped")
        self.code = ""
        self.asked = 0
        self.url = ""
        self.last: FromService | None = None
        self.extend_at = self.begin_at = self.retry_at = 0.0
        self.word = GoOn(0.0, 0.0)
        self.is_told = False
        self.anew = ""
        """Why it is to be drained and started once more, "" if it is not."""
        self.left: tuple[int, str | None] | None = None
        """How often people had asked for it, and its code, when it was given up; None: nobody looked yet."""


class Keeper:
    """The services of one worker. ``look`` often, from one thread; ``say`` hears what people should know."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        holder: Holder,
        site: Site,
        specs: Iterable[ServiceSpec],
        start: StartService,
        say: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._site = site
        self._start = start
        self._say = say
        self._kept = {spec.id: _Kept(spec) for spec in specs}
        self._look_at = float("-inf")
        self._draining = False
        self._told: set[tuple[str, str]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing."""
        return not any(kept.fence or kept.child is not None for kept in self._kept.values())

    def drain(self) -> None:
        """Take nothing more, and have what runs drain; those that were told before are cancelled."""
        presses, self._draining = self._draining, True
        for kept in self._kept.values():
            if kept.child is not None and (presses or not kept.is_told):
                kept.is_told = True
                kept.child.stop()

    def look(self) -> None:
        """Do what is to be done now. Raises StoreError; whoever does not hear from here stops by itself."""
        for kept in self._kept.values():
            if kept.child is not None:
                self._hear(kept, kept.child)
        now = self._clock.monotonic()
        for kept in self._kept.values():
            if kept.fence and now >= kept.extend_at:
                self._extend(kept)
        for kept in self._kept.values():
            if kept.fence and kept.child is None and (self._draining or now >= kept.begin_at):
                self._go_on(kept)
        if now >= self._look_at and not self._draining:
            self._look_at = now + LOOK_SECONDS
            self._look_around(now)

    def end(self) -> None:
        """End what runs, at once, and give back what is held. Raises StoreError."""
        for kept in self._kept.values():
            if kept.child is not None:
                kept.child.end()
                kept.child = None
        for kept in self._kept.values():
            if kept.fence:
                self._give_back(kept, ServiceNote("stopped", "ended at once", kept.said.restarts))

    def _look_around(self, now: float) -> None:
        """See what others hold, and which code production was given."""
        states = {state.service: state for state in self._store.services()}
        released = self._store.released(PRODUCTION)
        for name, kept in self._kept.items():
            state, code = states.get(name), released.get(name)
            if kept.fence:
                self._compare(kept, state, code)
            elif (now >= kept.retry_at or code != kept.code) and self._may_take(kept, state, code):
                assert code is not None
                self._take(kept, code, 0 if state is None else state.asked)

    def _compare(self, kept: _Kept, state: ServiceState | None, code: str | None) -> None:
        """Begin anew what a person wants to be begun anew, or whose code production has other code for."""
        if state is not None and state.asked != kept.asked:
            kept.asked, kept.anew = state.asked, "somebody asked for it"
        if (code or "") != kept.code:
            kept.code, kept.anew = code or "", "production was given other code"
        if kept.anew and kept.child is not None and not kept.is_told:
            kept.is_told = True
            kept.child.stop()
            self._note(kept, "draining", kept.anew)
        elif kept.anew and kept.child is None:
            kept.begin_at = self._clock.monotonic()

    def _may_take(self, kept: _Kept, state: ServiceState | None, code: str | None) -> bool:
        if code is None:
            self._say_once(
                f"The service {kept.spec.id} waits: production was not given its code.",
                f"The first complete run does that: sidestage run {kept.spec.id.partition('.')[0]}",
            )
            return False
        if state is None:
            return True
        seen = (state.asked, code)
        if state.said.state not in _GIVEN_UP:
            kept.left = seen
            return state.owner is None
        # Given up by a worker. One that was started since tries it once more, or if there is a reason to.
        return state.owner is None and kept.left != seen

    def _take(self, kept: _Kept, code: str, asked: int) -> None:
        began = self._holder.uptime()
        fence = self._hold(kept)
        if fence is None:
            return
        kept.fence, kept.code, kept.asked, kept.left = fence, code, asked, (asked, code)
        kept.restarts = Restarts(kept.spec.terms.restart, random.random)
        kept.said = ServiceNote("stopped")
        self._extended(kept, began)
        self._begin(kept)

    def _extend(self, kept: _Kept) -> None:
        began = self._holder.uptime()  # before the store counts: never longer than it says
        if self._hold(kept) == kept.fence:
            self._extended(kept, began)
            return
        child, kept.child, kept.fence = kept.child, None, 0
        if child is not None:
            child.end()
        self._say(f"The service {kept.spec.id} was taken over by another worker.", "")

    def _hold(self, kept: _Kept) -> int | None:
        return self._store.hold_service(
            kept.spec.id, self._holder.name, lease=self._holder.lease, now=self._clock.now()
        )

    def _extended(self, kept: _Kept, began: float) -> None:
        lease = self._holder.lease
        kept.extend_at = self._clock.monotonic() + lease / _EXTENSIONS
        kept.word = GoOn(began + _UNTIL * lease, began + _OVER * lease)
        if kept.child is not None:
            kept.child.go_on(kept.word)

    def _begin(self, kept: _Kept) -> None:
        """Start the process of a service that is held."""
        name = kept.spec.id
        restarts = kept.said.restarts
        if kept.anew:
            kept.restarts, restarts = Restarts(kept.spec.terms.restart, random.random), 0
        kept.last, kept.is_told, kept.anew, kept.url = None, False, "", ""
        self._note(kept, "starting", kept.said.note, restarts)
        folder = str(self._site.services / name)
        try:
            kept.child = self._start(Serve(str(self._site.root), name, folder, kept.code, kept.word))
        except OSError as error:
            self._again(kept, f"its process cannot be started: {error}")

    def _hear(self, kept: _Kept, child: ServiceChild) -> None:
        is_over = child.is_over  # asked first: what it said before it ended is heard then
        state: ServiceCondition | None = None
        for message in child.heard():
            if isinstance(message, Turned):
                kept.url = message.url
                state = _CONDITIONS.get(message.phase, state)
            else:
                kept.last = message
        if state is not None and kept.fence:
            self._note(kept, state, kept.said.note)
        if is_over:
            kept.child, kept.url = None, ""
            self._ended(kept, child.end())

    def _ended(self, kept: _Kept, status: int) -> None:
        """Decide what becomes of a service whose process is gone."""
        last, restarts = kept.last, kept.said.restarts
        if self._draining:
            self._give_back(kept, ServiceNote("stopped", _how(last, status), restarts))
        elif kept.anew:
            self._go_on(kept)
        elif status == LOST:
            kept.begin_at = kept.extend_at = 0.0  # not before the lease is known to be ours
        elif isinstance(last, OtherCode):
            self._leave_to_others(kept)
        elif isinstance(last, Finished) and last.complete:
            self._give_up(kept, "ended", "its sources have come to their end")
        else:
            self._again(kept, _how(last, status))

    def _go_on(self, kept: _Kept) -> None:
        """Start once more what is held and does not run, or give it back if it may not run."""
        if self._draining:
            self._give_back(kept, ServiceNote("stopped", "", kept.said.restarts))
        elif kept.code:
            self._begin(kept)
        else:
            self._give_back(kept, ServiceNote("waiting", "production has no code for it any more"))

    def _again(self, kept: _Kept, why: str) -> None:
        """Start it again after a pause, if it was not restarted too often."""
        now = self._clock.monotonic()
        pause = kept.restarts.next_pause(now)
        if pause is None:
            self._give_up(kept, "failed", why)
            return
        kept.begin_at = now + pause
        restarts = kept.said.restarts + 1
        self._say(f"The service {kept.spec.id} is started again in {pause:.1f} s: {why}", "")
        self._note(kept, "restarting", why, restarts)

    def _give_up(self, kept: _Kept, state: ServiceCondition, why: str) -> None:
        hint = f"To start it anew: sidestage stream restart {kept.spec.id}"
        self._say(f"The service {kept.spec.id} {state}: {why}", hint)
        kept.left = (kept.asked, kept.code)
        self._give_back(kept, ServiceNote(state, why, kept.said.restarts))

    def _leave_to_others(self, kept: _Kept) -> None:
        kept.retry_at = self._clock.monotonic() + OTHER_CODE_SECONDS
        self._say_once(
            f"The service {kept.spec.id} is left to others: production was given other code than lies here.",
            "Bring this host's copy to the same commit. If the code here is newer: stage and promote it.",
        )
        self._give_back(kept, ServiceNote("waiting", "other code than production's lies where it was tried"))

    def _give_back(self, kept: _Kept, said: ServiceNote) -> None:
        fence, kept.fence = kept.fence, 0
        self._store.note_service(kept.spec.id, fence, said, self._clock.now())
        self._store.release_service(kept.spec.id, fence)

    def _note(self, kept: _Kept, state: ServiceCondition, note: str, restarts: int | None = None) -> None:
        said = ServiceNote(state, note, kept.said.restarts if restarts is None else restarts, kept.url)
        if said != kept.said:
            self._store.note_service(kept.spec.id, kept.fence, said, self._clock.now())
            kept.said = said

    def _say_once(self, message: str, hint: str) -> None:
        if (message, hint) not in self._told:
            self._told.add((message, hint))
            self._say(message, hint)


def _how(last: FromService | None, status: int) -> str:
    match last:
        case Broke(message=message):
            return message
        case Finished():
            return "it was drained or cancelled"
    return f"its process {died_of(status)}" if status >= 0 else f"its process was {died_of(status)}"
