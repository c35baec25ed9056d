"""Runs a stream: a thread for each worker, from the first item to the last, or until told to stop."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import thread_time
from typing import Any

from sidestage.clock import Clock
from sidestage.errors import StreamHangs
from sidestage.events import Phase
from sidestage.stream.assembly import Assembly
from sidestage.stream.barrier import Barrier
from sidestage.stream.chains import Chain, Lane
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import Positions, Reader
from sidestage.stream.failing import Abandoned, Stopped, StreamDied
from sidestage.stream.feed import READ_SECONDS, Feed
from sidestage.stream.layout import Segment
from sidestage.stream.life.life import Life, hanging_text
from sidestage.stream.mailbox import Inlet
from sidestage.stream.memory.budget import MemoryCounts
from sidestage.stream.memory.intake import Intake
from sidestage.stream.nodes import MapNode, SinkNode, SourceNode, WindowNode
from sidestage.stream.observing.exposition import exposition, of_sinks
from sidestage.stream.observing.metrics import StageCounts
from sidestage.stream.observing.watch import Watch
from sidestage.stream.operators import Step
from sidestage.stream.outlets import Turn
from sidestage.stream.scopes.cancelling import Cancelling
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.transactions import Transactions


class Engine(Cancelling):
    """One run of a stream. ``run`` it, or ``start`` it, do other things, and ``join`` it."""

    def __init__(
        self, assembly: Assembly, settings: Settings, clock: Clock, checkpoint: Checkpoint | None = None
    ) -> None:
        self._assembly = assembly
        self._settings = settings
        self._clock = clock
        self._checkpoint = checkpoint
        self._halt = assembly.halt
        self._barrier: Barrier | None = None
        self._draining = threading.Event()
        self._drained = threading.Event()
        self._at_work = 0
        self._lock = threading.Lock()
        self.life = Life(_name(assembly), clock, assembly.listener, self._halt, self._undo)
        self._began = 0.0
        self._cpu = 0.0
        self._feeds: dict[str, Feed] = {}

    @property
    def _keeper(self) -> Transactions | Checkpoint | None:
        """Where its progress is kept, if anywhere."""
        return self._assembly.transactions or self._checkpoint

    def _new_barrier(self) -> Barrier | None:
        """Return what takes checkpoints of all together, if there is need of it."""
        keeper, windows = self._keeper, self._assembly.windows
        if keeper is None:
            return None
        windows.go_on_from(keeper.progress.states)
        if self._assembly.transactions is None and not windows.names:
            return None
        sources = sum(isinstance(node, SourceNode) for node in self._assembly.layout.nodes)
        sync = self._assembly.letters.sync
        return Barrier(keeper, windows, sources, self._halt, sync, self._settings.commit_every)

    def run(self) -> Ended:
        """Run to the end. An interruption cancels. Raises what ended it too early, StreamHangs.

        That is TransactionLost if a sink did not commit: a new engine goes on from what it had committed.
        """
        self.life.require_new()
        has_waited = False
        try:
            self._start()
            has_waited = True
            return self.join()
        except BaseException as error:
            if not (has_waited and isinstance(error, Exception)):
                hanging = self.cancel(type(error).__name__, grace=self._settings.grace)
                if hanging:
                    error.add_note(hanging_text(hanging))
            raise

    @property
    def phase(self) -> Phase:
        """Where it is in its life; the listener hears of each turn."""
        return self.life.phase

    @property
    def grace(self) -> float:
        """How many seconds its workers may take to end once they are told to."""
        return self._settings.grace

    @property
    def is_over(self) -> bool:
        """Whether all of its workers have ended."""
        return self.life.is_over

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all of its workers have ended, or for so many seconds; return whether they have."""
        return self.life.wait(seconds)

    def start(self) -> None:
        """Begin, once. Raises DefinitionError, DataError, RuntimeError, and what a transactional sink raises.

        RuntimeError: the system gives no threads for it. Nothing runs after an error.
        """
        self.life.require_new()
        self._start()

    def _start(self) -> None:
        try:
            self._began = self._clock.monotonic()
            self._at_work = sum(segment.threads for segment in self._assembly.layout.segments)
            self.life.begin(self._at_work)
            if self._checkpoint is not None:
                self._checkpoint.begin_use(self)
            if self._assembly.transactions is not None:
                self._assembly.transactions.open()
            self._barrier = self._new_barrier()
            if self._barrier is not None:
                self._assembly.scopes.goes_on = True
                if self._draining.is_set():
                    self._assembly.keeps_windows.set()
                self._start_thread("checkpoints", partial(self._barrier.watch, self._drained))
            retuner = self._assembly.retuner()
            if retuner is not None:
                self._start_thread("buffers", partial(retuner.watch, self._drained, self._halt))
            for segment in reversed(self._assembly.layout.segments):
                for number in range(segment.threads):
                    self._start_one(segment, number)
        except Exception as error:
            self._halt.stop(error)
            raise
        except BaseException as interruption:
            self.cancel(type(interruption).__name__)
            raise
        finally:
            self.life.leave()

    def join(self, *, within: float | None = None) -> Ended:
        """Wait for the end. Raises what ended it too early, StreamHangs if it was told to stop and does not.

        Once it is told to stop it may take ``within`` seconds (None: the grace of its settings).
        """
        self.life.require_begun()
        grace = self._settings.grace if within is None else within
        while not self.wait(READ_SECONDS) and not self._halt.is_set:
            pass
        hanging = () if self.wait(grace) else self.life.name_hanging(grace)
        if self._halt.error is not None:
            if hanging:
                self._halt.error.add_note(hanging_text(hanging))
            raise self._halt.error
        if hanging:
            raise StreamHangs(hanging_text(hanging), hint="Give calls that may block a timeout of their own.")
        complete = not (self._halt.is_set or self._draining.is_set())
        seconds = self._clock.monotonic() - self._began
        cpu = self._cpu + self._assembly.cpu_elsewhere()
        reading = sum(feed.reading_cpu() for feed in self._feeds.values())
        return Ended(
            complete, seconds, self._assembly.letters.count, self.counts(), cpu, reading, self.memory()
        )

    def drain(self, why: str = "request") -> None:
        """Read nothing more; finish what is under way. With a checkpoint open windows stay as they are."""
        if self._barrier is not None:
            self._assembly.keeps_windows.set()
        try:
            self.life.turn("drain", why)
        finally:
            self._draining.set()

    def cancel(self, why: str = "request", *, grace: float = 0.0) -> tuple[str, ...]:
        """Stop as soon as may be; what is under way is not settled, and comes again next time.

        Waits up to ``grace`` seconds for the workers to end, and returns the names of the threads that do
        not: somebody's code does not return, and a thread cannot be ended from outside. They are told to the
        listener, too. Without a grace it returns at once, with no names.
        """
        try:
            if not self.is_over:
                self.life.turn("cancel", why)
        finally:
            self._halt.stop()
        if not grace:
            return ()
        self.wait(grace)
        return self.life.name_hanging(grace)

    def counts(self) -> tuple[StageCounts, ...]:
        """Return what each stage did so far."""
        return self._assembly.counts()

    def lags(self) -> dict[str, float]:
        """Return, by source, the age in seconds of the oldest items that are under way; 0 if none are."""
        return {name: feed.lag() for name, feed in dict(self._feeds).items()}

    def memory(self) -> MemoryCounts | None:
        """Return what is held by now, if ``Settings(memory=...)`` says how much may be."""
        return self._assembly.memory()

    def advice(self) -> str:
        """Return who holds the others up of late, and what to do about it, as a sentence."""
        return self._assembly.recent.advice(self.counts())

    def metrics(self) -> str:
        """Return all metrics in the text format that Prometheus reads, with what the sinks have to say."""
        sinks = (node.sink for node in self._assembly.layout.nodes if isinstance(node, SinkNode))
        asides = (node.beside for node in self._assembly.layout.nodes if isinstance(node, WindowNode))
        engine = exposition(self.counts(), self.lags(), self.memory())
        return engine + self._assembly.kept_metrics() + of_sinks([*sinks, *asides])

    def _start_one(self, segment: Segment, number: int) -> None:
        names = self._assembly.layout.names
        name = f"{names[segment.head]} {number + 1}"
        work: Callable[[], None]
        if isinstance(segment.head, SourceNode):
            work = partial(self._feed, segment, segment.head)
        else:
            inlet = self._assembly.inlet(segment, number)
            turns = self._assembly.turns.get(segment)
            turn, watch = None if turns is None else Turn(turns), Watch(self._assembly.spans)
            lane = Lane(segment, number, turn=turn, watch=watch)
            work = partial(self._serve, lane, inlet)
        self._start_thread(name, work)

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        self.life.start(name, partial(self._guarded, work))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except (Exception, Abandoned) as error:  # noqa: BLE001 - told by join
            self._halt.stop(error)
        except BaseException as death:  # noqa: BLE001 - or whoever waits would end with it
            died = StreamDied(f"A worker ended: {death!r}")
            died.__cause__ = death
            self._halt.stop(died)
        finally:
            with self._lock:
                self._cpu += thread_time()

    def _serve(self, lane: Lane, inlet: Inlet) -> None:
        """Do the stages of a segment on what comes into its mailbox."""
        head = lane.segment.head
        with lane.closing():
            if isinstance(head, MapNode) and head.is_async:
                stage, following = Chain(self._assembly, lane).coroutine_stage(head)
                self.life.opened()
                stage.serve(inlet, following)
            else:
                step = Chain(self._assembly, lane).first_step()
                self.life.opened()
                self._work(lane, inlet, step)
                step.finish()
        self._has_ended()

    def _work(self, lane: Lane, inlet: Inlet, step: Step) -> None:
        turn, watch = lane.turn, lane.watch
        monotonic, halt = self._clock.monotonic, self._halt
        while True:
            due = step.due()
            chunk = inlet.take(None if due is None else max(0.0, due - monotonic()))
            if chunk is not None:
                if halt.is_set:
                    raise Stopped
                watch.begin(chunk)
                if turn is None:
                    step.push(chunk)
                else:
                    turn.begin(chunk.sequence)
                    step.push(chunk)
                    turn.end()
                if watch.on:
                    watch.rest()
            elif inlet.asks_to_flush():
                step.flush()
            elif inlet.is_over:
                return
            if due is not None and monotonic() >= due:
                step.tick(monotonic())

    def _feed(self, segment: Segment, node: SourceNode) -> None:
        """Read a source to its end, or until told to drain."""
        lane = Lane(segment, 0, watch=Watch(self._assembly.spans))
        name, transactions = self._assembly.layout.names[node], self._assembly.transactions
        keeper = self._keeper
        reader: Reader[Any] = node.source.open({} if keeper is None else keeper.positions(name))
        with ExitStack() as stack:
            stack.callback(self._note_left_behind, reader)
            stack.callback(reader.close)
            if transactions is not None:
                transactions.read_by(name, reader)
            with lane.closing():
                step = Chain(self._assembly, lane).first_step()
                keep = partial(self._keep, name) if self._barrier is None else None
                is_bound = transactions is not None
                feed = Feed(
                    name, reader, step, self._settings, self._clock, keep, lane.watch, is_bound=is_bound
                )
                feed.incoming = node.incoming
                feed.intake = self._intake(node)
                feed.pace = self._assembly.paces.of_sources.get(node)
                self._feeds[name] = feed
                self._assembly.arrivals.begin(name, feed)
                stack.callback(feed.commit)
                self.life.opened()
                self.life.await_boot()
                if self._read(feed):
                    self._assembly.arrivals.end(name)
                feed.finish()
            self._await_the_others(feed)

    def _read(self, feed: Feed) -> bool:
        """Push on all that a source gives; return whether that is all that it has. Raises Stopped."""
        stopped = False
        while True:
            if self._halt.is_set:
                raise Stopped
            if self._draining.is_set() and not stopped:
                feed.stop()
                stopped = True
            if not feed.go_on():
                return not stopped
            if self._barrier is not None and not feed.holds:
                self._barrier.pass_by(feed)

    def _intake(self, node: SourceNode) -> Intake | None:
        shared = self._assembly
        if shared.budget is None:
            return None
        return Intake(shared.budget.share(), shared.desks[node], node.size, shared)

    def _await_the_others(self, feed: Feed) -> None:
        self._has_ended()
        if self._barrier is not None:
            self._barrier.leave(feed)
            return
        while not self._drained.wait(READ_SECONDS):
            if self._halt.is_set:
                raise Stopped
            feed.commit()

    def _note_left_behind(self, reader: Reader[Any]) -> None:
        thread = getattr(reader, "thread", None)
        if isinstance(thread, threading.Thread) and thread.is_alive():
            self._halt.left_behind.append(thread)

    def _keep(self, source: str, reached: Positions) -> None:
        """Make safe that a source has been dealt with up to somewhere, before it is told so."""
        self._assembly.letters.sync()
        if self._checkpoint is not None:
            self._checkpoint.save(source, reached)

    def _undo(self) -> None:
        """Undo, when all workers have ended, what was not committed, and end the threads of guards."""
        self._assembly.guards.close()
        if self._checkpoint is not None:
            self._checkpoint.end_use(self)
        for store in self._assembly.stores.values():
            store.close()
        if self._assembly.budget is not None:
            self._assembly.budget.close()
        if self._assembly.transactions is not None:
            try:
                self._assembly.transactions.close()
            except Exception as error:  # noqa: BLE001 - told by join
                self._halt.stop(error)

    def _has_ended(self) -> None:
        with self._lock:
            self._at_work -= 1
            if not self._at_work:
                self._drained.set()


def _name(assembly: Assembly) -> str:
    """Return what people would call a stream: its sources."""
    layout = assembly.layout
    return " + ".join(layout.names[node] for node in layout.nodes if isinstance(node, SourceNode))
