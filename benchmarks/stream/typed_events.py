"""A log event as a type, for programs whose environment has msgspec."""

import msgspec


class Event(msgspec.Struct):
    """One log event; ``account`` is what enrichment adds."""

    time: str
    user: str
    level: str
    service: str
    path: str
    status: int
    milliseconds: float
    message: str
    account: int = 0
