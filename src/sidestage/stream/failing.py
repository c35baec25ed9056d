"""What happens to an item that a stage fails on: tried again, skipped, replaced, set aside, or the end."""

import copy
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from sidestage.errors import StreamFailed
from sidestage.policy.failure import RETRYABLE, FailureClass, classify
from sidestage.policy.retry import Retry
from sidestage.stream.chunk import Chunk, Origin, nowhere
from sidestage.stream.contract import Refused, TransactionLost
from sidestage.stream.scopes.scope import Scope

_SHOWN = 200
"""How many characters of an item an error shows."""

_LOOK_SECONDS = 0.1

_MOST_DEATHS = 2
"""An item that has ended so many workers is not tried again."""

FailMode = Literal["fast", "soft"]
"""fast: the first item that nothing else is said about ends the stream; soft: it becomes a dead letter."""


class Raise(msgspec.Struct, frozen=True):
    """End the stream with this error."""


class Skip(msgspec.Struct, frozen=True):
    """Go on without the item; it is counted, and lost."""


class Default(msgspec.Struct, frozen=True):
    """Go on with a value in place of what the stage would have made."""

    value: Any


class SetAside(msgspec.Struct, frozen=True):
    """Make a dead letter of the item, and go on."""


OnError = Raise | Skip | Default | SetAside


class DeadLetter(NamedTuple):
    """An item that was set aside, with all that is known of it.

    ``attempt`` counts the tries, ``origin`` says where the item that it came of was read (None where several
    batches were put together), ``born`` when, in seconds of the monotonic clock. ``trace`` is the trace id of
    that item. ``key`` is that of ``by_key``, None where stages since then have made something else of it.
    """

    stage: str
    item: Any
    error: Exception
    failure_class: FailureClass
    attempt: int
    origin: Origin | None
    born: float
    trace: str | None = None
    key: Any = None


Post = Callable[[DeadLetter], None]
"""Takes a dead letter. It is safe when this returns; or, if it has a ``sync``, when that returns."""


class Kept(NamedTuple):
    """What is to be done with an item after all: go on with ``value``, unless it is ``gone``."""

    gone: bool
    value: Any


_GONE = Kept(gone=True, value=None)


class Leaving(Protocol):
    """A worker's way through items, which can be left between any two of them."""

    def leave(self) -> None:
        """Send whoever goes through items to the end."""
        ...


class Halt:
    """Whether the stream is to stop at once, and why. Shared by all of its workers."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.when_stopped: Callable[[BaseException | None], object] = lambda _error: None
        """Called once, with the error that is told."""
        self.walks: list[Leaving] = []
        """Who goes through items one by one: sent to the end when all is to stop."""
        self.left_behind: list[threading.Thread] = []
        """Threads of user's code that did not end when they were told to."""

    @property
    def is_set(self) -> bool:
        """Whether everybody is to stop."""
        return self._event.is_set()

    def stop(self, error: BaseException | None = None) -> None:
        """Have everybody stop; the first error is the one that is told."""
        with self._lock:
            if self._event.is_set():
                return
            self.error = error
            self._event.set()
        for walk in tuple(self.walks):
            walk.leave()
        self.when_stopped(error)

    def wait(self, seconds: float) -> bool:
        """Wait, unless everybody is to stop; return whether that is so."""
        return self._event.wait(seconds)


class Abandoned(BaseException):  # no policy about failing items is to hear of it
    """Nobody iterates over the stream any more."""


class Stopped(BaseException):  # nobody's code is to catch it as an error of its own
    """The stream is to stop at once."""


class WorkerDied(Exception):
    """The worker that had an item ended, and not for the first time."""

    failure_class = "worker-died"


class StreamDied(Exception):
    """Workers died more often than they may be started again."""


def error_of(raised: BaseException) -> Exception:
    """Return an item's error; what would have ended its worker is one, too, where nothing is tried again."""
    return raised if isinstance(raised, Exception) else WorkerDied(f"its worker would have ended: {raised!r}")


PASS_ON = (Refused, TransactionLost, Stopped, Abandoned, StreamDied, StreamFailed, KeyboardInterrupt)
"""What is never an item's own error."""


