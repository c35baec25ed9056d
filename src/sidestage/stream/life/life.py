"""The life of one run: which phase it is in, who is at work, and who does not end although told to."""

import threading
from collections.abc import Callable

from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.events import Event, Listener, Phase
from sidestage.policy.news import News
from sidestage.stream.failing import Halt, Stopped
from sidestage.stream.life.phases import TURNS, Outcome, StreamEnded, ThreadsHang

_LOOK_SECONDS = 0.1

_RANK: dict[Phase, int] = {"boot": 0, "steady": 1, "drain": 2, "cancel": 3, "crash": 4, "ended": 5}


class Life:
    """Phases of a run, which only go forward, and its threads. The listener hears of each turn, in order.

    ``at_last`` is called when all workers have ended.
    """

    def __init__(
        self,
        stream: str,
        clock: Clock,
        listener: Listener | None,
        halt: Halt,
        at_last: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream = stream
        self._clock = clock
        self._halt = halt
        self._at_last = at_last
        self._news = News(listener)
        self._lock = threading.Lock()
        self._phase: Phase = "boot"
        self._outcome: Outcome = "complete"
        self._why = "its sources have come to their end"
        self._opening = 0
        self._booted = threading.Event()
        self._threads: list[threading.Thread] = []
        self._at_work = 1  # whoever starts the others
        self._over = threading.Event()
        self._when_over: list[Callable[[], object]] = []
        self._began = 0.0
        self._is_begun = False
        self._hanging: tuple[str, ...] = ()
        halt.when_stopped = self._stopped

    @property
    def phase(self) -> Phase:
        """The phase now."""
        return self._phase

    def begin(self, workers: int) -> None:
        """Note that so many workers are about to open what they need."""
        self._began = self._clock.monotonic()
        self._opening = workers
        self._note_turn("boot", "start")
        self._news.tell()
        if not workers:
            self._boot()

    def require_new(self) -> None:
        """Note that somebody begins. Raises DefinitionError if somebody has."""
        if self._is_begun:
            raise DefinitionError("This engine was started before.", hint="A new one runs the stream again.")
        self._is_begun = True

    def require_begun(self) -> None:
        """Raise DefinitionError if nobody has begun: there is nothing to wait for."""
        if not self._is_begun:
            raise DefinitionError("This engine was not started.", hint="Call start() before, or run().")

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Have a thread do some work. Raises RuntimeError if the system gives no more threads."""
        begun = threading.Lock()
        thread = threading.Thread(target=self._work, args=(work, begun), name=name, daemon=True)
        with self._lock:
            self._at_work += 1
        self._threads.append(thread)
        try:
            thread.start()
        except BaseException:  # also an interruption, of which nobody knows whether the thread began before
            if begun.acquire(blocking=False):
                self.leave()
            raise

    def leave(self) -> None:
        """Note that one worker less is at work; the last one ends the run."""
        with self._lock:
            self._at_work -= 1
            if self._at_work:
                return
            later, self._when_over = self._when_over, []
        try:
            self._end()
        finally:
            for each in later:
                each()

    def opened(self) -> None:
        """Note that one worker has opened all that it needs; the last one begins the steady phase."""
        with self._lock:
            self._opening -= 1
            if self._opening:
                return
        self._boot()

    def await_boot(self) -> None:
        """Return when all workers have opened what they need. Raises Stopped."""
        while not self._booted.wait(_LOOK_SECONDS):
            if self._halt.is_set:
                raise Stopped

    def turn(self, phase: Phase, why: str) -> None:
        """Come into a phase, unless the run is as far or farther; and tell of it."""
        with self._lock:
            if _RANK[phase] <= _RANK[self._phase]:
                return
            self._phase = phase
            if phase == "drain":
                self._outcome = "drained"
            elif phase in ("cancel", "crash"):
                self._outcome = "cancelled" if phase == "cancel" else "crashed"
            if phase != "steady":
                self._why = why
            self._note_turn(phase, why)
        self._news.tell()

    def tell(self, event: Event) -> None:
        """Have the listener hear of an event, after those before it."""
        self._news.note(event)
        self._news.tell()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all threads have ended, or for so many seconds; return whether they have."""
        left = seconds
        while not self._over.wait(_LOOK_SECONDS if left is None else max(0.0, min(left, _LOOK_SECONDS))):
            if left is not None:  # by slices, so that an interruption is heard on every system
                left -= _LOOK_SECONDS
                if left <= 0:
                    return False
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():  # a listener may wait
                thread.join()  # has told that it is over: nothing of it is left to wait for
        return True

    @property
    def is_over(self) -> bool:
        """Whether all workers have ended."""
        return self._over.is_set() or not self._threads

    def when_over(self, call: Callable[[], object]) -> None:
        """Call something once all workers have ended, in the thread of the last; at once if they have."""
        with self._lock:
            if self._at_work:
                self._when_over.append(call)
                return
        call()

    def name_hanging(self, seconds: float) -> tuple[str, ...]:
        """Return the names of the threads that have not ended within so many seconds, and tell them once."""
        alive = [*self._threads, *self._halt.left_behind]
        names = tuple(thread.name for thread in alive if thread.is_alive())
        if names and names != self._hanging:
            self._hanging = names
            self.tell(ThreadsHang(self._clock.now(), self.stream, names, seconds))
        return names

    def _work(self, work: Callable[[], None], begun: threading.Lock) -> None:
        if not begun.acquire(blocking=False):
            return
        try:
            work()
        finally:
            self.leave()

    def _boot(self) -> None:
        self.turn("steady", "everything is open")
        self._booted.set()

    def _end(self) -> None:
        self._at_last()
        left = tuple(thread.name for thread in self._halt.left_behind if thread.is_alive())
        now = self._clock.now()
        if left:
            self._news.note(ThreadsHang(now, self.stream, left, 0.0))
        with self._lock:
            self._phase = "ended"
            seconds = self._clock.monotonic() - self._began
            self._news.note(StreamEnded(now, self.stream, self._why, self._outcome, seconds))
        self._over.set()
        self._news.tell()

    def _stopped(self, error: BaseException | None) -> None:
        if error is None:
            self.turn("cancel", "request")
        else:
            self.turn("crash", f"{type(error).__name__}: {error}")

    def _note_turn(self, phase: Phase, why: str) -> None:
        self._news.note(TURNS[phase](self._clock.now(), self.stream, why))


def hanging_text(threads: tuple[str, ...]) -> str:
    """Say which threads do not end."""
    return f"The stream was told to stop, but some of its threads do not return: {', '.join(threads)}."
