"""Items through stages, in one process: a description, and what runs it."""

from sidestage.policy.breaker import Breaker
from sidestage.policy.bulkhead import Bulkhead
from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.policy.surge import Surge
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import (
    Batch,
    Progress,
    Reader,
    Refused,
    Sink,
    Source,
    TransactionalSink,
    TransactionalWriter,
    TransactionLost,
    Writer,
)
from sidestage.stream.failing import DeadLetter, Default, Raise, SetAside, Skip
from sidestage.stream.flow import Flow
from sidestage.stream.guarding.guard import Guard
from sidestage.stream.joins.interval_plan import JoinFull, Unjoined, Waiting
from sidestage.stream.joins.side_tables import SideTable, TableStale
from sidestage.stream.keys.hot_keys import HotKey, SpillFull
from sidestage.stream.keys.spill import Spill
from sidestage.stream.letters.file import LetterFile, read_letters, replay
from sidestage.stream.letters.folder import LetterFolder
from sidestage.stream.letters.reading import LetterChoice, LetterReading
from sidestage.stream.letters.replay import LetterReplay
from sidestage.stream.letters.rows import letter_rows, letter_table
from sidestage.stream.lookups.cache import Cache, Found
from sidestage.stream.memory.weights import decoded_pixels
from sidestage.stream.nodes import Manner
from sidestage.stream.observing.costs import Cost, cost
from sidestage.stream.observing.estimates import Estimate
from sidestage.stream.places.sinks import Called, Collected
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.shaping import BatchSize, Routes
from sidestage.stream.stream import LateStream, Stream
from sidestage.stream.windows.aggregates import (
    Fold,
    collect,
    count,
    distinct,
    largest,
    mean,
    smallest,
    together,
    total,
)
from sidestage.stream.windows.plan import (
    EarlyItem,
    LateItem,
    Windowed,
    WindowPlan,
    session,
    sliding,
    tumbling,
)
from sidestage.stream.windows.watermarks import EventTime

__all__ = [
    "Batch",
    "BatchSize",
    "Breaker",
    "Bulkhead",
    "Cache",
    "Called",
    "Checkpoint",
    "Collected",
    "Cost",
    "DeadLetter",
    "Default",
    "EarlyItem",
    "Ended",
    "Estimate",
    "EventTime",
    "Flow",
    "Fold",
    "Found",
    "Guard",
    "HotKey",
    "JoinFull",
    "LateItem",
    "LateStream",
    "LetterChoice",
    "LetterFile",
    "LetterFolder",
    "LetterReading",
    "LetterReplay",
    "Manner",
    "Progress",
    "Raise",
    "Rate",
    "Reader",
    "Refused",
    "Restart",
    "Routes",
    "SetAside",
    "Settings",
    "SideTable",
    "Sink",
    "Skip",
    "Source",
    "Spill",
    "SpillFull",
    "Stream",
    "Surge",
    "TableStale",
    "TransactionLost",
    "TransactionalSink",
    "TransactionalWriter",
    "Unjoined",
    "Waiting",
    "WindowPlan",
    "Windowed",
    "Writer",
    "collect",
    "cost",
    "count",
    "decoded_pixels",
    "distinct",
    "largest",
    "letter_rows",
    "letter_table",
    "mean",
    "read_letters",
    "replay",
    "session",
    "sliding",
    "smallest",
    "together",
    "total",
    "tumbling",
]
