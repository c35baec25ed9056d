"""What a worker and the process of a service say to each other, as JSON."""

import msgspec

from sidestage.events import Phase


class GoOn(msgspec.Struct, frozen=True, tag="go-on"):
    """Go on until the host's uptime is ``until``; be gone, whatever happens, at ``over`` (seconds)."""

    until: float
    over: float


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """First message to the process of a service: which one, of whose code, and its folder (absolute paths).

    ``fingerprint`` is the code that production was given: other code is not run.
    """

    root: str
    service: str
    folder: str
    fingerprint: str
    word: GoOn


class OtherCode(msgspec.Struct, frozen=True, tag="other-code"):
    """The code that lies here is not what production was given; nothing was run."""

    fingerprint: str


class Turned(msgspec.Struct, frozen=True, tag="turned"):
    """The stream came into another phase. ``url`` is where its metrics are served."""

    phase: Phase
    url: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The stream ended by itself. ``complete``: its sources had come to their end."""

    complete: bool


class Broke(msgspec.Struct, frozen=True, tag="broke"):
    """The stream, or the code around it, failed; the trace is in the service's log."""

    message: str


ToService = Serve | GoOn
FromService = OtherCode | Turned | Finished | Broke
