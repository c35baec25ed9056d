"""Which names are allowed, and how a partition key becomes part of a file name.

Names end up in paths, URLs, SQL, logs and on command lines of every operating system; so they are made of
few characters, and nothing is ever escaped. Partition keys come from data and may hold anything; they are
encoded.
"""

import hashlib
import re
from collections.abc import Iterable

from sidestage.errors import NameRefused

DATASET_NAME_LENGTH = 200
DATASET_NAME_DEPTH = 8
TASK_NAME_LENGTH = 100
ENVIRONMENT_NAME_LENGTH = 63
FILE_KEY_LENGTH = 180
PRODUCTION = "production"

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PIPELINE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)
_PLAIN_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_=,+")
_QUOTE_LENGTH = 60
_HASH_LENGTH = 32


def check_dataset_name(name: str) -> str:
    """Return the name of a dataset, such as ``flights/raw``, if it is allowed. Raises NameRefused."""
    segments = name.split("/") if isinstance(name, str) else []
    if (
        not segments
        or len(name) > DATASET_NAME_LENGTH
        or len(segments) > DATASET_NAME_DEPTH
        or not all(_SEGMENT.fullmatch(segment) for segment in segments)
    ):
        allowed = (
            "letters, digits, '_' and '-' in parts that begin with a letter or digit and are joined by '/', "
            f"at most {DATASET_NAME_DEPTH} parts and {DATASET_NAME_LENGTH} characters"
        )
        raise _refused("dataset", name, allowed)
    for segment in segments:
        if segment.lower() in _DEVICES:
            raise _refused(
                "dataset", name, f"any part but {segment!r}, which some systems reserve for a device"
            )
    return name


def check_task_name(name: str) -> str:
    """Return the name of a task if it is allowed. Raises NameRefused."""
    return _checked(
        "task", name, _TASK, TASK_NAME_LENGTH, "letters, digits and '_', not beginning with a digit"
    )


def check_pipeline_name(name: str) -> str:
    """Return the name of a pipeline if it is allowed. Raises NameRefused."""
    allowed = "letters, digits, '_' and '-', beginning with a letter or '_'"
    return _checked("pipeline", name, _PIPELINE, TASK_NAME_LENGTH, allowed)


def check_environment_name(name: str) -> str:
    """Return the name of an environment if it is allowed. Raises NameRefused."""
    allowed = "lower-case letters, digits, '_' and '-', beginning with a letter or digit"
    return _checked("environment", name, _ENVIRONMENT, ENVIRONMENT_NAME_LENGTH, allowed)


def environment_name_from(ref: str) -> str:
    """Return an allowed environment name made of a git reference.

    ``feature/Fix-TZ`` becomes ``feature-fix-tz``. A reference that is too long, or has no letter or digit,
    gets a hash of itself, and one that would read ``production`` becomes ``production-candidate``.
    """
    slug = re.sub(r"[^a-z0-9_]+", "-", ref.lower()).strip("-_")
    if slug == PRODUCTION:
        return f"{PRODUCTION}-candidate"
    if 0 < len(slug) <= ENVIRONMENT_NAME_LENGTH:
        return slug
    mark = hashlib.blake2b(ref.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{slug[: ENVIRONMENT_NAME_LENGTH - 9]}-{mark}".lstrip("-")


def clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are the same but for upper and lower case, or None."""
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None


def file_key(partition_key: str) -> str:
    """Return a partition key as part of a file name: at most 180 of the characters ``a-z 0-9 - _ = , + %``.

    Different keys give different results, also on file systems that ignore case; other bytes than the plain
    ones are written as ``%`` and two digits. Longer results keep their beginning and get a 128-bit hash.
    """
    if not partition_key:
        return "%empty"
    encoded = "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02x}"
        for byte in partition_key.encode("utf-8", "surrogatepass")
    )
    if len(encoded) <= FILE_KEY_LENGTH:
        return encoded
    mark = hashlib.blake2b(encoded.encode(), digest_size=_HASH_LENGTH // 2).hexdigest()
    return f"{encoded[: FILE_KEY_LENGTH - _HASH_LENGTH - 2]}%h{mark}"


def _checked(what: str, name: str, pattern: re.Pattern[str], length: int, allowed: str) -> str:
    if not isinstance(name, str) or len(name) > length or not pattern.fullmatch(name):
        raise _refused(what, name, f"{allowed}, at most {length} characters")
    return name


def _refused(what: str, name: object, allowed: str) -> NameRefused:
    quoted = ascii(name[:_QUOTE_LENGTH] if isinstance(name, str) else name)[: 2 * _QUOTE_LENGTH]
    cut = f"... ({len(name)} characters)" if isinstance(name, str) and len(name) > _QUOTE_LENGTH else ""
    return NameRefused(f"The {what} name {quoted}{cut} is not allowed.", hint=f"Allowed: {allowed}.")
