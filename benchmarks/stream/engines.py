"""Who is measured, in which cases, and with how many items."""

from pathlib import Path

from msgspec import Struct

FOLDER = Path(__file__).parent
PLUMBING, LATENCY, ENRICHMENT, CORES, MEMORY = "plumbing", "latency", "enrichment", "cores", "memory"
CASES = (PLUMBING, LATENCY, ENRICHMENT, CORES, MEMORY)
MILLION = 1_000_000
WAITS = 500
"""Items whose latency is measured: at 100 per second, five seconds."""

EVENTS = 300_000
LONG = 50 * MILLION
WORK = 10_000
"""Items of about a millisecond of work each: so long that starting processes does not count for much."""
QUICK = {PLUMBING: 20, LATENCY: 5, ENRICHMENT: 15, CORES: 10, MEMORY: 100}
"""By what the sizes of a case are divided in the short form."""

REFERENCE = "go-select-16"
"""The engine that plumbing is compared with: a channel for each item, and a stage that can be cancelled."""


class Engine(Struct, frozen=True, kw_only=True):
    """One way to move items. ``sizes`` says how many of them in each case that it takes part in.

    ``environment`` names its requirements; without one it runs on the driver's own interpreter. ``program``
    is a module ``NAME_cases`` in this folder or, in the environment "go", a folder below ``go``.
    """

    name: str
    title: str
    program: str
    variant: str
    sizes: dict[str, int]
    environment: str | None
    note: str = ""

    @property
    def compiled(self) -> bool:
        """Whether it is a program in Go."""
        return self.environment == "go"

    @property
    def missing(self) -> bool:
        """Whether its program is not there."""
        return not self.compiled and not (FOLDER / f"{self.program}_cases.py").exists()

    def size(self, case: str, *, quick: bool) -> int:
        """Return how many items are sent."""
        return max(100, self.sizes[case] // QUICK[case]) if quick else self.sizes[case]


def _engine(program: str, variant: str, title: str, note: str, **sizes: int) -> Engine:
    return Engine(
        name=f"{program}-{variant}",
        title=title,
        program=program,
        variant=variant,
        sizes=sizes,
        environment=program,
        note=note,
    )


def _go(program: str, variant: str, title: str, note: str, **sizes: int) -> Engine:
    return Engine(
        name=f"go-{variant}",
        title=f"Go, {title}",
        program=program,
        variant=variant,
        sizes=sizes,
        environment="go",
        note=note,
    )


def _sidestage(variant: str, title: str, note: str, **sizes: int) -> Engine:
    return Engine(
        name=f"sidestage-{variant}",
        title=f"Sidestage, {title}",
        program="sidestage",
        variant=variant,
        sizes=sizes,
        environment=None,
        note=note,
    )


GUARANTEES = "error routing, acknowledgement, metrics"
SIDESTAGE = (
    _sidestage("fused", "fused", GUARANTEES, plumbing=MILLION, latency=WAITS, memory=LONG),
    _sidestage("threads", "a thread per stage", GUARANTEES, plumbing=MILLION, latency=WAITS, memory=LONG),
    _sidestage("by-key", "by key into 16", GUARANTEES, enrichment=EVENTS),
    _sidestage("processes", "two process workers", GUARANTEES, cores=WORK),
)
GO = (
    _go("plumbing", "select-0", "select with context, unbuffered", "per item", plumbing=MILLION),
    _go(
        *("plumbing", "select-16", "select with context, 16", "per item"),
        plumbing=MILLION,
        latency=WAITS,
        memory=LONG,
    ),
    _go("plumbing", "channel-0", "plain channel, unbuffered", "cannot be cancelled", plumbing=MILLION),
    _go(
        "plumbing", "channel-16", "plain channel, 16", "cannot be cancelled", plumbing=MILLION, latency=WAITS
    ),
    _go("plumbing", "pointers-16", "pointers, plain channel, 16", "cannot be cancelled", plumbing=MILLION),
    _go("plumbing", "chunks-256", "slices of 256, plain channel", "cannot be cancelled", plumbing=MILLION),
    _go("enrichment", "standard", "encoding/json", "select with context, 16", enrichment=EVENTS),
    _go("enrichment", "goccy", "go-json", "select with context, 16", enrichment=EVENTS),
)
ONE_THREAD, BOUNDED = "one thread, calls only", "a thread per stage, bounded"
PLAIN = (
    _engine("plain", "map", "builtin map chain", ONE_THREAD, plumbing=MILLION, latency=WAITS, memory=LONG),
    _engine("plain", "generators", "generator chain", ONE_THREAD, plumbing=MILLION, latency=WAITS),
    _engine(
        *("plain", "simple-queue", "SimpleQueue, threads", "a thread per stage, unbounded"),
        plumbing=MILLION,
        latency=WAITS,
    ),
    _engine("plain", "queue-16", "queue.Queue(16), threads", BOUNDED, plumbing=100_000, latency=WAITS),
    _engine("plain", "queue-1024", "queue.Queue(1024), threads", BOUNDED, plumbing=300_000, latency=WAITS),
    _engine("plain", "asyncio-16", "asyncio.Queue(16)", "a task per stage", plumbing=300_000, latency=WAITS),
    _engine("plain", "orjson", "orjson dictionaries, a loop", "item by item", enrichment=EVENTS),
    _engine("plain", "msgspec", "msgspec Structs, a loop", "item by item", enrichment=EVENTS),
    _engine("plain", "blocks", "msgspec, blocks of lines", "1,000 lines at a time", enrichment=EVENTS),
    _engine("plain", "pool", "multiprocessing.Pool(2)", "16 items at a time", cores=WORK),
    _engine("plain", "executor", "ProcessPoolExecutor(2)", "16 items at a time", cores=WORK),
)
PEERS = (
    _engine(
        *("streamable", "bare", "streamable map", ONE_THREAD), plumbing=MILLION, latency=WAITS, memory=LONG
    ),
    _engine("streamable", "catch", "streamable map, catch", ONE_THREAD, plumbing=MILLION, latency=WAITS),
    _engine("bytewax", "256", "Bytewax, batches of 256", "one worker", plumbing=MILLION, memory=LONG),
    _engine("bytewax", "item", "Bytewax, item-wise", "one worker", plumbing=50_000, latency=WAITS),
    _engine("bytewax", "orjson", "Bytewax, orjson dictionaries", "batches of 256", enrichment=EVENTS),
    _engine("reactivex", "map", "reactivex map", ONE_THREAD, plumbing=300_000, latency=WAITS),
    _engine("aiostream", "map", "aiostream map", "one event loop; GPL", plumbing=50_000, latency=WAITS),
    _engine("streamz", "map", "streamz map", ONE_THREAD, plumbing=50_000, latency=WAITS),
    _engine("pypeln", "thread", "pypeln.thread(16)", BOUNDED, plumbing=20_000, latency=WAITS),
    _engine(
        *("pathway", "functions", "pathway, Python functions", "commits every 1.5 s"),
        plumbing=200_000,
        latency=WAITS,
    ),
    _engine("pathway", "expressions", "pathway, expressions", "calls one function of five", plumbing=200_000),
    _engine("pathway", "commit-10", "pathway, commits every 10 ms", "Python functions", latency=WAITS),
)
ENGINES = (*SIDESTAGE, *GO, *PLAIN, *PEERS)
