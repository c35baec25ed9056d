"""How much of the host one attempt may use."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from sidestage.errors import DefinitionError

LOG_BYTES = 1_000_000
"""Bytes kept of what an attempt prints, unless told otherwise."""

_UNITS = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?I?B)\s*", re.IGNORECASE | re.ASCII)
_MOST = 1 << 62  # what the system's own calls can carry
_MINUTE = 60
_SIZE_HINT = 'Give bytes as a number, or text such as "2 GB" or "512 MiB".'
_SECONDS_HINT = "Give seconds above zero, or a timedelta; leave it out for no limit."


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt may use; None means no limit.

    ``memory``: bytes that the worker and all processes it started hold together. ``cpu``: seconds of
    processor time of all of them. ``time``: seconds by the clock. ``files``: files that each process may
    have open. ``temporary``: bytes in the attempt's temporary folder. ``output``: bytes, as they are stored,
    of the version that is made. ``log``: bytes of what is printed that are kept.

    Sizes may be given as text ("2 GB", "512 MiB") and times as timedelta; the fields hold plain numbers.
    Raises DefinitionError for what makes no sense.
    """

    memory: int | None = None
    cpu: float | None = None
    time: float | None = None
    files: int | None = None
    temporary: int | None = None
    output: int | None = None
    log: int = LOG_BYTES

    if TYPE_CHECKING:  # what may be given is wider than what is held

        def __init__(
            self,
            *,
            memory: int | str | None = None,
            cpu: float | timedelta | None = None,
            time: float | timedelta | None = None,
            files: int | None = None,
            temporary: int | str | None = None,
            output: int | str | None = None,
            log: int | str = LOG_BYTES,
        ) -> None: ...

    def __post_init__(self) -> None:
        normal: dict[str, int | float | None] = {
            "memory": _bytes("memory", self.memory, least=1),
            "cpu": _seconds("cpu", self.cpu),
            "time": _seconds("time", self.time),
            "files": _count(self.files),
            "temporary": _bytes("temporary", self.temporary, least=0),
            "output": _bytes("output", self.output, least=1),
            "log": _log(self.log),
        }
        for name, value in normal.items():
            msgspec.structs.force_setattr(self, name, value)

    def merged(self, over: "Limits") -> "Limits":
        """Return the fields of this one where they are set, else those of ``over``.

        ``log`` counts as set if it differs from its default.
        """
        chosen: dict[str, Any] = {}
        for field in msgspec.structs.fields(self):
            own = getattr(self, field.name)
            chosen[field.name] = getattr(over, field.name) if own == field.default else own
        return Limits(**chosen)


def size_text(size: float) -> str:
    """Return a number of bytes as people say it, to four digits: "2.147 GB"."""
    for unit in ("TB", "GB", "MB", "kB"):
        factor = _UNITS[unit.upper()]
        if size >= factor:
            return f"{size / factor:.4g} {unit}" if size < 1000 * factor else f"{size / factor:.0f} {unit}"
    return f"{size:.0f} bytes"


def seconds_text(seconds: float) -> str:
    """Return a duration as people say it: "12.5 s", "1 h 5 min"."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours else rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def size_of(given: object, what: str, *, least: int = 1) -> int:
    """Return a size that is given in bytes or as text ("2 GB", "512 MiB").

    Raises DefinitionError, which calls it ``what``, for anything else and for less than ``least``.
    """
    size = given
    if isinstance(given, str):
        match = _SIZE.fullmatch(given)
        size = int(Decimal(match[1]) * _UNITS[match[2].upper()]) if match else None
    if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= _MOST:
        raise DefinitionError(f"{what}={ascii(given)[:60]} makes no sense.", hint=_SIZE_HINT)
    return size


def _bytes(name: str, given: object, *, least: int) -> int | None:
    if given is None:
        return None
    try:
        return size_of(given, name, least=least)
    except DefinitionError:
        raise _refusal(name, given, _SIZE_HINT) from None


def _log(given: object) -> int:
    size = _bytes("log", given, least=0)
    if size is None:
        raise _refusal("log", given, _SIZE_HINT)
    return size


def _seconds(name: str, given: object) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    # Written so that nan fails, too.
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 < seconds <= timedelta.max.total_seconds()
    ):
        raise _refusal(name, given, _SECONDS_HINT)
    return float(seconds)


def _count(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= _MOST:
        raise _refusal("files", given, "Give the number of files that may be open at once, such as 1024.")
    return given


def _refusal(name: str, given: object, hint: str) -> DefinitionError:
    return DefinitionError(f"Limits({name}={ascii(given)[:60]}) makes no sense.", hint=hint)
