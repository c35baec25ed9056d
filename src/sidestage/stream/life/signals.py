"""A stream as a service: the first signal drains it, the second cancels it, and handlers are put back."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sidestage.clock import Clock
from sidestage.errors import StreamHangs
from sidestage.policy.restart import Restart
from sidestage.stream.engine import Engine
from sidestage.stream.life.phases import SignalsUnheard
from sidestage.stream.life.recovery import run_again_if_lost
from sidestage.stream.settings import Ended

_LOOK_SECONDS = 0.05
_MOST_HEEDED = 2
HEEDED = (signal.SIGTERM, signal.SIGINT)


class Told:
    """Which signals came. A handler may interrupt anything, so all it does is to note them."""

    def __init__(self) -> None:
        self.signals: list[str] = []

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal: a handler."""
        self.signals.append(signal.Signals(number).name)

    def rest(self, seconds: float) -> None:
        """Wait for so long, unless a signal came or comes."""
        never = threading.Event()
        while seconds > 0 and not self.signals:
            never.wait(min(seconds, _LOOK_SECONDS))
            seconds -= _LOOK_SECONDS


@contextmanager
def heard(told: Told) -> Iterator[bool]:
    """Have SIGTERM and SIGINT noted instead of acted upon; put the handlers back in the end.

    Yields whether they are heard: outside the main thread no handler may be set, and none is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {number: signal.getsignal(number) for number in HEEDED}
    try:
        for number in HEEDED:
            signal.signal(number, told.note)
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def serve(begin: Callable[[], Engine], restart: Restart, clock: Clock, grace: float | None) -> Ended:
    """Run to the end; drain at the first signal, cancel at the second.

    A drain that takes longer than ``grace`` seconds becomes a cancellation. Another signal then stops the
    wait for threads that hang. ``begin`` returns a new engine, which is needed again if a transaction is
    lost. Raises as ``Flow.run`` does.
    """
    told = Told()
    with heard(told) as is_heard:

        def run() -> Ended:
            engine = begin()
            if not is_heard:
                thread = threading.current_thread().name
                engine.life.tell(SignalsUnheard(clock.now(), engine.life.stream, thread))
            return _run(engine, told, clock, grace)

        return run_again_if_lost(run, restart, clock, told.rest)


def _run(engine: Engine, told: Told, clock: Clock, grace: float | None) -> Ended:
    starting = _Starting(engine)
    until: float | None = None
    while not (starting.is_over and engine.wait(_LOOK_SECONDS)) and engine.phase in (
        "boot",
        "steady",
        "drain",
    ):
        starting.wait(_LOOK_SECONDS)
        if told.signals and engine.phase in ("boot", "steady"):
            engine.drain(f"signal {told.signals[0]}")
        if engine.phase == "drain" and until is None and grace is not None:
            until = clock.monotonic() + grace
        if len(told.signals) > 1:
            engine.cancel(f"second signal, {told.signals[1]}")
        elif until is not None and clock.monotonic() >= until:
            engine.cancel(f"its drain took longer than {grace:g} s")
    _wait_out(engine, told)
    starting.require()
    return engine.join(within=0.0)


def _wait_out(engine: Engine, told: Told) -> None:
    """Wait for the workers to end, as long as they may take and nobody presses any further."""
    left = engine.grace
    while left > 0 and len(told.signals) <= _MOST_HEEDED and not engine.wait(_LOOK_SECONDS):
        left -= _LOOK_SECONDS


class _Starting:
    """The start of an engine, in a thread: a sink that cannot be reached must not keep signals unheard."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, name="start", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        if self._thread.is_alive():
            self._thread.join(seconds)

    def require(self) -> None:
        """Raise what the start raised, StreamHangs if it is not over."""
        if self._engine.wait(0.0):  # then nothing is opened any more
            self._thread.join()
        if self._thread.is_alive():
            raise StreamHangs(
                "The stream was told to stop while it was being started, and a sink does not open.",
                hint="Is its place reachable? Give it a timeout of its own.",
            )
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._engine.start()
        except BaseException as error:  # noqa: BLE001 - raised by require
            self._error = error
