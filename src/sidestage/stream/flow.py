"""What can be run: a description that has come to its sinks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, Unpack, get_args

from sidestage.clock import Clock, SystemClock
from sidestage.errors import DefinitionError
from sidestage.events import Listener
from sidestage.stream.assembly import Assembly
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import TransactionalSink
from sidestage.stream.demands import require_a, require_one_of
from sidestage.stream.engine import Engine
from sidestage.stream.explain import explained
from sidestage.stream.failing import DeadLetter, FailMode
from sidestage.stream.joins.metrics import JOIN_FAMILIES
from sidestage.stream.layout import Layout, lay_out
from sidestage.stream.life.recovery import run_again_if_lost
from sidestage.stream.life.signals import serve
from sidestage.stream.nodes import SinkNode, SourceNode, WindowNode
from sidestage.stream.observing.estimates import Estimate, Known, estimate
from sidestage.stream.observing.exposition import metrics_view
from sidestage.stream.observing.metrics import StageCounts
from sidestage.stream.places.asynchronous import arun
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.shape_nodes import IntervalNode
from sidestage.stream.windows.metrics import WINDOW_FAMILIES


class Terms(TypedDict, total=False):
    """What ``Flow.run`` can be told."""

    fail: FailMode
    dead_letters: Callable[[DeadLetter], None] | None
    checkpoint: Checkpoint | None
    settings: Settings | None
    clock: Clock | None
    listener: Listener | None


class Flow:
    """A stream with its sinks. Immutable; each ``run`` begins anew."""

    __slots__ = ("settings", "sinks")

    def __init__(self, sinks: tuple[SinkNode, ...], settings: Settings | None = None) -> None:
        self.sinks = sinks
        self.settings = settings or Settings()

    def with_settings(self, settings: Settings) -> "Flow":
        """Return the same flow, run with these settings wherever no others are given."""
        return Flow(self.sinks, settings)

    def also(self, *others: "Flow") -> "Flow":
        """Run several together: what they have in common is done once."""
        return Flow((*self.sinks, *(sink for other in others for sink in other.sinks)), self.settings)

    def layout(self) -> Layout:
        """Return which stages share a worker. Raises DefinitionError."""
        return lay_out(self.sinks)

    def explain(self, settings: Settings | None = None) -> str:
        """Return a drawing: which stages share a worker, what may wait where. Raises DefinitionError."""
        return explained(self.layout(), settings or self.settings)

    def metrics_view(self) -> str:
        """Return which metrics a run exports, with their labels. Raises DefinitionError."""
        layout = self.layout()
        sources = {node for node in layout.nodes if isinstance(node, SourceNode)}
        stages = [layout.names[node] for node in layout.nodes if node not in sources]
        kinds = {type(node) for node in layout.nodes}
        more = (WINDOW_FAMILIES if WindowNode in kinds else ()) + (
            JOIN_FAMILIES if IntervalNode in kinds else ()
        )
        return metrics_view(stages, [layout.names[node] for node in layout.nodes if node in sources], more)

    def estimate(
        self,
        rate: float,
        *,
        seconds: Mapping[str, float] | None = None,
        counts: Sequence[StageCounts] = (),
        item_bytes: int = 200,
        settings: Settings | None = None,
    ) -> Estimate:
        """Return what it will need when its sources give ``rate`` items in a second, all together.

        ``seconds`` declares by stage how long an item takes, which goes before what ``counts`` of an earlier
        run say (``Ended.stages``); those also tell how many items reach each stage. ``item_bytes`` is about
        how large an item is. Raises DefinitionError for stages that do not exist, and numbers that make no
        sense.
        """
        known = Known(seconds or {}, counts, item_bytes)
        return estimate(self.layout(), rate, known, settings or self.settings)

    def run(
        self,
        *,
        fail: FailMode = "fast",
        dead_letters: Callable[[DeadLetter], None] | None = None,
        checkpoint: Checkpoint | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        listener: Listener | None = None,
    ) -> Ended:
        """Run until the sources have come to their end and everything is written.

        ``dead_letters`` takes what is set aside, such as a ``LetterFile``. With a ``checkpoint`` reading goes
        on where it says, and it is told how far everything has been dealt with. ``listener`` hears what
        happens, in the threads of workers. If a sink loses a transaction, the stream goes on from what was
        committed, as often as ``Settings.restart`` says. Raises StreamFailed for an
        item that nothing else was said about, and what a source raised.
        """

        def run() -> Ended:
            return self.engine(
                fail=fail,
                dead_letters=dead_letters,
                checkpoint=checkpoint,
                settings=settings,
                clock=clock,
                listener=listener,
            ).run()

        return run_again_if_lost(run, (settings or self.settings).restart, clock or SystemClock())

    async def arun(self, **terms: Unpack[Terms]) -> Ended:
        """Run as ``run`` does, and takes what that takes, without blocking the event loop.

        A task that is cancelled cancels the stream, and waits until it has ended. Raises as ``run`` does.
        """
        settings = terms.get("settings") or self.settings
        return await arun(lambda: self.engine(**terms), settings, terms.get("clock") or SystemClock())

    def serve(self, *, grace: float | None = None, **terms: Unpack[Terms]) -> Ended:
        """Run as a service: SIGTERM or SIGINT drains, a second one cancels. Takes what ``run`` takes.

        A drain may take ``grace`` seconds (None: as long as it takes) and is a cancellation then. The
        handlers of signals are put back in the end. Outside the main thread signals are left alone, which the
        listener is told. Raises as ``run`` does, and StreamHangs.
        """
        restart = (terms.get("settings") or self.settings).restart
        return serve(lambda: self.engine(**terms), restart, terms.get("clock") or SystemClock(), grace)

    def engine(
        self,
        *,
        fail: FailMode = "fast",
        dead_letters: Callable[[DeadLetter], None] | None = None,
        checkpoint: Checkpoint | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        listener: Listener | None = None,
    ) -> Engine:
        """Return what runs it, to be started, looked at, drained and cancelled."""
        require_one_of("fail", fail, get_args(FailMode))
        require_a("checkpoint", checkpoint, (Checkpoint,), 'Checkpoint("file")')
        require_a("settings", settings, (Settings,), "Settings(...)")
        if dead_letters is not None and not callable(dead_letters):
            raise DefinitionError(
                f"dead_letters={dead_letters!r} takes no letters.",
                hint='Give a function, such as letters.append, or LetterFile("file").',
            )
        given = settings or self.settings
        time = clock or SystemClock()
        if checkpoint is not None and any(isinstance(node.sink, TransactionalSink) for node in self.sinks):
            raise DefinitionError(
                "A sink that writes in transactions keeps how far the stream has come.",
                hint="Leave out the checkpoint.",
            )
        assembly = Assembly(self.layout(), given, time, fail=fail, post=dead_letters, listener=listener)
        return Engine(assembly, given, time, checkpoint)
