"""The processes of one worker that run attempts: started when needed, warm, recycled, watched, stopped."""

import contextlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from sidestage import errors
from sidestage.clock import Clock
from sidestage.data.lake import Lake
from sidestage.pipeline.manifest import Manifest, TaskSpec
from sidestage.run.crews import Answered, CodeLost, Found, Home, WorkerDied
from sidestage.run.hand import Hand
from sidestage.run.messages import Execute, Failed, FromWorker, Loaded, LoadFailed, Written
from sidestage.run.pace import Pace
from sidestage.runtime.poller import Poller

_MOST_FAILED_STARTS = 3
_KILLED_COUNTS = 0.2
"""How much it counts that somebody killed a process while it loaded the code: hardly the code's fault."""

_LOOK_SECONDS = 0.25
"""How often limits, and those who are to stop, are looked at."""


class Waiting(NamedTuple):
    """A request that no process has been given yet."""

    request: Execute
    home: Home


class _Library:
    """What is known of the code of one home."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.error: errors.SidestageError | None = None
        self.failed_starts = 0.0


class Crew:
    """Up to ``slots`` processes that run attempts, each for one home at a time.

    ``start`` starts one for a home. What a process that is gone left half-written in the ``lake`` goes, too.
    """

    def __init__(self, slots: int, start: Callable[[Home], Hand], clock: Clock, lake: Lake) -> None:
        self.slots = slots
        self._start = start
        self._clock = clock
        self._lake = lake
        self._hands: list[Hand] = []
        self._backlog: deque[Waiting] = deque()
        self._libraries: defaultdict[Home, _Library] = defaultdict(_Library)
        self._pace = Pace()
        self._decoder: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
        self._poller: Poller[Hand] = Poller()
        self._looked_at = clock.monotonic()

    def wake_by(self, descriptor: int | None) -> None:
        """Let waiting end when a descriptor is readable, in place of any other that did so before."""
        self._poller.wake_by(descriptor)

    @property
    def free(self) -> int:
        """How many requests it would take now."""
        given = sum(len(hand.requests) for hand in self._hands) + len(self._backlog)
        return self.slots * self._pace.ahead - given

    @property
    def busy(self) -> bool:
        """Whether any request is without an answer."""
        return bool(self._backlog) or any(hand.requests for hand in self._hands)

    def manifest(self, home: Home) -> Manifest | None:
        """Return what the code of a home declares, or None if it is not loaded yet; that begins then."""
        library = self._libraries[home]
        if library.error is not None:
            raise library.error
        if library.manifest is None and not any(hand.home == home for hand in self._hands):
            self._make_room()
            self._begin(home)
        return library.manifest

    def submit(self, request: Execute, home: Home) -> None:
        """Have a request run. Its answer comes from ``collect``."""
        self._backlog.append(Waiting(request, home))
        self._assign()

    def collect(self, timeout: float) -> list[Found]:
        """Return what came in, waiting up to ``timeout`` seconds for the first of it."""
        found: list[Found] = []
        if any(hand.requests or hand.stopping for hand in self._hands):
            timeout = min(timeout, _LOOK_SECONDS)
        deadline = self._clock.monotonic() + timeout
        while True:
            ready = self._poller.ready(timeout)
            for hand, descriptor in ready:
                if hand in self._hands:  # not retired by what was heard just before
                    found += self._heard(hand, descriptor)
            now = self._clock.monotonic()
            only_printed = ready and all(fd == hand.output.fileno() for hand, fd in ready)
            if not only_printed or now >= deadline:
                break
            timeout = deadline - now
        if now - self._looked_at >= _LOOK_SECONDS or any(hand.stopping for hand in self._hands):
            self._looked_at = now
            for hand in tuple(self._hands):
                found += self._looked_at_one(hand)
        self._assign()
        return found

    def stop(self, versions: Collection[str]) -> None:
        """Stop the attempts that would make these versions: nothing more is heard of them."""
        unwanted = frozenset(versions)
        self._backlog = deque(each for each in self._backlog if each.request.version not in unwanted)
        for hand in self._hands:
            hand.stop(unwanted)

    def wind_down(self) -> None:
        """Wait until the attempts that were to stop have done so, which is bounded."""
        while any(hand.stopping for hand in self._hands):
            self.collect(_LOOK_SECONDS / 5)

    def end(self) -> None:
        """End all processes at once, whatever they are doing."""
        for hand in self._hands:
            self._poller.forget(hand)
        for hand in self._hands:
            hand.kill()
        for hand in self._hands:
            hand.end()
            if hand.began:
                self._clear(hand.home, hand.requests[0])
        self._hands.clear()
        self._backlog.clear()
        self._poller.close()

    def _assign(self) -> None:
        """Give waiting requests to processes of their home, starting some where there is room.

        While the oldest ones find no room, nobody is given anything ahead, or they never would.
        """
        ahead = self._pace.ahead
        left: deque[Waiting] = deque()
        while self._backlog:
            waiting = self._backlog.popleft()
            hand = self._hand_for(waiting.home, ahead)
            if hand is None:
                ahead = 1
                left.append(waiting)
            else:
                hand.give(waiting.request)
        self._backlog = left

    def _hand_for(self, home: Home, ahead: int) -> Hand | None:
        mine = [hand for hand in self._hands if hand.home == home and hand.takes_more(ahead)]
        idle = [hand for hand in mine if not hand.requests]
        if idle:
            return idle[0]
        if len(self._hands) < self.slots or self._make_room():
            return self._begin(home)
        return min(mine, key=lambda hand: len(hand.requests), default=None)

    def _make_room(self) -> bool:
        """End an idle process if there are as many as may be; return whether there is room now."""
        if len(self._hands) < self.slots:
            return True
        idle = next((hand for hand in self._hands if hand.is_idle), None)
        if idle is None:
            return False
        self._retire(idle)
        return True

    def _begin(self, home: Home) -> Hand:
        hand = self._start(home)
        self._hands.append(hand)
        self._poller.watch(hand)
        return hand

    def _retire(self, hand: Hand) -> None:
        self._hands.remove(hand)
        self._poller.forget(hand)
        hand.end()

    def _heard(self, hand: Hand, descriptor: int) -> list[Found]:
        if descriptor == hand.output.fileno():
            if not hand.output.drain():
                hand.mute()
                self._poller.forget_descriptor(descriptor)
            return []
        found, is_there = self._read(hand)
        return found if is_there or hand not in self._hands else [*found, *self._gone(hand)]

    def _looked_at_one(self, hand: Hand) -> list[Found]:
        """See to one process; its end may be held open by what it forked, so its death is looked for, too."""
        hand.look()
        if not hand.is_dead:
            return []
        found, _ = self._read(hand)
        return [*found, *self._gone(hand)] if hand in self._hands else found

    def _read(self, hand: Hand) -> tuple[list[Found], bool]:
        """Return what a process said, and whether it is still to be listened to."""
        messages = hand.received()
        if messages is None:
            return [], False
        found: list[Found] = []
        for message in messages:
            try:
                answer = self._decoder.decode(message)
            except msgspec.DecodeError:
                return found, self._silenced(hand)
            match answer:
                case Loaded():
                    found += self._loaded(hand, answer)
                case LoadFailed():
                    return [*found, *self._lost(hand, _error_of(answer))], True
                case Written() | Failed():
                    if not hand.expects(answer):
                        return found, self._silenced(hand)
                    found += self._answered(hand, answer)
            if hand not in self._hands:
                break
        return found, True

    def _silenced(self, hand: Hand) -> bool:
        """Kill a process that does not say what it should: a task wrote where it has no business."""
        hand.kill()
        return False

    def _answered(self, hand: Hand, answer: Written | Failed) -> list[Found]:
        request, wanted, answer = hand.finish(answer)
        if isinstance(answer, Written):
            self._pace.took(answer.seconds)
        if hand.is_spent:
            self._retire(hand)
            if hand.requests:
                self._clear(hand.home, hand.requests[0])
            self._give_back(hand, hand.requests)
        if not wanted:
            self._clear(hand.home, request)
            return []
        return [Answered(request, answer, hand.isolation)]

    def _give_back(self, hand: Hand, requests: Iterable[Execute]) -> None:
        """Let others do what a process was given, and has not begun or will not finish."""
        wanted = [each for each in requests if each.version not in hand.unwanted]
        self._backlog.extendleft(Waiting(each, hand.home) for each in reversed(wanted))

    def _clear(self, home: Home, request: Execute) -> None:
        """Remove what may be left in the lake of a version that nobody will publish."""
        manifest = self._libraries[home].manifest
        task = None if manifest is None else manifest.task_by_id.get(request.task)
        if task is not None:
            dataset = f"{home.area}/{task.writes}" if home.area else task.writes
            with contextlib.suppress(OSError, errors.SidestageError):  # it is found by the next cleanup
                self._lake.remove_unpublished(dataset, request.partition, request.version)

    def _loaded(self, hand: Hand, answer: Loaded) -> list[Found]:
        library = self._libraries[hand.home]
        hand.loaded(answer.isolation)
        library.failed_starts = 0.0
        if library.manifest is None:
            library.manifest = answer.manifest
        changed = _changed(library.manifest, answer.manifest)
        if not changed:
            return []
        error = errors.StaleWorld(
            f"The code of {', '.join(changed)} was changed while it ran.",
            hint="What was published was made by the code before; run again for the rest.",
        )
        return self._lost(hand, error)

    def _lost(self, hand: Hand, error: errors.SidestageError) -> list[Found]:
        """Give up on a home: what its processes have not begun is given back, and they end."""
        home = hand.home
        requests = self._close_home(home, error)
        for mine in [each for each in self._hands if each.home == home]:
            requests += mine.requests
            self._retire(mine)
        return [CodeLost(home, tuple(requests), error)]

    def _gone(self, hand: Hand) -> list[Found]:
        """Say what became of the attempt of a process that is gone; what it had not begun, others do."""
        began, requests, was_stopping = hand.began, tuple(hand.requests), hand.stopping
        self._hands.remove(hand)
        self._poller.forget(hand)
        how = hand.ended()
        self._give_back(hand, requests[1:] if began else requests)
        if not hand.is_loaded and not was_stopping:
            lost = self._failed_to_start(hand, how)
            if lost:
                return lost
        if not began:
            return []
        self._clear(hand.home, requests[0])
        if requests[0].version in hand.unwanted:
            return []
        if hand.doomed:
            failed = Failed(
                step=requests[0].step, failure_class="resource", message=hand.doomed, details="", findings=()
            )
            return [Answered(requests[0], failed, hand.isolation)]
        return [WorkerDied(requests[0], how, hand.isolation)]

    def _failed_to_start(self, hand: Hand, how: str) -> list[Found]:
        """Count a process that died while it loaded the code; give up on its home if that goes on."""
        library = self._libraries[hand.home]
        library.failed_starts += _KILLED_COUNTS if how.endswith("SIGKILL") else 1
        if library.failed_starts > _MOST_FAILED_STARTS:
            printed = hand.output.early().strip()
            error = errors.ConfigurationError(
                f"Workers keep dying while they load the code (the last one {how})."
                + (f" It said: {printed[-2000:]}" if printed else ""),
                hint="Import the pipeline's module by hand to see why.",
            )
            return [CodeLost(hand.home, tuple(self._close_home(hand.home, error)), error)]
        if not self._backlog and library.manifest is None:
            self._begin(hand.home)
        return []

    def _close_home(self, home: Home, error: errors.SidestageError) -> list[Execute]:
        """Load a home's code no more; return what waited for it."""
        self._libraries[home].error = error
        requests = [each.request for each in self._backlog if each.home == home]
        self._backlog = deque(each for each in self._backlog if each.home != home)
        return requests


def worker_environment(slots: int, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the processes: ours, with thread pools that share the processors."""
    threads = str(max(1, (os.cpu_count() or 1) // slots))
    pools = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(pools, threads), **given}


def _changed(first: Manifest, found: Manifest) -> list[str]:
    """Return the tasks whose code differs between two loadings."""
    ours, theirs = _fingerprints(first.tasks), _fingerprints(found.tasks)
    return sorted(task for task in ours.keys() | theirs.keys() if ours.get(task) != theirs.get(task))


def _fingerprints(tasks: Iterable[TaskSpec]) -> dict[str, str]:
    return {task.id: task.fingerprint for task in tasks}


def _error_of(answer: LoadFailed) -> errors.SidestageError:
    kind = getattr(errors, answer.kind, errors.ConfigurationError)
    error: errors.SidestageError = kind(answer.message, hint=answer.hint)
    error.add_note(answer.trace)
    return error
