"""Items through stages, in one process: a description, and what runs it."""

from sidestage.policy.breaker import Breaker
from sidestage.policy.bulkhead import Bulkhead
from sidestage.policy.rate import Rate
from sidestage.policy.restart import Restart
from sidestage.policy.surge import Surge
from sidestage.stream.aggregates import (
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
from sidestage.stream.cache import Cache, Found
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
from sidestage.stream.costs import Cost, cost
from sidestage.stream.estimates import Estimate
from sidestage.stream.failing import DeadLetter, Default, Raise, SetAside, Skip
from sidestage.stream.flow import Flow
from sidestage.stream.guard import Guard
from sidestage.stream.hot_keys import HotKey, SpillFull
from sidestage.stream.intervals import JoinFull, Unjoined, Waiting
from sidestage.stream.letter_file import LetterFile, read_letters, replay
from sidestage.stream.letter_folder import LetterFolder
from sidestage.stream.letter_reading import LetterChoice, LetterReading
from sidestage.stream.letter_replay import LetterReplay
from sidestage.stream.letter_rows import letter_rows, letter_table
from sidestage.stream.nodes import Manner
from sidestage.stream.settings import Ended, Settings
from sidestage.stream.shaping import BatchSize, Routes
from sidestage.stream.side_tables import SideTable, TableStale
from sidestage.stream.sinks import Called, Collected
from sidestage.stream.spill import Spill
from sidestage.stream.stream import LateStream, Stream
from sidestage.stream.watermarks import EventTime
from sidestage.stream.weights import decoded_pixels
from sidestage.stream.windows import (
    EarlyItem,
    LateItem,
    Windowed,
    WindowPlan,
    session,
    sliding,
    tumbling,
)

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