class Desk:
    """Where one stage brings the items it fails on. Used by all workers of the stage.

    ``survive`` is told when a worker would have died of an item, and returns when a new one may go on.
    ``key`` returns the key of an item.
    """

    def __init__(
        self,
        stage: str,
        on_error: OnError,
        retry: Retry | None,
        post: Post,
        halt: Halt,
        chance: Callable[[], float],
        survive: Callable[[BaseException], None],
        key: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stage = stage
        self._on_error = on_error
        self._retry = retry
        self._post = post
        self._halt = halt
        self._chance = chance
        self._survive = survive
        self._key = key
        self._lock = threading.Lock()
        self._beside: Callable[[Chunk], None] | None = None
        self.errors: Counter[FailureClass] = Counter()
        self.scope = Scope()
        """Whether somebody cancelled the stage: then its items are counted, and nothing else is decided."""

    @property
    def halt(self) -> Halt:
        """What says whether all is to stop."""
        return self._halt

    def failures(self) -> Counter[FailureClass]:
        """Return how many items the stage has failed on so far, by class."""
        with self._lock:
            return Counter(self.errors)

    def sending_to(self, beside: Callable[[Chunk], None]) -> "Desk":
        """Return this desk as one worker has it who sends what is set aside into a stream, as DeadLetters."""
        mine = copy.copy(self)
        mine._beside = beside  # noqa: SLF001 - it is one of us
        return mine

    def meet(
        self, chunk: Chunk, index: int, item: Any, error: BaseException, again: Callable[[Any], Any]
    ) -> Kept:
        """Decide about an item; ``again`` is called with it if it is to be tried again.

        An error that is no Exception, such as that of ``sys.exit()``, is a worker's death: the item is tried
        once more by what counts as a new worker, and ends no third one. Raises StreamFailed if the stream is
        to end, StreamDied if too many died, Stopped if it ends while this waits.
        """
        try:
            return Kept(gone=False, value=self._again(error, lambda: again(item), chunk))
        except _GivenUpError as raised:
            return self.decide(chunk, index, item, raised.given_up)

    def meet_all(self, chunk: Chunk, error: BaseException, again: Callable[[list[Any]], Any]) -> None:
        """Decide about all items of a chunk, which failed together.

        If trying again cannot help, the items are tried one by one: one of them may spoil it for the others.
        Raises as ``meet`` does, and Refused if that is what came of trying again.
        """
        try:
            self._again(error, lambda: again(chunk.items), chunk)
        except _GivenUpError as raised:
            given_up, ended = raised.given_up, self.scope.error is not None
            alone = len(chunk.items) > 1 and not ended and classify(given_up.error) not in RETRYABLE
            for index, item in enumerate(chunk.items):
                if self._halt.is_set:
                    raise Stopped from error
                if not (alone and self._succeeds(again, item)):
                    self.decide(chunk, index, item, given_up)

    def retried(self, chunk: Chunk, error: BaseException, again: Callable[[], Any]) -> "Kept | GivenUp":
        """Return what came of trying again, undecided if it failed in the end. Raises as ``meet`` does."""
        try:
            return Kept(gone=False, value=self._again(error, again, chunk))
        except _GivenUpError as raised:
            return raised.given_up

    def pause_after(self, attempt: int, error: Exception) -> float | None:
        """Return the seconds to wait before trying again after so many attempts, or None to give up."""
        if self._retry is None:
            return None
        return self._retry.wait_before(attempt, classify(error), self._chance())

    def decide(self, chunk: Chunk, index: int, item: Any, given_up: "GivenUp") -> Kept:
        """Decide about an item that is not tried again. Raises StreamFailed if the stream is to end.

        One that was revoked meanwhile is gone, whatever work on it came to.
        """
        if chunk.is_revoked:
            return _GONE
        if self.scope.error is not None:
            self.scope.give_up(1)
            return _GONE
        error, failure = given_up.error, classify(given_up.error)
        with self._lock:
            self.errors[failure] += 1
        if chunk.trail is not None:
            chunk.trail.failed(self._stage, chunk.trace_of(index), failure)
        match self._on_error:
            case Default(value):
                return Kept(gone=False, value=value)
            case Skip():
                return _GONE
            case SetAside():
                self._let_go(chunk, self._letter(chunk, index, item, given_up))
                return _GONE
        raise failed(self._stage, item, error, chunk, index) from error

    def _let_go(self, chunk: Chunk, letter: DeadLetter) -> None:
        if self._beside is None:
            self._post(letter)
            return
        chunk.hold()
        place = nowhere(1, chunk.tickets) if letter.origin is None else [letter.origin.index]
        one = Chunk([letter], chunk.tickets, chunk.born, place)
        one.trail = chunk.trail
        self._beside(one)

    def _letter(self, chunk: Chunk, index: int, item: Any, given_up: "GivenUp") -> DeadLetter:
        return DeadLetter(
            self._stage,
            item,
            given_up.error,
            classify(given_up.error),
            given_up.attempt,
            chunk.origin_of(index),
            chunk.born,
            chunk.trace_of(index),
            self._key_of(item),
        )

    def _key_of(self, item: Any) -> Any:
        try:
            return None if self._key is None else self._key(item)
        except Exception:  # noqa: BLE001 - the item is what failed already
            return None

    def _again(self, error: BaseException, call: Callable[[], Any], chunk: Chunk) -> Any:
        """Try again as often as is worth it; return what came of it. Raises _GivenUpError, Refused."""
        attempt, deaths = 1, 0
        while True:
            if isinstance(error, PASS_ON):
                raise error
            if self.scope.error is not None:
                raise _GivenUpError(GivenUp(self.scope.error, attempt))
            if isinstance(error, Exception):
                pause = self.pause_after(attempt, error)
                if pause is None:
                    raise _GivenUpError(GivenUp(error, attempt))
                if not self._rests(pause):
                    continue  # the stage was cancelled
            else:
                deaths += 1
                self._survive(error)
                if deaths >= _MOST_DEATHS:
                    died = WorkerDied(f"its worker ended twice: {error!r}")
                    raise _GivenUpError(GivenUp(died, attempt))
            if chunk.is_revoked:
                raise _GivenUpError(GivenUp(WorkerDied("its item was revoked"), attempt))
            attempt += 1
            try:
                return call()
            except BaseException as another:  # noqa: BLE001 - whatever the user's code raises
                error = another

    def _rests(self, pause: float) -> bool:
        """Wait before trying again; return whether that is still wanted. Raises Stopped."""
        while self.scope.error is None:
            if self._halt.wait(min(pause, _LOOK_SECONDS)):
                raise Stopped
            pause -= _LOOK_SECONDS
            if pause <= 0:
                return True
        return False

    def _succeeds(self, call: Callable[[list[Any]], Any], item: Any) -> bool:
        for _ in range(_MOST_DEATHS):
            try:
                call([item])
            except Refused:
                return False
            except PASS_ON:
                raise
            except Exception:  # noqa: BLE001 - the decision about the whole is known already
                return False
            except BaseException as death:  # noqa: BLE001 - a worker's, as in ``meet``
                self._survive(death)
            else:
                return True
        return False


class GivenUp(NamedTuple):
    """Trying again is over, after so many attempts."""

    error: Exception
    attempt: int


class _GivenUpError(Exception):
    """Trying again is over."""

    def __init__(self, given_up: GivenUp) -> None:
        super().__init__()
        self.given_up = given_up


def failed(stage: str, item: Any, error: Exception, chunk: Chunk, index: int) -> StreamFailed:
    """Return the error that ends a stream because of one item."""
    origin, where = chunk.origin_of(index), ""
    if origin is not None:
        trace = chunk.trace_of(index)
        where = f" (item {origin.index} of the batch at {origin.first} of {origin.part}, trace {trace})"
    return StreamFailed(
        f"The stage {stage!r} failed on {shown(item)}{where}: {type(error).__name__}: {error}",
        hint='Repair it, or let the stream carry on: on_error=SetAside() on the stage, or run(fail="soft").',
    )


def shown(item: Any, most: int = _SHOWN) -> str:
    """Return what an item looks like, in so many characters at most; its own code may raise what it likes."""
    try:
        text = repr(item)
    except Exception as error:  # noqa: BLE001 - whatever its own code raises
        text = f"<{type(item).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= most else f"{text[:most]}..."
