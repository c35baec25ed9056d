"""What happens in a stream, in the log: a record for each event, never for each item, and no item's contents.

Records go to the logger ``sidestage.stream``. Each has the fields ``event`` (its kind) and ``data`` (what it
says), for whoever formats logs as JSON, and a text of the same.
"""

import logging
from typing import Any

import msgspec

from sidestage.events import Event, Listener

LOGGER = logging.getLogger("sidestage.stream")
LOGGER.addHandler(logging.NullHandler())  # whoever wants to read it says where

_WARNINGS = frozenset({
    "CircuitTurned", "FallbackTurned", "StreamCrashed", "SurgeBegan", "ThreadWrittenOff", "ThreadsHang",
    "WorkerRestarted", "ItemRevoked", "HotKey", "SpillFull",
})  # fmt: skip
"""What somebody should look at; all else is information."""

_TELLS_OF_ITEMS = {"ItemRevoked": ("key",), "HotKey": ("key",)}
"""Fields that show what is in an item."""


class Logged:
    """A listener that logs what happens, and passes it on."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener

    def __call__(self, event: Event, /) -> None:
        """Log an event, and tell it to whoever listens."""
        kind = type(event).__name__
        level = logging.WARNING if kind in _WARNINGS else logging.INFO
        if LOGGER.isEnabledFor(level):
            data = said(event)
            text = " ".join(f"{name}={value!r}" for name, value in data.items())
            LOGGER.log(level, "%s %s", kind, text, extra={"event": kind, "data": data})
        if self._listener is not None:
            self._listener(event)


def said(event: Event) -> dict[str, Any]:
    """Return the fields of an event that may stand in a log: an error is named, and not quoted."""
    kind = type(event).__name__
    hidden = ("at", "runbook", *_TELLS_OF_ITEMS.get(kind, ()))
    data = {name: value for name, value in msgspec.structs.asdict(event).items() if name not in hidden}
    if kind in ("StreamCrashed", "StreamEnded"):
        data["why"] = str(data.get("why", "")).partition(":")[0]  # the text of an error may show an item
    return data
